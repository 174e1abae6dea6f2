"""Notebook in, page out: papermill executes, the template renders, and what is whole is put in its place.

A page counts as finished once its page.json stands, which is written last. Whether a notebook succeeded is known only from
papermill returning: its metadata say "completed" after a dead kernel and after Ctrl-C as well.
Cheap to import: papermill and nbconvert load inside the functions that need them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fer_core.artifacts import RESULT_COLUMNS, RUN_FILES, Run, Settings, atomic_file, read_json, write_bytes, write_frame, write_json
from fer_core.schema import ROOT, Page, Params, read_notebook

TEMPLATES = Path(__file__).parent / "template"
COPIED = (*RUN_FILES, "network.csv")
# The original's test accuracies (STUDY, sections 2 and 4), on the images of PrivateTest.
ORIGINAL = {"04_complex_cnn/default": 0.61, "06_final/rare_transforms": 0.627473}
ORIGINAL_IMAGES = 3589

# What a kernel may see of the environment. Whatever else there is may be a secret.
KEPT = frozenset(
    "PATH HOME LANG LANGUAGE TZ TMPDIR TEMP TMP VIRTUAL_ENV CONDA_PREFIX LD_LIBRARY_PATH DYLD_LIBRARY_PATH CUDA_HOME "
    "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS MKL_NUM_THREADS PYTHONPATH PYTHONHASHSEED PYTHONDONTWRITEBYTECODE "
    "WANDB_MODE WANDB_PROJECT WANDB_ENTITY WANDB_BASE_URL SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT APPDATA "
    "LOCALAPPDATA PROGRAMDATA USERPROFILE NUMBER_OF_PROCESSORS".split()
)
KEPT_PREFIXES = ("LC_", "OPENBLAS_")


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
    previous: str | None = None
    following: str | None = None
    files: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def stem(self) -> str:
        return self.name.split("/")[1]


# ------------------------------------------------------------------------------------------------------------- execute


def set_text(values: Mapping[str, Any]) -> str:
    """Checked values as SET reads them back: no blanks, and an exponent that YAML takes for a number."""

    def word(value: Any) -> str:
        text = json.dumps(value, separators=(",", ":"))
        return re.sub(r"(?<![\d.])(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text

    return " ".join(f"{name}={word(value)}" for name, value in values.items())


def kernel_environment(page: str, settings: Settings, threads: int) -> dict[str, str]:
    """The environment of a page's kernel: the allow-list, and where data, reports and runs lie."""
    kept = {k: v for k, v in os.environ.items() if k.upper() in KEPT or k.upper().startswith(KEPT_PREFIXES)}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        **({"FER_DATA": str(settings.data)} if settings.data else {}),
        "FER_NAME": settings.name,
        "FER_DEVICE": settings.device,
        "FER_OUT": str(settings.out),
        "FER_SET": set_text(settings.set_values),
        "FER_PAGE": page,
        "FER_THREADS": str(threads),
        "FER_ROOT": str(ROOT),
        "PYTHONPATH": os.pathsep.join(paths),
        # A user's IPython startup files and matplotlibrc must not change a page; a cluster's home may be read-only.
        "IPYTHONDIR": str(settings.store / "kernel" / "ipython"),
        "MPLCONFIGDIR": str(settings.store / "kernel" / "matplotlib"),
    }


def _kernel_manager(environment: dict[str, str], folder: Path) -> type:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class PageKernel(AsyncKernelManager):
        """A kernel of this very interpreter, over sockets in `folder`: no port for two kernels to race for."""

        def __init__(self, **options: Any) -> None:
            if sys.platform != "win32":
                options |= {"transport": "ipc", "connection_file": str(folder / "kernel.json")}
            super().__init__(**options)

        @property
        def kernel_spec(self) -> Any:
            """Ours, whatever kernels the user has installed under this name."""
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(**{**options, "env": environment, "cwd": str(ROOT)})

    return PageKernel


def _failure(notebook: Any, error: str, message: str, cell: Any = None) -> Failure:
    """At `cell`, or else at the last cell that was started: only that much of papermill's metadata can be trusted."""
    code = [c for c in notebook.cells if c.cell_type == "code"]
    started = [c for c in code if c.metadata.get("papermill", {}).get("start_time")]
    cell = cell or (started[-1] if started else code[0])
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).split())
    return Failure(code.index(cell) + 1, lines[0][:100] if lines else "", error, hide_paths(words)[:500])


def execute(
    page: Page, values: Mapping[str, Any], target: Path, settings: Settings, threads: int, timeout: float | None = None
) -> Failure | None:
    """Run the page's notebook in a kernel of its own, from the repository's root.

    Parameters
    ----------
    values : what papermill injects after the parameters cell
    target : the executed notebook; of a failure, what there is of it. Written under another name and renamed.
    timeout : seconds a cell may take; None: as long as it needs
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    target.parent.mkdir(parents=True, exist_ok=True)
    environment = kernel_environment(page.name, settings, threads)
    Path(environment["IPYTHONDIR"]).mkdir(parents=True, exist_ok=True)  # IPython warns in the page where it is missing
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part.ipynb")
    failed: tuple[str, str] | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="fer-") as folder:
            try:
                papermill.execute_notebook(
                    str(page.notebook_path).replace("{", "{{").replace("}", "}}"),  # papermill formats its paths
                    str(partial).replace("{", "{{").replace("}", "}}"),
                    dict(values),
                    kernel_name="python3",
                    progress_bar=False,
                    start_timeout=180,
                    execution_timeout=timeout,
                    iopub_timeout=60,
                    record_timing=False,
                    coalesce_streams=True,
                    shutdown_kernel="immediate",  # the polite way takes 3 s; all that counts is on disk by then
                    kernel_manager_class=_kernel_manager(environment, Path(folder)),
                )
            except papermill.PapermillExecutionError as error:
                failed = (error.ename, error.evalue)
            except DeadKernelError:
                failed = ("KernelDied", "the kernel died while this cell ran (killed, or out of memory)")
            except CellTimeoutError:
                failed = ("CellTimeout", f"the cell took longer than {timeout:g} s")
            except RuntimeError as error:  # nbclient's word for a kernel that never answered
                failed = ("KernelNotStarted", str(error))
        notebook = nbformat.read(partial, 4)
        raised = next((c for c in notebook.cells if any(o.output_type == "error" for o in c.get("outputs", []))), None)
        if raised and not failed:  # papermill takes sys.exit() for success, though the cells below never ran
            failed = ("SystemExit", "the cell ended the notebook before its last cell")
        partial.replace(target)
        return _failure(notebook, *failed, raised) if failed else None
    finally:
        partial.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------- clean


def hide_paths(text: str, settings: Settings | None = None) -> str:
    """`text` without this machine's paths and addresses of objects in memory."""
    known = [(sys.prefix, "PYTHON"), (sys.base_prefix, "PYTHON"), (str(Path.home()), "~"), (str(ROOT), "")]
    if settings:
        known += [(str(settings.out), "OUT" if settings.out != ROOT else ""), (str(settings.data or ""), "DATA")]
    for path, name in sorted(known, key=lambda pair: -len(pair[0])):
        if len(Path(path).parts) > 1:
            after = r"(?![\w.-])" if name else r"[/\\]"
            text = re.sub(re.escape(path) + after, name, text)
    text = re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "cell", text)
    return re.sub(r"\bat 0x[0-9a-fA-F]{6,}", "at 0x…", text)


def clean(notebook: Any, settings: Settings | None = None) -> Any:
    """The executed notebook without time, machine and chance: the same bytes whenever it is executed.

    Ids are the cells' numbers, execution counts the code cells'; paths and addresses are hidden in outputs.
    """
    import nbformat

    cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    count = 0
    for number, cell in enumerate(cells, 1):
        cell.id = f"cell-{number}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution")}
        if cell.cell_type != "code":
            continue
        count += 1
        ran = cell.execution_count is not None or bool(cell.outputs)
        cell.execution_count = count if ran else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "text" in output:
                output.text = hide_paths(output.text, settings)
            if "traceback" in output:
                output.traceback = [hide_paths(line, settings) for line in output.traceback]
                output.evalue = hide_paths(output.evalue, settings)
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/") and isinstance(value, str):
                    output.data[kind] = hide_paths(value, settings)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
    }
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


# -------------------------------------------------------------------------------------------------------------- render


def _tagged(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def finding_markdown(notebook: Any) -> str:
    """What the cell tagged `finding` put out, as Markdown; empty where there is none."""
    parts = []
    for cell in notebook.cells:
        if _tagged(cell, "finding"):
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                parts.append(data.get("text/markdown") or data.get("text/plain") or output.get("text", ""))
    return "\n\n".join(p.strip() for p in parts if p.strip())


def plain(rendered: str) -> str:
    """HTML as plain text on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", rendered)).split())


def markdown(source: str, trusted: bool = False) -> str:
    """Markdown as HTML. What a cell put out may hold text from data: its HTML is shown, not obeyed."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(escape=not trusted, allow_harmful_protocols=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


@cache
def _cleaner() -> Any:
    import bleach

    def allowed(tag: str, name: str, value: str) -> bool:
        if tag == "img" and name == "src":
            return value.startswith("data:image/png;base64,")
        return name in ("class", "title", "colspan", "rowspan", "scope", "href", "alt", "open", "lang")

    tags = "a abbr b br caption code col colgroup dd details div dl dt em figcaption figure h2 h3 h4 i img li ol p pre s "
    tags += "small span strong sub summary sup table tbody td tfoot th thead tr u ul"
    return bleach.Cleaner(tags=tags.split(), attributes=allowed, protocols=["http", "https", "data"], strip=False)


def safe_html(source: str) -> str:
    """HTML that a cell put out, kept to harmless tags; pandas' own style goes, the page has its own."""
    return _cleaner().clean(re.sub(r"<style\b.*?</style>", "", source, flags=re.S | re.I))


NUMBER = re.compile(r"\s*[-+−±]?\s*[\d.,\s]*\d[\d.,]*\s*(%|points?|s|±\s*[\d.]+)?\s*|\s*[–—-]?\s*|\s*(NaN|None|nan)\s*")


def _tables(content: str) -> str:
    """Tables that scroll by themselves, with numbers set right: a column counts when all its cells are numbers."""

    def aligned(match: re.Match[str]) -> str:
        rows = [re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", r, re.S) for r in re.findall(r"<tr.*?</tr>", match[0], re.S)]
        body = [row for row in rows[1:] if len(row) == len(rows[0])]
        texts = [[plain(row[i]) for row in body] for i in range(len(rows[0]) if rows else 0)]
        numeric = {i for i, column in enumerate(texts) if any(column) and all(NUMBER.fullmatch(t) for t in column)}

        def row(part: re.Match[str]) -> str:
            cells = iter(range(len(rows[0])))
            if len(re.findall(r"<t[hd]\b", part[0])) != len(rows[0]):
                return part[0]
            return re.sub(r"<(t[hd])\b", lambda t: f'<{t[1]}{" data-n" if next(cells) in numeric else ""}', part[0])

        table = re.sub(r"<tr.*?</tr>", row, match[0], flags=re.S) if numeric else match[0]
        return f'<div class="scroll" role="group" aria-label="Table" tabindex="0">{table}</div>'

    return re.sub(r"<table\b.*?</table>", aligned, content, flags=re.S)


def _headings(content: str) -> tuple[str, list[tuple[int, str, str]]]:
    """The content with an id and an anchor at each h2 and h3, and (level, id, text) of each."""
    found: list[tuple[int, str, str]] = []

    def anchored(match: re.Match[str]) -> str:
        text = plain(match[2])
        slug = re.sub(r"[^\w]+", "-", text.lower()).strip("-") or "section"
        same = sum(1 for _, name, _ in found if re.fullmatch(re.escape(slug) + r"(--\d+)?", name))
        name = f"{slug}--{same + 1}" if same else slug
        found.append((int(match[1]), name, text))
        link = f'<a class="anchor" href="#{name}" aria-label="Link to this section">#</a>'
        return f'<h{match[1]} id="{name}">{match[2]}{link}</h{match[1]}>'

    return re.sub(r"<h([23])(?: [^>]*)?>(.*?)</h\1>", anchored, content, flags=re.S), found


def _png_size(data: str) -> tuple[int, int]:
    head = base64.b64decode(data[:44])  # signature, then IHDR: width and height
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _source_line(text: str, context: PageContext) -> str:
    """The figure's source with its artifact linked."""
    name, colon, rest = text.partition(":")
    if name in context.files:
        return f'<a href="{html.escape(context.stem)}/{name}">{name}</a>{html.escape(colon + rest)}'
    return html.escape(text)


@cache
def _highlighter() -> Any:
    from nbconvert.filters import Highlight2HTML

    return Highlight2HTML(pygments_lexer="ipython3")


@cache
def _exporter() -> Any:
    from nbconvert.exporters.templateexporter import TemplateExporter

    filters = {
        "markdown": markdown,
        "safe_html": safe_html,
        "tables": _tables,
        "code": lambda source: _highlighter()(source),
        "png_size": _png_size,
        "source_line": _source_line,
        "plain": plain,
    }
    exporter = TemplateExporter(
        file_extension=".html", template_name="page", extra_template_basedirs=[str(TEMPLATES)], filters=filters
    )
    exporter.environment.autoescape = True  # nbconvert's default would put text from data into the page as it is
    return exporter


@cache
def _script() -> dict[str, str]:
    """The one script a page may run, and the hash that its security policy knows it by."""
    script = (TEMPLATES / "page" / "enhance.js").read_text(encoding="utf-8")
    known_by = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": script, "script_hash": f"sha256-{known_by}"}


HEADING = re.compile(r"\s*# +(.+)\n*")


def heading(notebook: Mapping[str, Any]) -> str:
    """The notebook's own title: its first Markdown heading, as plain text; empty where there is none."""
    for cell in notebook["cells"]:
        match = HEADING.match("".join(cell["source"])) if cell["cell_type"] == "markdown" else None
        if match:
            return plain(markdown(match[1]))
    return ""


def render(notebook: Any, context: PageContext) -> str:
    """The page: one HTML file that needs no other, no script and no network.

    Parameters
    ----------
    notebook : an executed notebook that went through `clean`; of a failed page, cells after the failing one are left out
    """
    import copy

    notebook = copy.deepcopy(notebook)
    titled = next((c for c in notebook.cells if c.cell_type == "markdown" and HEADING.match(c.source)), None)
    if titled:
        titled.source = HEADING.sub("", titled.source, count=1)
    finding = markdown(finding_markdown(notebook))
    for cell in notebook.cells:
        if _tagged(cell, "finding"):
            cell.outputs = [o for o in cell.outputs if o.output_type == "error"]
    if context.failure:
        code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
        notebook.cells = notebook.cells[: code[context.failure.cell - 1] + 1]
    resources = {"page": context, "finding": finding, "headings": _headings, **_script()}
    rendered, _ = _exporter().from_notebook_node(notebook, resources)
    return re.sub(r"[ \t]+\n", "\n", rendered).strip() + "\n"


# ----------------------------------------------------------------------------------------------------------- make_page


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}".replace("_", " "), value


def provenance(runs: Sequence[Run]) -> dict[str, str]:
    """run.json of all the page's runs, each entry once; where runs differ the page says so."""
    from importlib.metadata import version

    told: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in _flat(run.provenance):
            told.setdefault(name, []).append(value)
    lines = {"runs": str(len(runs))} if runs else {}
    for name, values in told.items():
        different = sorted({str(v) for v in values if v not in (None, "")})
        if name == "seconds":
            lines[name] = f"{sum(values):,.0f}" + (f" in {len(values)} runs" if len(values) > 1 else "")
        elif len(different) > 3:
            lines[name] = f"{different[0]} … {different[-1]} ({len(different)} different)"
        elif different:
            lines[name] = " · ".join(different) + (" (the runs differ)" if len(different) > 1 else "")
    foreign = sorted({run.foreign for run in runs if run.foreign})
    if foreign:
        lines["brought from elsewhere"] = f"differs from this machine's in {'; '.join(foreign)}"
    tools = ("papermill", "nbconvert", "matplotlib", "pandas", "numpy")
    lines["page made with"] = ", ".join(f"{name} {version(name)}" for name in tools)
    return lines


def commands(page: str, settings: Settings) -> tuple[str, ...]:
    """The commands that rebuild a page and that check it; the user's own paths are left to the user."""
    variables = f" PAGE={page}" + ("" if settings.sample else " DATA=path/to/fer2013")
    if settings.name not in ("sample", "fer2013"):
        variables += f" NAME={settings.name}"
    if settings.set_values:
        variables += f' SET="{set_text(settings.set_values)}"'
    return (f"make report{variables}", f"make reproduce{variables}")


def page_title(notebook: Any, page: Page, params: Params) -> str:
    """The claim in its own words, or the notebook's heading and what sets this page apart."""
    stem = page.name.split("/")[1]
    if params.claim:
        return params.claim
    title = heading(notebook) or page.notebook
    return title if stem == "default" else f"{title}: {stem.replace('_', ' ')}"


def _copy_run(run: Run, folder: Path, with_test: bool) -> None:
    """The run's files; of a page that may not look at the test set, without its part."""
    for name in COPIED:
        source = run.folder / name
        if not source.exists():
            (folder / name).unlink(missing_ok=True)
        elif name == "metrics.json" and not with_test:
            kept = {k: v for k, v in run.metrics.items() if k not in ("test_official", "test_leak_free")}
            write_json(folder / name, kept)
        elif name == "predictions.parquet" and not with_test:
            write_frame(folder / name, run.predictions[run.predictions["split"] != "test"])
        else:
            with atomic_file(folder / name) as temporary:
                shutil.copyfile(source, temporary)


def make_page(
    page: Page,
    params: Params,
    settings: Settings,
    run_folders: Sequence[Run],
    report_key: str,
    inputs: Mapping[str, Any],
    neighbours: tuple[str | None, str | None],
    threads: int,
) -> Failure | None:
    """Execute, render and put in place. A kill at any moment leaves nothing that looks finished.

    Parameters
    ----------
    run_folders : all runs the page draws on; a training page's artifacts are its first run's
    inputs : what the report key was made of, kept so that `make plan` can say why a page is stale
    """
    import nbformat

    work = settings.store / "work" / page.name
    executed = work / "notebook.ipynb"
    shutil.rmtree(work, ignore_errors=True)
    failure = execute(page, page.values, executed, settings, threads)
    notebook = clean(nbformat.read(executed, 4), settings)
    shutil.rmtree(work, ignore_errors=True)

    own_run = run_folders[0] if run_folders and not params.arms else None
    files = ["notebook.ipynb"] + [n for n in COPIED if own_run and (own_run.folder / n).exists()]
    context = PageContext(
        name=page.name,
        title=page_title(notebook, page, params),
        dataset=settings.name,
        sample=settings.sample,
        previous=neighbours[0],
        following=neighbours[1],
        files=tuple(files) if not failure else (),
        commands=commands(page.name, settings),
        provenance=provenance(run_folders),
        failure=failure,
    )
    rendered = render(notebook, context).encode()
    target = settings.reports / f"{page.name}.html"
    failed = target.with_suffix(".failed.html")
    if failure:
        write_bytes(failed, rendered)
        return failure

    folder = settings.reports / page.name
    (folder / "page.json").unlink(missing_ok=True)
    write_bytes(folder / "notebook.ipynb", nbformat.writes(notebook).encode())
    if own_run:
        _copy_run(own_run, folder, params.score_test)
    write_bytes(target, rendered)
    record = {
        "name": page.name,
        "title": context.title,
        "finding": plain(markdown(finding_markdown(notebook))),
        "report_key": report_key,
        "inputs": dict(inputs),
        "html": hashlib.sha256(rendered).hexdigest(),
    }
    write_json(folder / "page.json", record)
    failed.unlink(missing_ok=True)
    return None


# --------------------------------------------------------------------------------------------------------------- index


def _fraction(value: Any) -> float | None:
    """A cell of a table that may have come as text, as None or as NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _percent(value: Any) -> str:
    number = _fraction(value)
    return "–" if number is None else f"{100 * number:.1f}".replace("-", "−")


def _interval(row: Mapping[str, Any], which: str) -> str:
    low, high = row.get(f"{which}_low"), row.get(f"{which}_high")
    return "" if _fraction(low) is None else f"{_percent(low)} – {_percent(high)}"


def _points(value: Any) -> str:
    number = _fraction(value)
    return "–" if number is None else f"{number:+.3f}".replace("-", "−")


def _thousands(value: Any) -> str:
    number = _fraction(value)
    return "–" if number is None else f"{number:,.0f}"


def _headlines(results: Iterable[Mapping[str, Any]], skipped: set[str]) -> list[dict[str, Any]]:
    """A row a page: its first seed's, never the best one's, and how many seeds there are."""
    rows: dict[str, dict[str, Any]] = {}
    for row in results:
        if row["page"] not in skipped:
            told = {name: row.get(name) for name in RESULT_COLUMNS}
            rows.setdefault(row["page"], {**told, "seeds": 0})["seeds"] += 1
    return list(rows.values())


def render_index(
    settings: Settings,
    entries: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    scored: int,
) -> str:
    """The dataset's first page: what was found, in reading order; verdicts; results; what is missing.

    Parameters
    ----------
    entries : {name, title, finding, state, href, reason} of every page, in reading order
    results, claims : rows of results.csv and claims.csv
    scored : how many times the test set was scored
    """
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES / "page")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "points": _points, "thousands": _thousands}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry["name"].split("/")[0], []).append(entry)
    headings = {name: heading(read_notebook(name)) or name for name in groups}
    spread = 1.96 * max(math.sqrt(p * (1 - p) / ORIGINAL_IMAGES) for p in ORIGINAL.values())
    contents = [(2, "pages", "The study, in reading order"), *((3, name, text) for name, text in headings.items())]
    contents += [(2, "claims", "Claims and verdicts")] * bool(claims) + [(2, "results", "Results")] * bool(results)
    rendered = environment.get_template("contents.html.j2").render(
        **_script(),
        title="Facial expressions, studied from end to end",
        contents=contents,
        pages=len(entries),
        dataset=settings.name,
        sample=settings.sample,
        groups=groups,
        headings=headings,
        troubled=[e for e in entries if e["state"] not in ("done", "missing")],
        missing=[e["name"] for e in entries if e["state"] == "missing"],
        results=_headlines(results, {c["page"] for c in claims}),
        interval=_interval,
        claims=claims,
        scored=scored,
        original={} if settings.sample else {page: f"{100 * share:g}" for page, share in ORIGINAL.items()},
        original_images=f"{ORIGINAL_IMAGES:,}",
        spread=spread,
    )
    return rendered.strip() + "\n"


def write_index(
    settings: Settings,
    entries: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    scored: int,
) -> Path:
    """The index, in its place or not at all."""
    path = settings.reports / "index.html"
    write_bytes(path, render_index(settings, entries, results, claims, scored).encode())
    return path
