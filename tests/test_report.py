"""Notebooks of a few cells, executed and rendered: what a page promises, and what becomes of a notebook that fails."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_core import artifacts, bootstrap, report
from fer_core.artifacts import Run, Settings
from fer_core.leaderboard import Contender
from fer_core.report import PageContext
from fer_core.reproduce import PROVENANCE
from fer_core.schema import ROOT, Page, Params, parse_set

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
GOOD = [
    "# A *title*\n\nOpening words.",
    ("learning_rate = 0.1", "parameters"),
    "## Finding",
    (f"from IPython.display import Markdown\nMarkdown(f'**{{learning_rate}}** is it. {HOSTILE}')", "finding"),
    "## Same\n\n### Below\n\n## Same",
    "import os, sys\nprint(sorted(os.environ.items()))\nprint('at', os.getcwd(), sys.prefix, object())",
    "raw_state = {k: os.environ.get(k) for k in ('FER_NAME', 'FER_PAGE', 'FER_THREADS', 'FER_SET')}\nraw_state",
]
ENDINGS = {
    "raising": "values = {}\nvalues['<b>missing</b>']",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "leaving": "import sys\nsys.exit(0)",
}


def cells(*sources: Any) -> Any:
    """A notebook: Markdown where the text starts with #, a (source, tag) or a source of code otherwise."""
    made = []
    for source in sources:
        text, tags = (source[0], [source[1]]) if isinstance(source, tuple) else (source, [])
        kind = nbformat.v4.new_markdown_cell if text.startswith("#") else nbformat.v4.new_code_cell
        made.append(kind(text, metadata={"tags": tags}))
    return nbformat.v4.new_notebook(cells=made)


def with_output(data: dict[str, Any], metadata: dict[str, Any] | None = None, tag: str = "") -> Any:
    output = nbformat.v4.new_output("display_data", data, metadata=metadata or {})
    return nbformat.v4.new_code_cell("show()", outputs=[output], metadata={"tags": [tag] if tag else []})


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Makes the page <name>/default of the given cells; returns its failure and the folder of reports."""
    place = tmp_path_factory.mktemp("make")

    def made(name: str, *sources: Any, runs: tuple[Run, ...] = (), trains: bool = True, **params: Any) -> Any:
        page = Page(f"{name}/default", {"batch_size": 8})
        settings = Settings(None, "sample", "cpu", place, {"epochs": 2, "learning_rate": 1e-05})
        own = runs[0] if runs and trains else None
        told = page, Params(**params), settings, runs, own, {"data": "d"}, ("before/default", None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "read_notebook", lambda _: cells(*sources))
            return report.make_page(*told), settings.reports

    return made


@pytest.fixture(scope="module")
def good(make: Callable[..., Any]) -> Path:
    """The reports folder with the page good/default, made while secrets stood in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("WANDB_API_KEY", "a-secret")
        patch.setenv("SOME_TOKEN", "a-secret")
        failure, reports = make("good", *GOOD)
    assert failure is None
    return reports


@pytest.fixture(scope="module")
def page(good: Path) -> str:
    return (good / "good" / "default.html").read_text(encoding="utf-8")


# -- executing


def test_no_secret_reaches_a_kernel(page: str) -> None:
    assert "FER_OUT" in page and "a-secret" not in page


def test_kernel_is_told_name_page_threads_and_set(good: Path) -> None:
    told = nbformat.read(good / "good/default/notebook.ipynb", 4).cells[-1].outputs[0].data["text/plain"]
    for word in ("'sample'", "'good/default'", "'1'", "epochs=2 learning_rate=1.0e-05"):
        assert word in told


def test_set_is_written_so_that_it_reads_back() -> None:
    values = {"learning_rate": 1e-05, "seeds": (0, 1), "gradient_clip": None, "split": "group", "width": 0.5}
    assert parse_set(report.set_text(values)) == values


def test_kernel_runs_in_the_repository_and_no_path_of_the_machine_is_told(good: Path, page: str) -> None:
    for text in (page, (good / "good/default/notebook.ipynb").read_text()):
        assert not re.search(
            rf"{re.escape(str(ROOT))}/|{re.escape(sys.prefix)}|{re.escape(str(good))}|0x[0-9a-f]{{6}}", text
        )


def test_a_second_execution_gives_the_same_bytes(make: Callable[..., Any], good: Path) -> None:
    def written() -> tuple[str, bytes, dict[str, Any]]:
        html = PROVENANCE.sub("", (good / "good/default.html").read_text())
        told = artifacts.read_json(good / "good/default/page.json")
        assert told.pop("html") and told.pop("made")["page made"].startswith("20")
        return html, (good / "good/default/notebook.ipynb").read_bytes(), told

    before = written()
    assert make("good", *GOOD)[0] is None
    assert written() == before


def test_a_page_without_runs_says_when_from_what_commit_and_of_which_data_it_was_made(good: Path) -> None:
    made = artifacts.read_json(good / "good/default/page.json")["made"]
    block = PROVENANCE.search((good / "good/default.html").read_text())
    assert block and made["data hash"] == "d" and re.match(r"[0-9a-f]{40}", made["page's commit"])
    assert all(escape(value) in block[0] for value in made.values())


def test_what_was_asked_comes_first_then_what_came_out() -> None:
    notebook = cells("# A title\n\n**Asked:** Is it *so*?\n\nOpening words.")
    notebook.cells += [with_output({"text/markdown": "It is."}, tag="finding")]
    for context, asked in (
        (PageContext("a/b", "A title", "d"), "Is it so?"),
        (PageContext("a/b", "A title", "d", asked="Why?"), "Why?"),
    ):
        text = report.plain(report.render(report.clean(notebook), context))
        assert text.count("Asked:") == 1
        assert text.index(f"Asked: {asked}") < text.index("It is.") < text.index("Opening words.")


def test_page_json_holds_the_finding_and_the_hash_of_the_page(good: Path) -> None:
    told = artifacts.read_json(good / "good/default/page.json")
    assert told["finding"].startswith("0.1 is it. <img")
    assert told["html"] == artifacts.digest((good / "good/default.html").read_bytes())
    assert (told["title"], told["report_key"], told["inputs"]) == (
        "A title",
        artifacts.digest({"data": "d"}),
        {"data": "d"},
    )


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [("raising", "KeyError", "<b>missing</b>"), ("killed", "KernelDied", "died"), ("leaving", "SystemExit", "ended")],
)
def test_failing_notebook_leaves_its_page_up_to_there(
    make: Callable[..., Any], name: str, error: str, words: str
) -> None:
    failure, reports = make(name, "# Title", "print('seen')", ENDINGS[name], "print('never')", "## After")
    page = (reports / name / "default.failed.html").read_text()
    assert (failure.cell, failure.line, failure.error) == (3, ENDINGS[name].splitlines()[0], error)
    assert words in failure.message and "\n" not in str(failure)
    assert "seen" in page and "never" not in page and "After" not in page
    assert f"{error}: " in page and "<b>missing" not in page
    assert not (reports / name / "default.html").exists()
    assert not (reports / name / "default" / "page.json").exists()


# -- putting in place; no kernel is needed for it


@pytest.fixture
def unexecuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks are taken as executed."""

    def copied(page: Page, values: Any, target: Path, *_: Any) -> None:
        artifacts.write_bytes(target, json.dumps(report.read_notebook(page.notebook)).encode())

    monkeypatch.setattr(report, "execute", copied)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "run"
    shares = {"validation": 0.5, "test_official": 0.4, "test_leak_free": 0.3}
    scores = {part: {"accuracy": share, "n": 99} for part, share in shares.items()}
    artifacts.write_json(folder / "metrics.json", scores)
    artifacts.write_json(
        folder / "run.json", {"state": "done", "seconds": 3.0, "versions": {"torch": "2"}, "host": "h"}
    )
    predictions = pd.DataFrame({"image_id": ["a", "b"], "split": ["validation", "test"]})
    artifacts.write_frame(folder / "predictions.parquet", predictions)
    (folder / "history.csv").write_text("epoch\n1\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    return Run("k", Params(), folder)


@pytest.mark.usefixtures("unexecuted")
def test_success_removes_the_failed_page(make: Callable[..., Any]) -> None:
    failed = make("mended", "# Title")[1] / "mended" / "default.failed.html"
    failed.write_bytes(b"old")
    assert make("mended", "# Title") == (None, failed.parent.parent)
    assert not failed.exists()


@pytest.mark.usefixtures("unexecuted")
def test_page_that_may_not_score_the_test_holds_none_of_it(make: Callable[..., Any], run: Run) -> None:
    folder = make("unscored", "# Title", runs=(run,))[1] / "unscored" / "default"
    assert set(artifacts.read_json(folder / "metrics.json")) == {"validation"}
    assert list(pd.read_parquet(folder / "predictions.parquet")["split"]) == ["validation"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("unexecuted")
def test_page_that_only_draws_on_runs_holds_none_of_their_files(make: Callable[..., Any], run: Run) -> None:
    reports = make("drawing", "# Title", runs=(run,), trains=False)[1]
    assert not (reports / "drawing/default/metrics.json").exists()
    assert "make reproduce" not in (reports / "drawing/default.html").read_text()


@pytest.mark.usefixtures("unexecuted")
def test_scoring_page_holds_its_runs_files_unchanged(make: Callable[..., Any], run: Run) -> None:
    folder = make("scored", "# Title", runs=(run,), score_test=True)[1] / "scored" / "default"
    for name in artifacts.RUN_FILES:
        assert (folder / name).read_bytes() == (run.folder / name).read_bytes()


@pytest.mark.usefixtures("unexecuted")
def test_page_whose_run_is_missing_fails(make: Callable[..., Any], tmp_path: Path) -> None:
    failure, reports = make("runless", "# Title", "1", runs=(Run("abc", Params(), tmp_path),))
    assert failure.error == "RunMissing" and "abc" in failure.message
    assert not (reports / "runless" / "default" / "page.json").exists()


@pytest.mark.usefixtures("unexecuted")
def test_kill_while_files_are_put_in_place_leaves_no_finished_page(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, content: bytes) -> None:
        if path.suffix == ".html":
            raise KeyboardInterrupt
        written(path, content)

    reports = make("cut", "# Title")[1]
    assert (reports / "cut" / "default" / "page.json").exists()
    written = artifacts.write_bytes
    monkeypatch.setattr(artifacts, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        make("cut", "# Title")
    assert not (reports / "cut" / "default" / "page.json").exists()


def test_provenance_says_where_runs_differ(run: Run, tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "run.json", {"seconds": 4.0, "versions": {"torch": "3"}, "host": "h"})
    told = report.provenance([run, Run("l", Params(), tmp_path, foreign="device")])
    assert told["versions torch"] == "2 · 3 (the runs differ)"
    assert (told["seconds"], told["host"], told["runs"]) == ("7 in 2 runs", "h", "2")
    assert "device" in told["brought from elsewhere"]


# -- rendering


def tags_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """The page's tags with their attributes, as a browser reads them."""
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page)
    return found


def rendered(*made: Any, **context: Any) -> str:
    notebook = report.clean(nbformat.v4.new_notebook(cells=list(made)))
    return report.render(notebook, PageContext(**{"name": "n/p", "title": "T", "dataset": "d", **context}))


def picture(colour: tuple[int, int, int] = (1, 2, 3)) -> str:
    written = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def test_finding_stands_on_top_and_only_there(page: str) -> None:
    assert page.count("is it.") == 2  # in the sentence, and in its folded code
    assert page.index("<strong>0.1</strong> is it.") < page.index("Opening words")
    assert 'id="finding"' not in page  # its heading would stand for nothing


def test_text_from_data_is_escaped_wherever_it_comes_from() -> None:
    made = [
        with_output({"text/markdown": HOSTILE + "[x](javascript:alert(1))"}, tag=tag) for tag in ("finding", "")
    ] + [
        with_output({"text/plain": HOSTILE}),
        with_output({"text/html": f"<p onclick='alert(3)'>{HOSTILE}</p><style>p{{}}</style>"}),
        with_output({"image/png": picture()}, {"image/png": {"alt": f'"{HOSTILE}', "source": HOSTILE}}),
    ]
    page = rendered(*made, title=HOSTILE, provenance={HOSTILE: HOSTILE}, commands=(HOSTILE,))
    tags = tags_of(page)
    assert page.count("&lt;script&gt;alert") >= 9 and len([tag for tag, _ in tags if tag == "script"]) == 1
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert not (attributes.get("href") or "").startswith(("javascript", "harmful:"))
        assert tag != "img" or not attributes.get("src") or attributes["src"].startswith("data:image/png;base64,")


def test_page_says_how_far_another_machine_may_be_off() -> None:
    def run(seed: int, validation: float, dropout: float = 0.0) -> Any:
        metrics = {"validation": {"accuracy": validation, "n": 5000}, "test_official": {"accuracy": 0.6, "n": 3589}}
        return SimpleNamespace(finished=True, metrics=metrics, params=Params(seed=seed, dropout=dropout))

    first, others = run(0, 0.5), [run(1, 0.51), run(2, 0.49)]
    words = report._tolerance_words(first, [first], score_test=True)
    assert words == "2.0 points (validation) and 2.3 points (test official)"
    assert "test" not in report._tolerance_words(first, [first], score_test=False)
    # Where seeds lie further apart than other images would move it, that counts (1.96 √2 × 0.01); no ablation does.
    spread = report._tolerance_words(first, [first, *others, run(0, 0.1, dropout=0.5)], score_test=True)
    assert spread == "2.8 points (validation) and 2.3 points (test official)"
    assert words in report.plain(rendered(commands=("a", "b", "c"), tolerance=words))


def test_page_asks_no_host_for_anything(page: str) -> None:
    # A link to Colab, where the repository's address is known, is followed by the reader alone.
    assert not re.search(r"src=\"(https?:)?//|url\((?!data:)|@import|<link", page)
    assert "default-src 'none'" in page


def test_figure_has_alt_text_its_size_and_a_linked_source() -> None:
    told = {"image/png": {"alt": "What it shows", "source": "history.csv: epoch"}}
    page = rendered(with_output({"image/png": picture()}, told), files=("history.csv",))
    assert re.search(r'<img [^>]*alt="What it shows" width="60" height="40"', page)
    assert '<a href="p/history.csv">history.csv</a>: epoch' in page


def test_each_figure_links_its_plotted_data_and_the_cell_that_drew_it() -> None:
    fer = {"faces": False, "data": {"name": "loss_curves", "csv": "epoch\n1\n"}}
    told = {"image/png": {"alt": "A", "source": "history.csv"}, "fer": fer}
    cell = with_output({"image/png": picture()}, told)
    notebook = report.clean(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), cell]))
    files = report.figure_files(notebook)
    assert files == {"figures/01_loss_curves.csv": b"epoch\n1\n"}
    page = report.render(notebook, PageContext("n/p", "T", "d", files=tuple(files)))
    assert '<a href="p/figures/01_loss_curves.csv">plotted data (CSV)</a>' in page
    assert re.search(r'<details class="code">\s*<summary>Code</summary>\s*<div id="cell-2">', page)
    assert '<a href="#cell-2">code</a>' in page
    assert "plotted data" not in report.render(notebook, PageContext("n/p", "T", "d"))  # where the file is not there


@pytest.mark.usefixtures("unexecuted")
def test_plotted_data_lies_beside_the_page(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "figure_files", lambda notebook: {"figures/01_it.csv": b"a\n"})
    reports = make("drawn", "# Title")[1]
    assert (reports / "drawn/default/figures/01_it.csv").read_bytes() == b"a\n"
    monkeypatch.setattr(report, "figure_files", lambda notebook: {"figures/01_other.csv": b"b\n"})
    make("drawn", "# Title")
    assert [file.name for file in (reports / "drawn/default/figures").iterdir()] == ["01_other.csv"]


# -- withholding faces


def face_output(rows: int = 2, **fer: Any) -> Any:
    """A cell that shows single faces, and what stands in for them."""
    columns = ["image_id", "true", "predicted", "confidence"]
    told = {"columns": columns, "rows": [[f"{i:012x}", "fear", "sad", "91 %"] for i in range(rows)], "size": [48, 48]}
    means = {"fear": {"image/png": picture((9, 9, 9))}}
    fer = {"faces": True, "stand_in": {**told, "means": means, "line": f"The {HOSTILE} mistakes"}, **fer}
    return with_output(
        {"image/png": picture((200, 0, 0)), "text/plain": "faces"}, {"image/png": {"alt": "A"}, "fer": fer}
    )


def withheld(*made: Any, **context: Any) -> tuple[Any, str]:
    notebook = report.withhold_faces(report.clean(nbformat.v4.new_notebook(cells=list(made))))
    return notebook, report.render(notebook, PageContext("n/p", "T", "d", **context))


def test_smaller_figure_keeps_flat_colours_and_is_nowhere_far_from_the_figure() -> None:
    ramp = np.linspace(60, 200, 300).astype(np.uint8)
    drawn = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, ::-1], ramp[:, None] // 2), axis=2).copy()
    np.random.default_rng(0).shuffle(drawn.reshape(-1, 3))
    drawn[:100], drawn[100:150], drawn[150:200] = (255, 255, 255), (82, 36, 141), (93, 75, 124)
    written = io.BytesIO()
    Image.fromarray(drawn).save(written, "PNG")
    found = report.smaller_png(base64.b64encode(written.getvalue()).decode())
    small = Image.open(io.BytesIO(base64.b64decode(found)))
    error = np.abs(np.asarray(small.convert("RGB"), int) - drawn.astype(int)).max(axis=2)
    assert small.mode == "P" and error[:200].max() == 0 and error.max() < 12


@pytest.mark.parametrize(
    "words",
    [
        "![a face](data:image/png;base64,{})",
        "<IMG src='DATA:image/png;base64,{}'>",
        "![f][1]\n\n[1]: data:image/png;base64,{}",
        "<source srcset='data:image/png;base64,{}'>",
    ],
)
def test_a_picture_in_markdown_is_withheld_too(words: str) -> None:
    face = picture((200, 0, 0))
    broken = "\n".join(face[k : k + 76] for k in range(0, len(face), 76))  # as MIME breaks it
    text = words.format(face) + "\n\n" + words.format(broken)
    notebook, page = withheld(
        nbformat.v4.new_markdown_cell(f"# T\n\n{text}"), with_output({"text/markdown": text, "text/plain": ""})
    )
    for part in (face[:40], face[80:110]):
        assert part not in page and part not in nbformat.writes(notebook)


def test_no_pixel_of_a_single_face_is_left_where_faces_are_withheld() -> None:
    face = report.smaller_png(picture((200, 0, 0)))
    unmarked = with_output({"image/png": picture((200, 0, 0))})
    others = [with_output({kind: "pixels-of-a-face"}) for kind in ("image/jpeg", "image/svg+xml", "application/x+json")]
    drawn = with_output({"text/html": f'<img src="data:image/png;base64,{face}">'})
    attached = nbformat.v4.new_markdown_cell("![](attachment:a.png)", attachments={"a.png": {"image/png": face}})
    harmless = with_output({"image/png": picture((0, 0, 200))}, {"fer": {"faces": False}})
    notebook, page = withheld(face_output(), unmarked, *others, drawn, attached, harmless)
    for text in (nbformat.writes(notebook), page):
        assert face not in text and "pixels-of-a-face" not in text
        assert report.smaller_png(picture((0, 0, 200))) in text
        assert report.smaller_png(picture((9, 9, 9))) in text


def test_a_picture_said_to_be_harmless_beside_other_data_is_withheld_all_the_same() -> None:
    mixed = with_output({"image/png": picture(), "image/jpeg": "pixels-of-a-face"}, {"fer": {"faces": False}})
    assert "pixels-of-a-face" not in nbformat.writes(withheld(mixed)[0])


def test_withheld_faces_are_named_and_have_their_class_mean_in_their_place() -> None:
    page = withheld(face_output())[1]
    faces = [attributes for tag, attributes in tags_of(page) if "data-face" in attributes]
    assert [face["data-face"] for face in faces] == ["000000000000", "000000000001"]
    assert {(face["class"], face["aria-label"]) for face in faces} == {("face mean-0", "The mean face of fear")}
    assert page.count("data:image/png") == 1 and ".mean-0 { background-image" in page
    assert "<script>alert" not in page and "Single faces are withheld" in page
    assert re.search(r"<td[^>]*>000000000001</td>\s*<td>fear</td>\s*<td>sad</td>\s*<td[^>]*>91 %</td>", page)


def test_the_original_notebook_keeps_its_faces_and_figures_keep_their_data() -> None:
    data = {"name": "faces", "csv": "image_id\n1\n"}
    notebook = report.clean(nbformat.v4.new_notebook(cells=[face_output(data=data)]))
    before = nbformat.writes(notebook)
    assert report.figure_files(report.withhold_faces(notebook)) == report.figure_files(notebook) != {}
    assert nbformat.writes(notebook) == before


def test_a_list_of_the_same_faces_is_not_said_twice() -> None:
    beside = with_output({"text/html": "<p>their ids</p>"}, {"fer": {"beside_faces": True}})
    assert "their ids" in rendered(beside) and "their ids" not in withheld(face_output(), beside)[1]


def test_faces_without_what_stands_in_for_them_leave_a_word() -> None:
    made = with_output({"image/png": picture()}, {"fer": {"faces": True}, "image/png": {"alt": "Eight faces"}})
    page = withheld(made)[1]
    assert "Eight faces" in page and "Single faces are withheld here" in page


def test_only_a_page_with_withheld_faces_asks_for_the_readers_own() -> None:
    assert "own-file" in withheld(face_output())[1] and "own-file" not in rendered(face_output())


# -- the repository's address


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The repository that report finds where git's origin and pyproject's addresses are these."""
    import subprocess

    def found(origin: str = "", url: str = "") -> str:
        report.repository.cache_clear()
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        subprocess.run(["git", "-C", str(tmp_path), "config", "remote.origin.url", origin], check=True)
        urls = f'\n[project.urls]\nRepository = "{url}"' if url else ""
        (tmp_path / "pyproject.toml").write_text(f"[project]{urls}\n")
        for module in (report, bootstrap):
            monkeypatch.setattr(module, "ROOT", tmp_path)
        return report.repository()

    yield found
    report.repository.cache_clear()


@pytest.mark.parametrize(
    "origin",
    ["https://github.com/some/study.git", "git@github.com:some/study.git", "https://secret@github.com/some/study/"],
)
def test_repository_is_known_by_its_origin(address: Callable[..., str], origin: str) -> None:
    assert address(origin) == "some/study"
    link = report.colab_link("04_complex_cnn/default")
    assert link.startswith("https://colab.research.google.com/github/some/study/blob/")
    assert link.endswith("/notebooks/04_complex_cnn.ipynb")


def test_pyproject_comes_before_origin_and_a_folder_is_no_address(address: Callable[..., str]) -> None:
    assert address("../elsewhere", "https://github.com/own/er") == "own/er"
    assert address("/srv/github.com.git") == "" and report.colab_link("a/b") == ""


def test_colab_link_stands_within_the_provenance_that_comparisons_leave_out() -> None:
    marks = re.compile("<!-- provenance -->.*<!-- /provenance -->", re.S)
    one, other = (rendered(colab=link) for link in ("https://colab.research.google.com/x", ""))
    assert one != other and marks.sub("", one) == marks.sub("", other)


def test_headings_are_linked_and_told_apart(page: str) -> None:
    contents = re.findall(r'<li class="level-(\d)"><a href="#([\w-]+)">', page)
    assert contents[:3] == [("2", "same"), ("3", "below"), ("2", "same-2")]
    assert all(f'id="{name}"' in page for _, name in contents)


def test_headings_that_count_themselves_are_told_apart_too() -> None:
    _, found = report._headings("<h2>Seed</h2><h2>Seed 3</h2><h2>Seed</h2><h2>Seed</h2>")
    assert [name for _, name, _ in found] == ["seed", "seed-3", "seed-2", "seed-4"]


def test_a_page_shows_its_yaml_as_it_was_written() -> None:
    cell = nbformat.v4.new_code_cell("epochs = 2", metadata={"tags": ["injected-parameters"]})
    page = rendered(cell, stated="# because <b>\nepochs: 2")
    assert "# because &lt;b&gt;\nepochs: 2</code></pre>" in page and "<summary>Parameters of this page, and why" in page


def test_only_a_page_with_a_run_of_its_own_is_told_how_to_reproduce_it() -> None:
    here = Settings(None, "sample", "cpu", Path())
    assert report.commands("05_analysis/depth", here, trains=False) == (
        "make report PAGE=05_analysis/depth",
        "make lab",
    )


def test_numeric_columns_are_set_right_and_pandas_two_header_rows_made_one() -> None:
    columns = {"n": ["1,000", "–"], "word": ["1 a", "2"], "rate": ["1e-05", "0.001"], "loss": ["0.5 nats", "10.2 nats"]}
    page = rendered(with_output({"text/html": pd.DataFrame(columns, pd.Index(["a", "b"], name="class")).to_html()}))
    heads = ("<th>class", "<th data-n>n", "<th>word", "<th data-n>rate", "<th data-n>loss")
    assert re.search(r"</th>\s*".join(heads) + r"</th>\s*</tr>\s*</thead>", page)
    assert "<td data-n>1,000</td>" in page and "<td>1 a</td>" in page


def test_names_in_heads_may_break_and_intervals_may_not() -> None:
    frame = pd.DataFrame({"learning_rate": ["−1.2 points [−3.0, 0.5]", "a, b [c, d]"]}, index=["01_x/no_1", "y"])
    page = rendered(with_output({"text/html": frame.to_html()}))
    assert "<th>learning_<wbr>rate</th>" in page and "<th>01_x/<wbr>no_<wbr>1</th>" in page
    assert "<td>−1.2 points [−3.0,&nbsp;0.5]</td>" in page and "<td>a, b [c, d]</td>" in page


@pytest.mark.parametrize(("columns", "place"), [(4, ""), (16, " across"), (40, " across broken")])
def test_table_too_wide_for_an_upright_sheet_goes_across(columns: int, place: str) -> None:
    frame = pd.DataFrame({f"n{i}": [0.142857] for i in range(columns)})
    page = rendered(with_output({"text/html": frame.to_html()}))
    assert re.findall('class="scroll([^"]*)" role="group" aria-label="Table"', page) == [place]


def test_drawn_data_is_said_on_top_only_where_it_is() -> None:
    assert "Drawn data" in rendered(sample=True) and "Drawn data" not in rendered()


def test_code_is_folded_and_neighbours_linked() -> None:
    page = rendered(nbformat.v4.new_code_cell("x = 1"), previous="a/b", following=None)
    assert re.search(r"<details class=\"code\">\s*<summary>Code</summary>", page)
    assert 'href="../a/b.html"' in page and 'href="../index.html"' in page and 'rel="next"' not in page


def test_files_beside_a_page_are_listed_where_there_are_any() -> None:
    figure, table = "figures/01_x.csv", "history.csv"
    told = {files: report.plain(rendered(files=files)) for files in ((), (figure,), (table,), (table, figure))}
    assert "Beside this page" not in told[()] and "each figure plots" not in told[()]
    assert "What each figure plots is in p/figures." in told[(figure,)]
    assert "Beside this page: history.csv." in told[(table,)]
    assert "Beside this page: history.csv; what each figure plots is in p/figures." in told[(table, figure)]


def test_provenance_of_several_runs_is_a_span_of_time_and_explains_its_words(tmp_path: Path) -> None:
    runs = []
    for hour, commit in ((9, "a"), (7, "b"), (8, "b")):
        told = {"started": f"2026-01-01T0{hour}:00", "commit": commit, "clean": True, "seconds": 1}
        artifacts.write_json(tmp_path / str(hour) / "run.json", told)
        runs.append(Run(str(hour), Params(), tmp_path / str(hour)))
    told = report.provenance(runs)
    assert (
        told["started"] == "2026-01-01T07:00 … 2026-01-01T09:00"
        and told["commit"] == "a in 1 · b in 2 (the runs differ)"
    )
    assert report.provenance(runs[:1])["started"] == "2026-01-01T09:00"
    page = rendered(provenance=told)
    assert re.search(r"<dt>clean</dt><dd>True<br><small>whether the checkout", page) and "<small></small>" not in page


def test_provenance_stands_between_its_marks() -> None:
    one, other = (rendered(provenance={"host": host}) for host in ("one", "other"))
    marks = re.compile("<!-- provenance -->.*<!-- /provenance -->", re.S)
    assert one != other and marks.sub("", one) == marks.sub("", other)


def test_figures_become_smaller_and_keep_their_colours() -> None:
    noise = Image.frombytes("RGB", (200, 200), os.urandom(120_000)).quantize(48).convert("RGB")
    written = io.BytesIO()
    noise.convert("RGBA").save(written, "PNG")
    large = base64.b64encode(written.getvalue()).decode()
    small = report.smaller_png(large)
    assert len(small) < len(large) / 2
    assert Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB").tobytes() == noise.tobytes()


def test_commands_name_what_the_reader_must_give_and_no_path(tmp_path: Path) -> None:
    told = report.commands("a/b", Settings(tmp_path, "mine", "cpu", tmp_path, {"epochs": 2}))
    variables = "PAGE=a/b DATA=path/to/mine NAME=mine SET='epochs=2'"
    assert told == (f"make report {variables}", f"make reproduce {variables}", "make lab")


# -- the index

ENTRIES = [
    {
        "name": "01_basic_cnn/default",
        "title": "Basic",
        "finding": "F <b>",
        "state": "done",
        "href": "x.html",
        "reason": "",
    },
    {"name": "01_basic_cnn/other", "title": "", "finding": "", "state": "failed", "href": "y.html", "reason": "cell 3"},
    {"name": "04_complex_cnn/default", "title": "", "finding": "", "state": "missing", "href": None, "reason": ""},
]
ROWS = [
    {"page": "04_complex_cnn/default", "seed": 0, "validation_accuracy": "0.5", "test_official_accuracy": None},
    {"page": "04_complex_cnn/default", "seed": 1, "validation_accuracy": 0.9},
    {"page": "05_analysis/depth", "seed": 0, "validation_accuracy": 0.7},
]
CLAIM = {"claim": "C", "page": "05_analysis/depth", "effect": -0.1, "low": None, "high": float("nan"), "n": 1}
CLAIM |= {"told": "−10.0 points"}


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], str]:
    def made(sample: bool) -> str:
        monkeypatch.setattr(report, "read_notebook", lambda name: cells(f"# Chapter {name}"))
        settings = Settings(None if sample else Path("x"), "d", "cpu", Path("out"))
        claims = [{**CLAIM, "rule": "R", "verdict": "inconclusive"}]
        return report.render_index(settings, ENTRIES, ROWS, claims, 3, [Contender(ROWS[0]["page"], Params())])

    return made


def test_index_shows_failed_and_missing_pages_as_such(index: Callable[[bool], str]) -> None:
    page = index(False)
    assert '<span class="chip bad">failed</span>' in page and "not made yet" in page and "cell 3" in page
    assert "F &lt;b&gt;" in page and "Chapter 04_complex_cnn" in page and "<strong>3 times</strong>" in page


def test_headline_is_the_first_seed_not_the_best(index: Callable[[bool], str]) -> None:
    page = index(False)
    assert ">50.0</td>" in page and ">90.0</td>" not in page and "<small>2 seeds</small>" in page


def test_original_stands_beside_real_results_only(index: Callable[[bool], str]) -> None:
    assert "<td data-n>61</td>" in index(False) and "± 1.6 points" in index(False).replace("&nbsp;", " ")
    assert "Original" not in index(True) and "Drawn data" in index(True)


def test_importing_report_is_cheap() -> None:
    import subprocess

    code = (
        "import sys, fer_core.report; print([m for m in ('torch', 'nbconvert', 'pandas', 'numpy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
