"""Pages in a real browser: phone and desk, light and dark, with scripts and without, on paper, and what axe finds.

Needs Chromium (Debian's package, at /usr/bin/chromium or where FER_CHROMIUM says) and playwright; axe-core's axe.min.js
from npm where FER_AXE says. Some pages are made here, of what is hard to lay out; one of each kind is taken from the
sample study as it stands in reports/sample or where FER_PAGES says, so `make all-reports` comes first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_core import compare, data, predict, report
from fer_core.artifacts import Settings
from fer_core.schema import ROOT
from tests.conftest import make_faces
from tests.test_compare import side
from tests.test_leaderboard import CONTENDERS, RESULTS
from tests.test_predict import HOPPER
from tests.test_report import CLAIM, ENTRIES, ROWS, cells, picture, with_output

CHROMIUM = Path(os.environ.get("FER_CHROMIUM", "/usr/bin/chromium"))
AXE = os.environ.get("FER_AXE")
OPTIONS = (
    "--no-sandbox",
    "--headless",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
STUDY = Path(os.environ.get("FER_PAGES", ROOT / "reports" / "sample"))
KINDS = {
    "exploration": "00_exploration/default.html",
    "training": "04_complex_cnn/default.html",
    "claim": "05_analysis/initialisation.html",
    "summary": "05_analysis/summary.html",
    "final": "06_final/all_fixes.html",
    "beyond": "07_beyond/default.html",
    "study": "index.html",
    "comparison": "compare/*.html",
    "sweep": "sweeps/*.html",
}
PUBLISHED = ROOT / "reports/published/fer2013"  # for a kind of page that the study does not have
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
A4 = {"width": 718, "height": 1046}  # pixels between margins of a centimetre

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of a page, a failed page and an index, with what is hard to lay out."""
    folder = tmp_path_factory.mktemp("pages")
    wide = pd.DataFrame({f"a_long_column_{i}": [i / 7] * 50 for i in range(20)})
    told = {"image/png": {"alt": "A figure", "source": "history.csv: epoch, " + "a_very_long_column_name_" * 5}}
    stream = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("stream", text="long line " * 60)])
    made = cells(
        "# Title\n\nWords.",
        "x = 1",
        "## One",
        "y = 2  # " + "very long " * 30,
        "### Two\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    )
    made.cells += [with_output({"text/html": wide.to_html()}), with_output({"image/png": picture()}, told), stream]
    made.cells += [with_output({"text/markdown": "**61.2 %** is the finding."}, tag="finding")]
    made.cells += cells(*(f"## Section {i}\n\n" + "Words and words. " * 80 for i in range(4))).cells
    notebook = report.clean(made)
    context = {"name": "04_complex_cnn/default", "title": "A title", "dataset": "sample", "sample": True}
    context |= {"previous": "03_dropout/default", "following": "05_analysis/schedule_and_clipping"}
    context |= {
        "files": ("history.csv",),
        "commands": ("make report " * 12,),
        "provenance": {"host": "h", "commit": "c" * 90},
    }
    failure = report.Failure(2, "y = 2", "KeyError", "a_word_without_any_blank_" * 8)
    claims = [{**CLAIM, "rule": "the rule " * 12, "verdict": v} for v in ("supported", "not supported", "inconclusive")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "read_notebook", lambda name: cells(f"# Chapter {name}"))
        rendered = {
            "page": report.render(notebook, report.PageContext(**context)),
            "failed": report.render(notebook, report.PageContext(**context, failure=failure)),
            "index": report.render_index(
                Settings(folder, "fer2013", "cpu", folder), ENTRIES, [*ROWS, *RESULTS], claims, 2, CONTENDERS
            ),
            "glossary": report.render_glossary(Settings(folder, "fer2013", "cpu", folder)),
        }
    faces = make_faces()
    sides = side(faces, folder, "01_basic_cnn/default", 3), side(faces, folder, "06_final/from_the_claims", 9)
    compared = report.clean(compare.document(sides, faces, sample=True).notebook())
    rendered["compare"] = report.render(compared, report.PageContext("compare/a+b", compare.title(sides), "sample"))
    assert predict.predict([str(HOPPER)], Settings(None, "sample", "cpu", folder)) == 0
    rendered["predictions"] = (folder / "reports/predictions/index.html").read_text(encoding="utf-8")
    for name, text in rendered.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    found = {kind: sorted(STUDY.glob(like)) or sorted(PUBLISHED.glob(like)) for kind, like in KINDS.items()}
    built = {kind: files[0].resolve().as_uri() for kind, files in found.items() if files}
    return {name: (folder / f"{name}.html").as_uri() for name in rendered} | built


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(OPTIONS))
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, pages: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Opens a page; fails at the end if it asked for anything but itself or wrote to the console."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(name: str, viewport: dict[str, int] = DESK, **options: Any) -> Any:
        if name not in pages:
            pytest.skip(f"no {KINDS[name]} in {STUDY}: make all-reports")
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(pages[name])
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in asked if url not in pages.values() and not url.startswith("data:")] == []
    assert complaints == []


EVERY_PAGE = pytest.mark.parametrize("name", ["page", "failed", "index", "compare", "glossary", "predictions", *KINDS])
EVERY_WIDTH = pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
EVERY_SCHEME = pytest.mark.parametrize("scheme", ["light", "dark"])


@EVERY_PAGE
@EVERY_WIDTH
def test_nothing_is_wider_than_the_screen(show: Callable[..., Any], name: str, viewport: dict[str, int]) -> None:
    assert show(name, viewport).evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@EVERY_PAGE
def test_page_is_whole_without_scripts(show: Callable[..., Any], name: str) -> None:
    page = show(name, PHONE, java_script_enabled=False)
    assert page.locator("h1").is_visible() and (name == "glossary" or page.locator(".toc a").first.is_visible())
    assert page.locator(".filter").count() == 0  # no control that would do nothing


def test_code_unfolds_without_scripts(show: Callable[..., Any]) -> None:
    page = show("page", java_script_enabled=False)
    fold = page.locator("details.code", has_text="very long")
    assert not fold.locator("pre").is_visible()
    fold.locator("summary").click()
    assert fold.locator("pre").is_visible()


def test_contents_fold_on_a_phone_and_stay_in_view_at_a_desk(show: Callable[..., Any]) -> None:
    assert not show("page", PHONE).locator(".toc nav").is_visible()
    page = show("page", DESK)
    page.locator(".toc a", has_text="Section 1").click()
    page.locator(".toc [aria-current]", has_text="Section 1").wait_for()
    assert page.evaluate("scrollY") > 500
    assert page.locator(".toc a").first.evaluate("a => a.getBoundingClientRect().top") >= 0


def test_one_button_unfolds_all_code(show: Callable[..., Any]) -> None:
    page = show("page")
    page.get_by_role("button", name="Show all code").click()
    assert page.locator("details.code:not([open])").count() == 0
    page.get_by_role("button", name="Hide all code").click()
    assert page.locator("details.code[open]").count() == 0


def test_results_sort_by_a_click(show: Callable[..., Any]) -> None:
    page = show("index")
    verdicts = page.locator("table.sortable").first.locator("tbody tr td:first-child")
    page.get_by_role("button", name="Verdict").click()
    assert [text.strip() for text in verdicts.all_inner_texts()] == ["inconclusive", "not supported", "supported"]
    page.get_by_role("button", name="Verdict").click()
    assert verdicts.first.inner_text().strip() == "supported"


def test_results_are_filtered_by_words_and_whole_again_without(show: Callable[..., Any]) -> None:
    page = show("index")
    rows, heads = page.locator("table.board tbody tr"), page.locator("table.settings thead [data-p]")
    others = page.locator("table.settings tbody tr")
    assert rows.count() == others.count() == len(CONTENDERS) and heads.count() == 2
    page.locator("table.settings").get_by_role("button", name="Page").click()  # in whatever order the second one is
    field = page.locator("#results ~ .filter input").first
    field.fill("06_final")
    visible = [row for row in rows.all() if row.is_visible()]
    assert 0 < len(visible) < rows.count() and all("06_final" in row.inner_text() for row in visible)
    assert len(visible) == len([row for row in others.all() if row.is_visible() and "06_final" in row.inner_text()])
    told = page.locator("#results ~ .filter [role=status]").first.inner_text()
    assert told == f"{len(visible)} of {rows.count()} rows"
    field.fill("complex")  # one row is left: no parameter differs
    assert not any(head.is_visible() for head in heads.all())
    field.fill("0.25")  # words of the second table count too
    assert 0 < len([row for row in rows.all() if row.is_visible()]) < rows.count()
    field.fill("")
    assert all(shown.is_visible() for shown in [*rows.all(), *others.all(), *heads.all()])


def test_results_fit_a_desk_and_what_scrolls_shows_it(show: Callable[..., Any]) -> None:
    for name in ("index", "study"):
        board = show(name).locator(".scroll:has(> table.board)")
        assert board.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
    for scheme in ("light", "dark"):
        box = show("index", PHONE, color_scheme=scheme).locator(".scroll:has(> table.board)")
        before, after = (edges(box, f"box => {{ box.scrollLeft = {x} }}") for x in (0, 9999))
        assert before == (False, True) and after == (True, False), (scheme, before, after)


def edges(box: Any, move: str) -> tuple[bool, bool]:
    """Whether the left and the right edge of a scrolling box have a shadow: another light than a little further in."""
    box.evaluate(move)
    shot = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("L"), float)
    rows = np.median(shot, axis=0)  # most of a column of pixels is paper
    return abs(rows[1] - rows[24]) > 8, abs(rows[-2] - rows[-25]) > 8


def test_charts_keep_their_letters_on_a_phone_and_scroll(show: Callable[..., Any]) -> None:
    page = show("training", PHONE)
    chart = page.locator("figure img.chart").first
    natural = int(chart.get_attribute("width"))
    assert chart.evaluate("img => img.getBoundingClientRect().width") == min(natural, 34 * 16)
    box = chart.locator("..")
    assert box.evaluate("box => box.scrollWidth - box.clientWidth") > 0 and box.get_attribute("tabindex") == "0"


# Of a page as it would be printed: what is cut off, what is dark, and what a reader could not unfold any more.
PAPER = """() => {
  const seen = [...document.querySelectorAll("body, body *")].filter(e => e.checkVisibility());
  const style = (e, name) => getComputedStyle(e)[name];
  const light = colour => {
    const [r, g, b, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return alpha === 0 || (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255 > 0.7;
  };
  const longer = e => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1;
  const cut = e => style(e, "overflow") !== "visible" && longer(e);
  const told = e => e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 40);
  const across = e => e.closest(".across") && style(e.closest(".across"), "page") === "across";
  const broken = e => {
    const range = document.createRange();
    const number = node => node.nodeType === 3 && /^[−+]?[\\d.,]+( ?%)?$/.test(node.data.trim());
    for (const text of [...e.childNodes].filter(number)) {
      range.selectNodeContents(text);
      if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) return true;
    }
    return false;
  };
  const folds = [...document.querySelectorAll("main details:not(.code) > :not(summary)")];
  return {
    broken: seen.filter(e => e.matches("td, th, .chip, small") && !e.closest(".broken") && broken(e)).map(told),
    split: seen.filter(e => e.matches(".chip") && e.offsetHeight > 2 * parseFloat(style(e, "fontSize"))).map(told),
    marked: seen.filter(e => e.matches("main summary") && style(e, "listStyleType") !== "none").map(told),
    asked: seen.filter(e => e.matches("input")).map(told),
    cut: seen.filter(cut).map(told),
    dark: seen.filter(e => !e.matches(".bars span") && !light(style(e, "backgroundColor"))).map(told),
    turned: seen.filter(e => style(e, "filter") !== "none").map(told),
    folded: folds.filter(e => !e.getClientRects().length).map(told),
    code: seen.filter(e => e.matches("details.code:not([open]) *")).map(told),
    navigation: seen.filter(e => e.matches("aside, .neighbours, .skip, .anchor")).map(told),
    wider: seen.filter(e => e.getBoundingClientRect().right > (across(e) ? ACROSS : innerWidth) + 1).map(told),
  };
}"""


@EVERY_PAGE
def test_paper_is_white_whole_and_without_code_or_navigation(show: Callable[..., Any], name: str) -> None:
    page = show(name, A4, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    found = page.evaluate(PAPER.replace("ACROSS", str(A4["height"])))
    assert {what: names for what, names in found.items() if names} == {}


def test_code_that_was_unfolded_is_printed(show: Callable[..., Any]) -> None:
    page = show("page", A4)
    page.get_by_role("button", name="Show all code").click()
    page.emulate_media(media="print")
    assert page.locator("details.code pre", has_text="very long").is_visible()


def test_charts_turn_dark_and_faces_keep_their_light(show: Callable[..., Any]) -> None:
    page = show("training", color_scheme="dark")
    for images, dark in ((page.locator("figure img.chart"), True), (page.locator("figure img:not(.chart)"), False)):
        shot = Image.open(io.BytesIO(images.first.screenshot())).convert("L")
        assert bool(np.median(np.asarray(shot)) < 60) == dark


def test_pages_of_the_study_are_light_enough_to_send() -> None:
    """At most 1.5 MB each, and half a megabyte the usual one."""
    sizes = {str(file.relative_to(STUDY)): file.stat().st_size for file in STUDY.rglob("*.html")}
    if not sizes:
        pytest.skip(f"no page in {STUDY}: make all-reports")
    assert {name: size for name, size in sizes.items() if size > 1_500_000} == {}
    assert statistics.median(sizes.values()) <= 500_000


@pytest.mark.skipif(not AXE, reason="FER_AXE does not say where axe.min.js is: npm pack axe-core")
@EVERY_PAGE
@EVERY_SCHEME
@EVERY_WIDTH
def test_axe_finds_nothing(show: Callable[..., Any], name: str, scheme: str, viewport: dict[str, int]) -> None:
    page = show(name, viewport, color_scheme=scheme, bypass_csp=True)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.add_script_tag(path=AXE)
    found = page.evaluate(
        "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | ')))"
    )
    assert found == []


# -- withheld faces, drawn from the reader's own file

REAL = os.environ.get("FER_TEST_DATA")
NUMBERS = [str(grey) for grey in range(256)]


def written(path: Path, faces: data.Faces, layout: str) -> Path:
    """The images as `fer2013.csv` or, with other columns in another order, as `icml_face_data.csv`."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write("emotion,pixels,Usage\n" if layout == "fer2013" else "emotion, Usage, pixels\n")
        for image, label, usage in zip(faces.images, faces.labels, faces.usage, strict=True):
            pixels = " ".join([NUMBERS[grey] for grey in image.ravel().tolist()])
            parts = (pixels, data.USAGES[usage]) if layout == "fer2013" else (data.USAGES[usage], pixels)
            file.write(f"{label},{','.join(parts)}\n")
    return path


def withheld_page(faces: data.Faces, rows: Iterable[int], path: Path) -> str:
    """The address of a page on which these faces are withheld."""
    named = [[str(faces.ids[row]), faces.classes[faces.labels[row]]] for row in rows]
    told = {"columns": ["image_id", "true"], "rows": named, "size": list(faces.image_size), "means": {}}
    fer = {"faces": True, "stand_in": told | {"line": "Faces"}}
    notebook = report.clean(nbformat.v4.new_notebook(cells=[with_output({"image/png": picture()}, {"fer": fer})]))
    path.write_text(report.render(report.withhold_faces(notebook), report.PageContext("n/p", "T", "d")), "utf-8")
    return path.as_uri()


DRAWN = """() => [...document.querySelectorAll("[data-face] canvas")].map(canvas => [
  canvas.parentElement.dataset.face,
  [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0),
])"""


WATCH = """() => {
  globalThis.answers = 0;
  setInterval(() => { answers += 1; }, 20);
}"""


def load(opened: Any, file: Path, patience: float) -> tuple[str, dict[str, list[int]], int]:
    """What the page says after it read the file, the faces it drew, and how often it could have answered meanwhile."""
    opened.evaluate(WATCH)
    opened.set_input_files("#own-file", file)
    opened.locator(".load output", has_text=re.compile("images found|No line|could not")).wait_for(
        timeout=patience * 1000
    )
    answers = opened.evaluate("answers")
    return opened.locator(".load output").inner_text(), dict(opened.evaluate(DRAWN)), answers


@pytest.fixture
def open_withheld(browser: Any) -> Iterator[Callable[[str], Any]]:
    asked: list[str] = []
    complaints: list[str] = []

    def opened(address: str) -> Any:
        page = browser.new_context(viewport=PHONE).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        return page

    yield opened
    assert len(asked) == 1 and complaints == []  # the page itself, and nothing while it read the reader's file


@pytest.mark.parametrize("layout", ["fer2013", "icml"])
def test_readers_own_faces_are_drawn_into_their_places(
    open_withheld: Callable[[str], Any], tmp_path: Path, layout: str
) -> None:
    faces = small(hashed=True)
    page = open_withheld(withheld_page(faces, range(5), tmp_path / "page.html"))
    said, drawn, _ = load(page, written(tmp_path / "mine.csv", faces, layout), 30)
    assert said == "5 of 5 images found in mine.csv."
    assert drawn == {str(faces.ids[i]): faces.images[i].ravel().tolist() for i in range(5)}


def test_a_file_without_the_images_is_said_to_be_another(open_withheld: Callable[[str], Any], tmp_path: Path) -> None:
    faces = small(hashed=True)
    page = open_withheld(withheld_page(faces, range(3), tmp_path / "page.html"))
    said, drawn, _ = load(page, written(tmp_path / "other.csv", small(seed=9), "fer2013"), 30)
    assert said.startswith("0 of 3 images found in other.csv.") and not drawn
    (tmp_path / "notes.csv").write_text("some,words\n1,2\n")
    assert load(page, tmp_path / "notes.csv", 30)[0].startswith("No line of notes.csv holds the 256 pixels")


def test_without_scripts_nobody_is_asked_for_a_file(browser: Any, tmp_path: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(withheld_page(small(hashed=True), range(2), tmp_path / "page.html"))
    assert page.locator("#own-data").is_visible() and not page.locator("#own-file").is_visible()


def small(seed: int = 0, hashed: bool = False) -> data.Faces:
    """Faces whose ids are what `data` makes of their pixels."""
    faces = make_faces(40, seed=seed)
    digests = np.array([hashlib.sha256(image.tobytes()).hexdigest()[:12] for image in faces.images])
    return dataclasses.replace(faces, ids=digests) if hashed else faces


@pytest.mark.skipif(not REAL, reason="FER_TEST_DATA does not name a FER2013")
def test_real_images_of_a_300_mb_file_are_found_while_the_page_stays_alive(
    open_withheld: Callable[[str], Any], tmp_path: Path
) -> None:
    faces = data.open_faces(Path(str(REAL)), tmp_path / "store")
    file = written(tmp_path / "fer2013.csv", faces, "fer2013")
    assert file.stat().st_size > 280e6
    rows = [*range(0, faces.n, 3000), faces.n - 1]  # the last one too: the whole file is read
    page = open_withheld(withheld_page(faces, rows, tmp_path / "page.html"))
    said, drawn, answers = load(page, file, 300)
    assert said == f"{len(rows)} of {len(rows)} images found in fer2013.csv."
    assert drawn == {str(faces.ids[row]): faces.images[row].ravel().tolist() for row in rows}
    assert answers > 50, answers  # four without its breaks; how fast they come is the machine's
