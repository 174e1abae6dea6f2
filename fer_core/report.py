"""Notebook in, page out: papermill executes, the template renders, and what is whole is put in its place.

A page counts as finished once its page.json stands, which is written last. Whether a notebook succeeded is known from
papermill returning and from nothing else: metadata say "completed" after a dead kernel and after Ctrl-C as well.
Cheap to import: papermill and nbconvert load inside the functions that need them.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import io
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fer_core import artifacts, bootstrap, glossary, kernels, leaderboard, schema
from fer_core.artifacts import Run, Settings
from fer_core.schema import PACKAGE, ROOT, RUN_PARAMETERS, Page, Params, counted, percent, read_notebook

COMMITTED = ("fer_core", "notebooks", "params")  # what a published figure is made by
TEMPLATES = Path(__file__).parent / "template"
COPIED = (*artifacts.RUN_FILES, "network.csv", artifacts.WATCHED_FILE)
EXPLAINED = {
    "processor": "on one of another type the same seed gives another training, as another seed would",
    "commit": "the checkout's when the training ended",
    "clean": "whether the checkout was as the commit says, nothing changed since",
    "key": "fingerprint of all that bears on training: parameters with the seed, data, code, kind of device, precision "
    "and threads",
    "identity": "fingerprint of parameters and data alone, by which a run is known on another machine",
}
NO_SPACE = "no space left on the device that holds OUT: free some, and run it again"
STAND_IN = "application/vnd.fer.faces+json"  # what the template draws in place of single faces

# What the study sets side by side; the last one is the final model, which validation chooses.
COMPARED = (
    ("01_basic_cnn/default", "02_batch_norm/default"),
    ("02_batch_norm/default", "03_dropout/default"),
    ("03_dropout/default", "04_complex_cnn/default"),
    ("04_complex_cnn/default", "06_final/rare_transforms"),
    ("04_complex_cnn/default", None),
)

# What a kernel may see of the environment. Whatever else there is may be a secret.
KEPT = re.compile(
    "PATH|HOME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|TEMP|TMP|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|"
    "CUDA_HOME|CUDA_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|OMP_NUM_THREADS|MKL_NUM_THREADS|OPENBLAS_.*|PYTHONPATH|PYTHONHASHSEED|"
    "PYTHONDONTWRITEBYTECODE|NETRC|WANDB_MODE|WANDB_PROJECT|WANDB_ENTITY|WANDB_BASE_URL|SYSTEMROOT|SYSTEMDRIVE|WINDIR|"
    "COMSPEC|PATHEXT|APPDATA|LOCALAPPDATA|PROGRAMDATA|USERPROFILE|NUMBER_OF_PROCESSORS"
)


@dataclass(frozen=True)
class Failure:
    """Why a page has no result: number of the code cell, its first line, the error's name, its message on one line."""

    cell: int
    line: str
    error: str
    message: str

    def __str__(self) -> str:
        return f"cell {self.cell} ({self.line}): {self.error}: {self.message}"


@dataclass(frozen=True)
class PageContext:
    """What a page says beside its notebook; `files` are the artifacts in the folder beside it."""

    name: str
    title: str
    dataset: str
    sample: bool = False
    own: bool = False  # whether the data is neither FER2013 nor drawn
    previous: str | None = None
    following: str | None = None
    files: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    tolerance: str = ""
    compared: tuple[str, ...] = ()
    asked: str = ""  # Markdown; else the paragraph of the notebook's first cell that begins with **Asked:**
    provenance: dict[str, str] = field(default_factory=dict)
    colab: str = ""
    stated: str = ""  # the page's YAML as it was written
    ledger: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # of each published run: its name, folder and files
    failure: Failure | None = None

    @property
    def stem(self) -> str:
        return self.name.split("/")[1]

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The files that a reader may want by name: all but the figures' own data."""
        return tuple(name for name in self.files if not name.startswith("figures/"))


# ------------------------------------------------------------------------------------------------------------- execute


def set_text(values: Mapping[str, Any]) -> str:
    """Checked values as SET reads them back: without blanks, exponents as YAML wants them (1.0e-05)."""

    def word(value: Any) -> str:
        text = json.dumps(value, separators=(",", ":"))
        return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text

    return " ".join(f"{name}={word(value)}" for name, value in values.items())


def key_stays_out() -> bool:
    """Whether wandb is online by a key in the environment, which no kernel is told: workers train, pages load."""
    return os.environ.get("WANDB_MODE") == "online" and "WANDB_API_KEY" in os.environ


def kernel_environment(page: str, settings: Settings) -> dict[str, str]:
    """The environment of a page's kernel: the allow-list, and where data, reports and runs lie."""
    kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name.upper())}
    if key_stays_out():
        kept["WANDB_MODE"] = "offline"
    if "WANDB_BASE_URL" in kept:
        kept["WANDB_BASE_URL"] = re.sub(r"//[^/@]*@", "//", kept["WANDB_BASE_URL"])
    return {
        **kept,
        **({"FER_DATA": str(settings.data)} if settings.data else {}),
        "FER_NAME": settings.name,
        "FER_DEVICE": settings.device,
        "FER_OUT": str(settings.out),
        "FER_SET": set_text(settings.set_values),
        "FER_PAGE": page,
        "FER_THREADS": "1",  # JOBS fill the cores
        **({"FER_AFRESH": "1"} if settings.afresh else {}),
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, [kept.get("PYTHONPATH")])]),
        # A user's IPython startup files and matplotlibrc must not change a page; a cluster's home may be read-only.
        "IPYTHONDIR": str(settings.store / "kernel" / "ipython"),
        "MPLCONFIGDIR": str(settings.store / "kernel" / "matplotlib"),
    }


def _failure(notebook: Any, error: str, message: str, settings: Settings) -> Failure:
    """At the cell that raised, or at the last that was started: only that much can be read from the metadata."""
    code = [c for c in notebook.cells if c.cell_type == "code"]
    raised = [c for c in code if any(o.output_type == "error" for o in c.outputs)]
    started = [c for c in code if c.metadata.get("papermill", {}).get("start_time")]
    cell = (raised or started or code)[-1]
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).split())
    words = NO_SPACE if "[Errno 28]" in words else words
    return Failure(code.index(cell) + 1, lines[0][:100] if lines else "", error, hide_paths(words, settings)[:500])


def execute(
    page: Page, values: Mapping[str, Any], target: Path, settings: Settings, zygote: kernels.Zygote | None = None
) -> Failure | None:
    """Run the page's notebook in a kernel of its own, from the repository's root; forked where there is a zygote.

    Parameters
    ----------
    values : what papermill injects after the parameters cell
    target : the executed notebook; of a failure, what there is of it. Written under another name and renamed.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    target.parent.mkdir(parents=True, exist_ok=True)
    environment = kernel_environment(page.name, settings)
    Path(environment["IPYTHONDIR"]).mkdir(parents=True, exist_ok=True)  # IPython warns in the page where it is missing
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part.ipynb")
    source = nbformat.reads(json.dumps(read_notebook(page.notebook)), 4)
    written = str(partial).replace("{", "{{").replace("}", "}}")  # papermill takes braces in paths for parameters
    failed: tuple[str, str] | None = None
    needs_torch = page.notebook != leaderboard.CLAIMS_NOTEBOOK  # a claim's page of finished runs does without
    try:
        with tempfile.TemporaryDirectory(prefix="fer-") as folder:
            try:
                papermill.execute_notebook(
                    source,
                    written,
                    dict(values),
                    kernel_name="python3",
                    language="python",
                    kernel_manager_class=kernels.manager(environment, Path(folder), zygote, needs_torch),
                    start_timeout=180,
                    iopub_timeout=60,  # seconds; its 4 are too few beside other trainings
                    shutdown_kernel="immediate",  # the polite way takes 3 s; all that counts is on disk by then
                    progress_bar=False,
                    record_timing=False,
                    coalesce_streams=True,
                )
            except papermill.PapermillExecutionError as error:
                failed = (error.ename, error.evalue)
            except DeadKernelError:
                failed = ("KernelDied", "the kernel died while this cell ran (killed, or out of memory)")
            except RuntimeError as error:
                if "Kernel" not in str(error):
                    raise
                failed = ("KernelNotStarted", str(error))
        notebook = nbformat.read(partial, 4)
        if not failed and any(o.output_type == "error" for c in notebook.cells for o in c.get("outputs", [])):
            # papermill takes sys.exit() for success, though the cells below it never ran
            failed = ("SystemExit", "the cell ended the notebook before its last cell")
        partial.replace(target)
        return _failure(notebook, *failed, settings) if failed else None
    finally:
        partial.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------- clean


def hide_paths(text: str, settings: Settings | None = None) -> str:
    """`text` without this machine's paths and without addresses of objects in memory."""
    known = {str(Path.home()): "~", sys.base_prefix: "PYTHON", sys.prefix: "PYTHON"}
    if settings:
        known |= {str(settings.data): "DATA", str(settings.out): "OUT"}
    known |= {str(ROOT): "", str(PACKAGE.parent): ""}
    for path in sorted(known, key=len, reverse=True):
        if len(Path(path).parts) > 1:
            text = re.sub(re.escape(path) + (r"(?![\w.-])" if known[path] else r"[/\\]"), known[path], text)
    text = re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "cell", text)
    return re.sub(r"\bat 0x[0-9a-fA-F]{6,}", "at 0x…", text)


def smaller_png(data: str) -> str:
    """A figure as PNG in base64 with a palette: a third of the bytes, and no difference to the eye.

    The commonest colours stay just what they are, so that flat areas and letters keep their colour; each other one
    becomes its nearest of at most 256, a few steps of 255 away: edges' shades, and the colours of heat maps.
    """
    import numpy as np
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    packed = picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    codes, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)  # (n, 3)
    kept = _leading(colours[np.argsort(-counts, kind="stable")])
    nearest = np.stack([np.abs(colours - colour).max(axis=1) for colour in kept]).argmin(axis=0)
    written = io.BytesIO()
    small = Image.fromarray(nearest.astype(np.uint8)[places].reshape(packed.shape))
    small.putpalette(kept.astype(np.uint8).tobytes())
    small.save(written, "PNG", optimize=True)
    return min(data, base64.b64encode(written.getvalue()).decode(), key=len)


def _leading(colours: Any) -> Any:
    """At most 256 of `colours` (n, 3), commonest first, so that each is within the fewest steps of one of them."""
    import numpy as np

    steps = 8
    while True:
        kept: list[Any] = []
        rest = colours
        while len(rest) and len(kept) < 256:
            kept.append(rest[0])
            rest = rest[np.abs(rest - rest[0]).max(axis=1) > steps]
        if not len(rest):
            return np.array(kept)
        steps += 2


def clean(notebook: Any, settings: Settings | None = None) -> Any:
    """The executed notebook without time, machine and chance: the same bytes whenever it is executed.

    Ids are the cells' numbers, execution counts the code cells'; paths and addresses are hidden, figures made smaller.
    """
    import nbformat

    def hidden(value: Any, kind: str = "") -> Any:
        if isinstance(value, dict):
            return {k: hidden(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [hidden(v) for v in value]
        if kind == "execution_count":
            return count
        if not isinstance(value, str) or kind.startswith("image/"):
            return smaller_png(value) if kind == "image/png" and isinstance(value, str) else value
        return hide_paths(value, settings)

    cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    count = 0
    for number, cell in enumerate(cells, 1):
        cell.id = f"cell-{number}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution")}
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count if cell.execution_count is not None or cell.outputs else None
            cell.outputs = [hidden(output) for output in cell.outputs]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
    }
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


# ------------------------------------------------------------------------------------------------- figures and faces


def _outputs(notebook: Any) -> Iterable[Any]:
    return (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)


def _fer(output: Any) -> Mapping[str, Any]:
    """What `plots.show` said of this output."""
    return output.get("metadata", {}).get("fer", {})


def _picture(output: Any) -> Mapping[str, Any]:
    """What it said of this output's picture, such as its alternative text."""
    return output.get("metadata", {}).get("image/png", {})


def _figures(notebook: Any) -> list[tuple[Any, str]]:
    """(output, file name) of each figure whose plotted data is known, numbered as they stand in the notebook."""
    known = [(output, _fer(output)["data"]["name"]) for output in _outputs(notebook) if "data" in _fer(output)]
    return [
        (output, f"figures/{n:02}_{re.sub(r'[^a-z0-9_]', '_', name)}.csv") for n, (output, name) in enumerate(known, 1)
    ]


def figure_files(notebook: Any) -> dict[str, bytes]:
    """Just what each figure plots, as CSV, by its name in the folder beside the page."""
    return {name: _fer(output)["data"]["csv"].encode() for output, name in _figures(notebook)}


PICTURE = re.compile(  # in HTML or Markdown, whatever it shows
    r"!\[[^\]]*\]\(\s*<?data:[^)]*\)|<svg\b.*?</svg>|<(img|svg|image|canvas|object|embed|iframe|picture|video)\b[^>]*>|"
    r"data:image[^\s)\"'>]*(?:\s+[A-Za-z0-9+/=]{16,})*",  # base64 may go on over line breaks
    re.I | re.S,
)


def withhold_faces(notebook: Any) -> Any:
    """A copy in which no single face can be seen: FER2013 may not be redistributed.

    Parameters
    ----------
    notebook : executed, and through `clean`

    Returns
    -------
    The notebook with a stand-in for every picture that shows single faces, or of which nobody said that it does not:
    ids, labels and answers, and each class's mean face, as far as the output's metadata holds them.
    """
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.pop("attachments", None):
            cell.source = re.sub(r"!\[([^\]]*)\]\(attachment:[^)]*\)", r"*(a picture is withheld: \1)*", cell.source)
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub("*(a picture is withheld)*", cell.source)
        if cell.cell_type == "code":
            cell.outputs = [_withheld(o) for o in cell.outputs if not _fer(o).get("beside_faces")]
    return notebook


def _withheld(output: Any) -> Any:
    data = output.get("data")
    if data is None:  # a stream or an error
        return output
    harmless = _fer(output).get("faces") is False and set(data) <= {"image/png", "text/plain"}
    pictures = [k for k in data if k not in ("text/plain", "text/html", "text/markdown", STAND_IN)]
    drawn = any(PICTURE.search("".join(data.get(kind, ""))) for kind in ("text/html", "text/markdown"))
    if harmless or not (pictures or drawn):
        return output
    import nbformat

    told = _fer(output).get("stand_in", {"columns": [], "rows": [], "means": {}, "size": [], "line": ""})
    alt = _picture(output).get("alt", "A picture.")
    lines = [alt, "Single faces are withheld.", *("  ".join(map(str, row)) for row in told["rows"])]
    fer = {"faces": False, **{k: v for k, v in _fer(output).items() if k == "data"}}
    metadata = {"fer": fer, "image/png": _picture(output)}
    content = {STAND_IN: {**told, "alt": alt}, "text/plain": "\n".join(lines)}
    return nbformat.v4.new_output("display_data", content, metadata=metadata)


# -------------------------------------------------------------------------------------------------------------- render

ASKED = re.compile(r"^\*\*Asked:\*\* +(.+)\n*", re.M)
HEADING = re.compile(r"\s*# +(.+)\n*")
NUMBER = re.compile(r"[-+−±]? ?[\d.,]*\d[\d.,]*(e[-+]?\d+)?( ?(%|points?|s|nats))?|[–—-]?|NaN|None")


def plain(rendered: str) -> str:
    """HTML as plain text on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", rendered)).split())


def markdown(source: str, trusted: bool = False) -> str:
    """Markdown as HTML. What a cell put out may hold text from data: HTML in it is shown, not obeyed."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(escape=not trusted, allow_harmful_protocols=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


def heading(notebook: Mapping[str, Any]) -> str:
    """The notebook's own title: its first Markdown heading, as plain text; empty where there is none."""
    texts = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    match = next(filter(None, map(HEADING.match, texts)), None)
    return plain(markdown(match[1])) if match else ""


@cache
def _cleaner() -> Any:
    import bleach

    def allowed(tag: str, name: str, value: str) -> bool:
        if tag == "img" and name == "src":
            return value.startswith("data:image/png;base64,")
        return name in ("class", "title", "colspan", "rowspan", "scope", "href", "alt", "open")

    tags = "a abbr b br caption code dd details div dl dt em figcaption figure h2 h3 h4 i img li ol p pre s small span"
    tags += " strong sub summary sup table tbody td tfoot th thead tr u ul"
    return bleach.Cleaner(tags=tags.split(" "), attributes=allowed, protocols=["http", "https", "data"])


def safe_html(source: str) -> str:
    """HTML that a cell put out, kept to harmless tags; pandas' own style goes, the page has its own."""
    return _cleaner().clean(re.sub(r"<style\b.*?</style>", "", source, flags=re.S | re.I))


def _breaks(content: str) -> str:
    """HTML without tags in which names may break behind / and, but for their number, behind _."""
    return re.sub(r"(?<=/)(?=\w)|(?<=[a-z]_)(?=\w)", "<wbr>", content)


def breakable(text: str) -> Any:
    """Words as HTML in which names may break over lines behind / and _, in headings where no line holds one whole."""
    from markupsafe import Markup

    name = r"[^\s<>]*[/_]\w[^\s<>]*"
    return Markup(re.sub(name, lambda found: f'<span class="whole">{_breaks(found[0])}</span>', html.escape(text)))


def _table(match: re.Match[str]) -> str:
    """A table that scrolls by itself, numeric columns set right, pandas' two rows of headings made one."""
    index_name = r"<th></th>((?:\s*<th>[^<]*</th>)+\s*</tr>)\s*<tr>\s*(<th>[^<]+</th>)(?:\s*<th></th>)+\s*</tr>"
    table = re.sub(index_name, r"\2\1", match[0], count=1)
    rows = [re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
    width = len(rows[0]) if rows else 0
    columns = [[plain(row[i]) for row in rows[1:] if len(row) == width] for i in range(width)]
    numeric = {i for i, column in enumerate(columns) if any(column) and all(map(NUMBER.fullmatch, column))}

    def marked(row: re.Match[str]) -> str:
        place = iter(range(width))
        fits = len(re.findall(r"<t[hd]\b", row[0])) == width
        return re.sub(r"<t[hd]\b", lambda t: t[0] + " data-n" * (next(place) in numeric), row[0]) if fits else row[0]

    table = re.sub(r"<th[^>]*></th>", "<td></td>", re.sub(r"<tr.*?</tr>", marked, table, flags=re.S))
    length = (" long" if len(rows) > 40 else "") + _on_paper(columns, rows[0] if rows else [], numeric)
    table = re.sub(r"(\[[−\d.]+,) (?=[−\d.]+\])", "\\1&nbsp;", table)  # an interval stays on its line
    table = re.sub(r"(<th\b[^>]*>)([^<]+)", lambda t: t[1] + _breaks(t[2]), table)
    return f'<div class="scroll{length}" role="group" aria-label="Table" tabindex="0">{table}</div>'


def _on_paper(columns: list[list[str]], heads: list[str], numeric: set[int]) -> str:
    """Whether a table needs a sheet across, or is so wide that even there its numbers must break: as class names.

    An upright sheet holds about 100 digits of a table's letters beside each other, one across, in smaller letters, 180.
    """
    words = (re.split(r"\s|(?<=[/_])", plain(head)) for head in heads)
    width = 0.0
    for place, (column, head) in enumerate(zip(columns, words, strict=True)):
        pieces = column if place in numeric else [word for cell in column for word in cell.split()]
        width += 1.5 + max(map(len, [*pieces, *head]), default=0)
    return " across broken" if width > 180 else " across" if width > 100 else ""


def _reachable(content: str) -> str:
    """What may scroll by itself can be reached by the keyboard."""
    content = re.sub(r"<table\b.*?</table>", _table, content, flags=re.S)
    return content.replace("<pre>", '<pre tabindex="0">')


def _headings(content: str) -> tuple[str, list[tuple[int, str, str]]]:
    """The content with an id and an anchor at each h2 and h3, and (level, id, text) of each."""
    found: dict[str, tuple[int, str, str]] = {}

    def anchored(match: re.Match[str]) -> str:
        text = plain(match[2])
        slug = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        name = next(n for n in (slug, *(f"{slug}-{i}" for i in range(2, len(found) + 3))) if n not in found)
        found[name] = (int(match[1]), name, text)
        link = f'<a class="anchor" href="#{name}" aria-label="Link to this section">#</a>'
        return f'<h{match[1]} id="{name}">{match[2]}{link}</h{match[1]}>'

    content = re.sub(r"<h([23])(?: [^>]*)?>(.*?)</h\1>", anchored, content, flags=re.S)
    return content, list(found.values())


def png_size(data: str) -> tuple[int, int]:
    head = base64.b64decode(data[:44])  # signature, then IHDR: width and height
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _is_chart(output: Mapping[str, Any]) -> bool:
    """Whether a dark page may turn its light: a figure of ours that shows no images and no colours of emotions."""
    return _fer(output).get("faces") is False and not _picture(output).get("as_drawn")


def _source_line(text: str, context: PageContext) -> str:
    """What a figure was drawn from, artifacts linked where they lie beside the page."""
    names = "|".join(map(re.escape, context.files)) or "(?!)"
    return re.sub(names, lambda m: f'<a href="{html.escape(context.stem)}/{m[0]}">{m[0]}</a>', html.escape(text))


@cache
def _exporter(autoescape: bool) -> Any:
    """nbconvert over the templates, which knows what they ask for; `autoescape` off for what is not HTML."""
    from nbconvert.exporters.templateexporter import TemplateExporter
    from nbconvert.filters import Highlight2HTML

    filters = {
        "breakable": breakable,
        "code": Highlight2HTML(pygments_lexer="ipython3"),
        "count": counted,
        "is_chart": _is_chart,
        "markdown": markdown,
        "number": _number,
        "percent": percent,
        "png_size": png_size,
        "reachable": _reachable,
        "safe_html": safe_html,
        "source_line": _source_line,
    }
    exporter = TemplateExporter(
        file_extension=".html", template_name="page", extra_template_basedirs=[str(TEMPLATES)], filters=filters
    )
    exporter.environment.autoescape = autoescape  # nbconvert's default, off, would put text from data into the page
    exporter.environment.trim_blocks = exporter.environment.lstrip_blocks = True
    return exporter


@cache
def _script() -> dict[str, str]:
    """The one script a page may run, and the hash that its security policy knows it by."""
    script = (TEMPLATES / "page" / "enhance.js").read_text(encoding="utf-8")
    known_by = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": script, "script_hash": f"sha256-{known_by}"}


def filled(template: str, autoescape: bool = True, **told: Any) -> str:
    """A page, or with `autoescape` off another text, from one of the templates that stand by themselves."""
    found = _exporter(autoescape).environment.get_template(template)
    return str(found.render(**_script(), **told)).strip() + "\n"


def finding_markdown(notebook: Any) -> str:
    """What the cell tagged `finding` put out, as Markdown; empty where there is none."""
    outputs = [o for c in notebook.cells if "finding" in c.metadata.get("tags", []) for o in c.get("outputs", [])]
    data = [output.get("data", {"text/plain": output.get("text", "")}) for output in outputs]
    return "\n\n".join((d.get("text/markdown") or d.get("text/plain", "")).strip() for d in data)


def _take_finding(notebook: Any) -> str:
    """The finding's code, taken out of the notebook together with a heading that stands for nothing else."""
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and "finding" in cell.metadata.get("tags", []):
            del notebook.cells[place]
            before = notebook.cells[place - 1] if place else cell
            if before.cell_type == "markdown" and re.fullmatch(r"\s*##+ [^\n]*\s*", before.source):
                del notebook.cells[place - 1]
            return cell.source
    return ""


def render(notebook: Any, context: PageContext) -> str:
    """The page: one HTML file that needs no other, no script and no network.

    Parameters
    ----------
    notebook : executed, and through `clean`; of a failed page the cells after the failing one are left out
    """
    notebook = copy.deepcopy(notebook)
    titled = next((c for c in notebook.cells if c.cell_type == "markdown" and HEADING.match(c.source)), None)
    asked = context.asked
    if titled:
        titled.source = HEADING.sub("", titled.source, count=1)
        stated = ASKED.search(titled.source)
        asked = asked or (stated[1] if stated else "")
        titled.source = ASKED.sub("", titled.source, count=1)
    resources = {
        "page": context,
        "headings": _headings,
        "asked": markdown(f"**Asked:** {asked}") if asked else "",
        "explained": {name: EXPLAINED.get(name, "") for name in context.provenance},
        **_script(),
    }
    for output, name in _figures(notebook):
        output.metadata["file"] = name if name in context.files else ""
    stand_ins = [output.data[STAND_IN] for output in _outputs(notebook) if STAND_IN in output.get("data", {})]
    resources["withheld"] = bool(stand_ins)
    resources["means"] = {
        name: mean["image/png"]
        for told in stand_ins
        for name, mean in told["means"].items()
        if re.fullmatch(r"[A-Za-z0-9+/=]+", mean["image/png"])
    }
    if context.failure:  # nothing on it is a result: no finding on top
        code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        notebook.cells = notebook.cells[: code[context.failure.cell - 1] + 1]
    else:
        resources["finding"] = markdown(finding_markdown(notebook))
        resources["finding_code"] = _take_finding(notebook)
    rendered, _ = _exporter(True).from_notebook_node(notebook, resources)
    return glossary.link_page(rendered.strip() + "\n", f"../{glossary.FILE}")


# ----------------------------------------------------------------------------------------------------------- make_page


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        elif value not in (None, ""):
            yield f"{prefix}{name}".replace("_", " "), value


def provenance(runs: Sequence[Run]) -> dict[str, str]:
    """run.json of all the page's runs, each entry once; where runs differ the page says so."""
    from importlib.metadata import version

    told: dict[str, list[Any]] = {}
    runs = [run for run in runs if run.provenance]
    for run in runs:
        for name, value in _flat({k: v for k, v in run.provenance.items() if k not in ("parameters", "sha256")}):
            told.setdefault(name, []).append(value)
    lines = {"runs": str(len(runs))} if runs else {}
    for name, values in told.items():
        counts = Counter(map(str, values))
        different = sorted(counts)
        if name == "seconds":
            lines[name] = f"{sum(values):,.0f}" + f" in {len(values)} runs" * (len(values) > 1)
        elif name in ("started", "ended"):  # from the first run's to the last one's
            lines[name] = " … ".join(dict.fromkeys((different[0], different[-1])))
        elif len(different) > 3:
            lines[name] = f"{different[0]} … {different[-1]} ({len(different)} different ones)"
        else:
            words = [value + f" in {counts[value]}" * (1 < len(different) < len(values)) for value in different]
            lines[name] = " · ".join(words) + " (the runs differ)" * (len(different) > 1)
    foreign = sorted({run.foreign for run in runs if run.foreign})
    if foreign:
        lines["brought from elsewhere"] = f"differs from here in {'; '.join(foreign)}"
    tools = ("papermill", "nbconvert", "matplotlib", "pandas", "numpy")
    lines["page made with"] = ", ".join(f"{name} {version(name)}" for name in tools)
    return lines


def without_machine(told: Mapping[str, Any]) -> dict[str, Any]:
    """A run's or a page's provenance less what names the machine and its tracking."""
    return {name: value for name, value in told.items() if name.replace(" ", "_") not in artifacts.PRIVATE}


def commands(page: str, settings: Settings, trains: bool = True) -> tuple[str, ...]:
    """The commands that rebuild a page, train its own run afresh where it has one, and open its notebook."""
    told = f"PAGE={page}{variables(settings)}"
    return (f"make report {told}", *[f"make reproduce {told}"] * trains, "make lab")


def tolerance(run: Run, seeds: Sequence[Run] = ()) -> dict[str, float]:
    """How far apart two trainings of one run may lie on machines of different kinds: accuracy by split, a fraction.

    There the last bits differ, and the training drifts apart until it is like another seed's: so it may differ by what
    two seeds differ by in 95 of 100 cases, 1.96 √2 times their standard deviation (from three seeds on), and by
    no less than what two networks that are equally good would on other n images, 1.96 √(2 p (1 − p) / n).
    """
    splits = [split for split in ("validation", "test_official", "test_leak_free") if split in run.metrics]
    found: dict[str, float] = {}
    for split in splits:
        part, accuracies = run.metrics[split], [s.metrics[split]["accuracy"] for s in seeds if split in s.metrics]
        spread = statistics.stdev(accuracies) if len(accuracies) > 2 else 0.0
        p = part["accuracy"]
        found[split] = 1.96 * math.sqrt(2) * max(spread, math.sqrt(p * (1 - p) / part["n"]))
    return found


def alike(runs: Sequence[Run]) -> list[Run]:
    """The finished runs that differ from the first in their seed alone: not those of an ablation."""
    first = runs[0].params if runs else None
    return [run for run in runs if run.finished and first and run.params.replace(seed=first.seed) == first]


def _tolerance_words(run: Run | None, runs: Sequence[Run], score_test: bool) -> str:
    """`tolerance` in words; nothing of the test where the page may not look at it."""
    found = tolerance(run, alike(runs)) if run and run.finished else {}
    told = {name: points for name, points in found.items() if score_test or name == "validation"}
    return schema.listed([f"{points * 100:.1f} points ({name.replace('_', ' ')})" for name, points in told.items()])


def variables(settings: Settings) -> str:
    """What a command must be told to work on this dataset, after a blank; a path is the reader's own."""
    told = f" DATA=path/to/{settings.name}" * (not settings.sample)
    told += f" NAME={settings.name}" * (settings.name not in ("sample", "fer2013"))
    return told + f" SET='{set_text(settings.set_values)}'" * bool(settings.set_values)


def git(*words: str) -> str:
    """What git says; nothing outside a checkout or without git."""
    import subprocess

    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def made_now(data_hash: str) -> dict[str, str]:
    """When a page was made, from which commit and data: kept, so that it is published with the same."""
    from datetime import UTC, datetime

    commit = git("rev-parse", "HEAD")
    changed = " and changes since" * bool(git("status", "--porcelain", "--", *COMMITTED))
    told = {"page made": datetime.now(UTC).isoformat(timespec="seconds"), "data hash": data_hash}
    return told | ({"page's commit": f"{commit}{changed}"} if commit else {})


@cache
def repository() -> str:
    """owner/name on GitHub, by pyproject.toml's [project.urls] Repository or git's origin; empty where neither says."""
    addresses = bootstrap.repository(), git("remote", "get-url", "origin")
    # Only owner and name are taken: an address may hold somebody's token.
    found = [re.search(r"github\.com[/:]([\w.-]+/[\w-][\w.-]*?)(\.git)?/?$", address) for address in addresses]
    return next((match[1] for match in found if match), "")


def colab_link(page: str) -> str:
    """Where the page's notebook opens on Colab; empty where the repository's address is not known."""
    notebook = f"notebooks/{page.split('/')[0]}.ipynb"
    return f"https://colab.research.google.com/github/{repository()}/blob/HEAD/{notebook}" if repository() else ""


def page_title(notebook: Any, page: Page, params: Params) -> str:
    """The claim in its own words, or the notebook's heading and what sets this page apart."""
    title, stem = heading(notebook) or page.notebook, page.name.split("/")[1]
    changed = {name: value for name, value in page.values.items() if name in RUN_PARAMETERS}
    apart = stem if len(changed) != 1 else " ".join(f"{name} {value}" for name, value in changed.items())
    return params.claim or (title if stem == "default" else f"{title}: {apart.replace('_', ' ')}")


def _copied(run: Run, with_test: bool) -> list[str]:
    """The run's files that a page has beside it: those of the test alone where it may look at it."""
    return [n for n in COPIED if (run.folder / n).exists() and (with_test or n != artifacts.WATCHED_FILE)]


def _copy_run(run: Run, folder: Path, with_test: bool) -> None:
    """The run's files; for a page that may not look at the test set, without its part."""
    there = _copied(run, with_test)
    for name in COPIED:
        if name not in there:
            (folder / name).unlink(missing_ok=True)
        elif name == "metrics.json" and not with_test:
            artifacts.write_json(folder / name, {k: v for k, v in run.metrics.items() if not k.startswith("test_")})
        elif name == "predictions.parquet" and not with_test:
            artifacts.write_frame(folder / name, run.predictions[run.predictions["split"] != "test"])
        else:
            with artifacts.atomic_file(folder / name) as temporary:
                shutil.copyfile(run.folder / name, temporary)


def page_context(
    page: Page,
    params: Params,
    settings: Settings,
    runs: Sequence[Run],
    own_run: Run | None,
    notebook: Any,
    neighbours: tuple[str | None, str | None],
    files: tuple[str, ...],
    made: Mapping[str, str],
    inputs: Mapping[str, Any],
    failure: Failure | None = None,
) -> PageContext:
    """What a page says beside its executed notebook; `made` and `inputs` as page.json holds them."""
    return PageContext(
        name=page.name,
        title=page_title(notebook, page, params),
        dataset=settings.name,
        sample=settings.sample,
        own=bool(inputs.get("own")),
        previous=neighbours[0],
        following=neighbours[1],
        files=files,
        commands=commands(page.name, settings, trains=own_run is not None),
        tolerance=_tolerance_words(own_run, runs, params.score_test),
        compared=compared_in(params),
        asked=params.question,
        provenance={**made, **provenance(runs)},
        colab=colab_link(page.name),
        stated=page.text,
        failure=failure,
    )


def make_page(
    page: Page,
    params: Params,
    settings: Settings,
    run_folders: Sequence[Run],
    own_run: Run | None,
    inputs: Mapping[str, Any],
    neighbours: tuple[str | None, str | None],
    zygote: kernels.Zygote | None = None,
) -> Failure | None:
    """Execute, render and put in place. A kill at any moment leaves nothing that looks finished.

    Parameters
    ----------
    run_folders : all runs the page draws on
    own_run : the one that its notebook trains, whose artifacts are the page's
    inputs : what the report key is made of, kept so that `make plan` can say why a page is stale
    """
    import nbformat

    work = settings.store / "work" / settings.name / page.name
    shutil.rmtree(work, ignore_errors=True)
    failure = execute(page, page.values, work / "notebook.ipynb", settings, zygote)
    notebook = clean(nbformat.read(work / "notebook.ipynb", 4), settings)
    shutil.rmtree(work, ignore_errors=True)
    if own_run and not failure and own_run.state == "missing":
        # Code or data changed while it ran: what the notebook trained is not what this page was planned with.
        why = f"the notebook ran, but not the run {own_run.key} that was planned: run it again"
        failure = _failure(notebook, "RunMissing", why, settings)

    figures: Iterable[str] = () if failure else figure_files(notebook)
    files = ("notebook.ipynb", *(_copied(own_run, params.score_test) if own_run else ()), *figures)
    made = made_now(inputs["data"])
    context = page_context(
        page, params, settings, run_folders, own_run, notebook, neighbours, files, made, inputs, failure
    )
    rendered, folder = render(notebook, context).encode(), settings.reports / page.name
    if failure:
        artifacts.write_bytes(page_file(folder, ".failed.html"), rendered)
        return failure
    (folder / "page.json").unlink(missing_ok=True)
    if own_run:
        _copy_run(own_run, folder, params.score_test)
    told = {"report_key": artifacts.digest(inputs), "inputs": dict(inputs), "made": made}
    put(notebook, context, rendered, folder, told)
    return None


def put(notebook: Any, context: PageContext, rendered: bytes, folder: Path, told: Mapping[str, Any]) -> None:
    """The page, its notebook and what its figures plot; page.json, written last with `told`, says that all is whole."""
    import nbformat

    artifacts.write_bytes(folder / "notebook.ipynb", nbformat.writes(notebook).encode())
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name, content in figure_files(notebook).items():
        artifacts.write_bytes(folder / name, content)
    artifacts.write_bytes(page_file(folder), rendered)
    page_file(folder, ".failed.html").unlink(missing_ok=True)
    finding = plain(markdown(finding_markdown(notebook)))
    record = {"name": context.name, "title": context.title, "finding": finding, "html": artifacts.digest(rendered)}
    artifacts.write_json(folder / "page.json", {**record, "files": context.files, **told})


# --------------------------------------------------------------------------------------------------------------- index


def _number(value: Any, form: str, scale: float = 1) -> str:
    """A cell of a table, which may have come as text, as None or as NaN."""
    number = leaderboard.number(value)
    return "–" if number is None else format(number * scale, form).replace("-", "−")


def page_file(folder: Path, ending: str = ".html") -> Path:
    """The page beside its folder of artifacts."""
    return folder.with_name(f"{folder.name}{ending}")


def comparison_name(pages: Iterable[str]) -> str:
    """compare/01_basic_cnn+02_batch_norm: a comparison's page, named after those it sets side by side."""
    return "compare/" + "+".join(page.removesuffix("/default").replace("/", ".") for page in pages)


def compared_in(params: Params) -> tuple[str, ...]:
    """The comparisons of whole pages that a claim's arms are: they stand wherever its runs are finished."""
    whole = {arm["page"] for arm in params.arms.values() if not arm.get("set")}
    return tuple(comparison_name(map(str, pages)) for pages in COMPARED if whole.issuperset(pages))


def comparisons(reports: Path, names: Iterable[str]) -> list[dict[str, str]]:
    """{href, title, finding} of those of these comparisons that have a page in a folder of reports."""
    return _beside(reports, [reports / name / "page.json" for name in names])


def sweeps(reports: Path) -> list[dict[str, str]]:
    """{href, title, finding} of the sweeps that have a page in a folder of reports."""
    return _beside(reports, reports.glob("sweeps/*/sweep.json"))


def _beside(reports: Path, records: Iterable[Path]) -> list[dict[str, str]]:
    found = [(page_file(record.parent), artifacts.read_json(record)) for record in sorted(records)]
    return [
        {"href": page.relative_to(reports).as_posix(), "title": told["title"], "finding": told["finding"]}
        for page, told in found
        if told and page.exists()
    ]


def render_index(
    settings: Settings,
    entries: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    scored: int,
    contenders: Sequence[leaderboard.Contender] = (),
    comparisons: Sequence[Mapping[str, str]] = (),
    fer2013: bool | None = None,
    sweeps: Sequence[Mapping[str, str]] = (),
) -> str:
    """The dataset's first page: what was found; verdicts; leaderboard; all pages in reading order; what is missing.

    Parameters
    ----------
    entries : {name, title, finding, state, href, reason} of every page, in reading order;
        state is done, stale, failed, missing or (not for this data) elsewhere; optionally `runs`, {state: how many}
    results, claims : rows of results.csv, and of claims.csv with each effect as `told` in words, and what `decided`
    scored : how many times the test set was scored
    contenders : the training pages with their parameters and curves
    comparisons : {href, title, finding} of the pages that set runs side by side
    fer2013 : whether published figures may stand beside ours; unset: wherever the data is not drawn
    sweeps : {href, title, finding} of the pages of sweeps
    """
    chapters: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        chapters.setdefault(entry["name"].split("/")[0], []).append(entry)
    real = not settings.sample if fer2013 is None else fer2013
    marks = leaderboard.marks(real)
    planned = sum(leaderboard.is_claim(entry["name"]) for entry in entries if entry["state"] != "elsewhere")
    abstract = markdown(leaderboard.abstract(results, claims, real, planned, settings.sample))
    rendered = filled(
        "contents.html.j2",
        dataset=settings.name,
        sample=settings.sample,
        own=not settings.sample and not real,
        entries=entries,
        chapters=[(name, heading(read_notebook(name)) or name, found) for name, found in chapters.items()],
        abstract=_linked_pages(abstract, entries),
        board=leaderboard.board(results, contenders, entries),
        axis=leaderboard.accuracy_axis(leaderboard.headlines(results), marks),
        literature=leaderboard.LITERATURE if marks else (),
        short_way=leaderboard.short_way(entries, results),
        claims=claims,
        by_name={entry["name"]: entry for entry in entries},
        comparisons=comparisons,
        sweeps=sweeps,
        scored=scored,
        original=leaderboard.ORIGINAL if real else {},
        original_images=leaderboard.ORIGINAL_IMAGES,
        spread=leaderboard.spread(),
        literature_spread=leaderboard.spread([0.73]),
        command=f"make all-reports{variables(settings)}",
    )
    return glossary.link_page(rendered, glossary.FILE)


def _linked_pages(content: str, entries: Iterable[Mapping[str, Any]]) -> str:
    """Names of pages set as code become links to those that stand; a claim's without its folder, in words."""
    stand = {entry["name"]: html.escape(entry["href"]) for entry in entries if entry.get("href")}

    def linked(code: re.Match[str]) -> str:
        name = code[1]
        shown = leaderboard.shown_name(name).replace(f"`{name}`", code[0])
        return f'<a href="{stand[name]}">{shown}</a>' if name in stand else shown

    return re.sub(r"<code>(\d\d_\w+/\w+)</code>", linked, content)


def render_glossary(settings: Settings, own: bool = False) -> str:
    """What the terms mean that pages link to; `own`: beside the user's own images."""
    terms = sorted(glossary.TERMS, key=lambda term: term.name.lower())
    told = [(term, glossary.link(html.escape(term.meaning), "", term.name)) for term in terms]
    return filled("text.html.j2", dataset=settings.name, title="Glossary", terms=told, own=own)


def render_limits(settings: Settings, facts: Mapping[str, Any]) -> str:
    """Limits and use, from our own Markdown and `limits.facts`."""
    source = filled("limits.md.j2", autoescape=False, **facts)
    content, headings = _headings(markdown(source, trusted=True))
    page = filled("text.html.j2", dataset=settings.name, title="Limits and use", content=content, headings=headings)
    return glossary.link_page(page, glossary.FILE)
