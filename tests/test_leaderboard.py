"""The index: its abstract follows from the two CSV files, its leaderboard hides no trouble, terms are linked."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fer_core import artifacts, glossary, leaderboard, report
from fer_core.artifacts import Settings
from fer_core.leaderboard import Contender
from fer_core.schema import ROOT, Params


def row(page: str, seed: int = 0, validation: float = 0.5, official: float | None = None, **more: Any) -> Any:
    """A row of results.csv; a scored one has intervals of two points either way, and is 2 points worse leak-free."""
    made: dict[str, Any] = dict.fromkeys(artifacts.RESULT_COLUMNS)
    made |= {"page": page, "notebook": page.split("/")[0], "seed": seed, "validation_accuracy": validation}
    made |= {"status": "done", "training_key": f"{page}-{seed}", "parameters": 1000}
    if official is not None:
        for part, value in (("test_official", official), ("test_leak_free", official - 0.02)):
            made |= {f"{part}_accuracy": value, f"{part}_low": value - 0.02, f"{part}_high": value + 0.02}
    return made | more


RESULTS = [
    row("01_basic_cnn/default", 0, 0.50, 0.52),
    row("01_basic_cnn/default", 1, 0.54, 0.53),
    row("04_complex_cnn/default", 0, 0.57, 0.59, parameters=90_000),
    row("05_analysis/dropout", 0, 0.99, status="diverged"),
    row("06_final/all_fixes", 0, 0.61, 0.60),
    row("06_final/from_the_claims", 0, 0.60, 0.62),
    row("06_final/from_the_claims", 1, 0.66, 0.63),
    row("07_beyond/default", 0, 0.70, 0.71),
]
CLAIM = {"effect": -0.1, "low": -0.2, "high": None, "n": 3, "rule": "R", "told": "−10.0 points"}
CLAIMS = [
    CLAIM | {"claim": "C", "page": "05_analysis/dropout", "verdict": "supported"},
    CLAIM | {"claim": "D", "page": "05_analysis/batch_norm", "verdict": "not supported"},
]


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


# -- the abstract


def test_abstract_takes_every_number_from_the_rows() -> None:
    text = plain(leaderboard.abstract(RESULTS, CLAIMS))
    assert "in 8 trainings: 5 pages of models (1,000 to 90,000 parameters) and 2 claims" in text
    assert "1 training diverged" in text
    assert (
        "of the 4 networks built after the original's, 2 are trained; of these `04_complex_cnn/default` is right on "
        "the most validation images" in text
    )
    assert "`01_basic_cnn/default` (52.0 %)" in text  # the mean over its two seeds
    assert "`04_complex_cnn/default` on 59.0 % [57.0, 61.0] and 57.0 % [55.0, 59.0] (the original: 61 %)" in text
    assert "accuracy is 2.0 points higher than without them, on average over 5 pages of models; how much" in text
    assert "the final model so far (2 of 4 recipes are trained), `06_final/from_the_claims` on" in text
    assert (
        "Claims:** 2 of 13 have all their runs, and rules that were written down before: "
        "1 supported (`05_analysis/dropout`); 1 not supported (`05_analysis/batch_norm`)." in text
    )


def test_abstract_of_drawn_faces_says_before_its_figures_that_they_are_no_results() -> None:
    paragraphs = leaderboard.abstract(RESULTS, CLAIMS, fer2013=False, sample=True).split("\n\n")
    assert paragraphs[1] == leaderboard.DRAWN and paragraphs[2].startswith("**Found:**")
    assert leaderboard.DRAWN not in leaderboard.abstract(RESULTS, CLAIMS, fer2013=False)


def test_board_names_pages_of_other_validation_images_and_of_watched_test_images() -> None:
    beyond = Params(split="official", score_test=True, test_by_epoch=True)
    contenders = [Contender("07_beyond/default", beyond), Contender("01_basic_cnn/default", Params())]
    board = leaderboard.board(RESULTS, contenders, [])
    assert board["apart"] == board["watched"] == ["07_beyond/default"]
    assert leaderboard.board([], contenders, [])["apart"] == []  # not trained yet


def test_best_network_stands_beside_the_verdict_on_it() -> None:
    depth = CLAIMS[0] | {"page": "05_analysis/depth", "verdict": "inconclusive"}
    assert "the claim that it is the best is inconclusive (`05_analysis/depth`)" in leaderboard.abstract(
        RESULTS, [depth]
    )
    assert "the claim that it is the best" not in leaderboard.abstract(RESULTS, CLAIMS)


def test_abstract_counts_apart_what_belongs_to_claims_without_a_verdict() -> None:
    shared = dict(RESULTS[0], page="05_analysis/depth", training_key="k")
    under_way = [dict(shared, training_key=key) for key in ("k", "l", "m")]
    text = leaderboard.abstract([dict(RESULTS[0], training_key="k"), *under_way], [])
    assert "in 1 training: 1 page" in text and "Not counted: 2 trainings of claims under way." in text


def test_abstract_without_a_copy_in_the_test_speaks_of_none() -> None:
    alike = [dict(row, test_leak_free_accuracy=row["test_official_accuracy"]) for row in RESULTS]
    assert "copy" not in leaderboard.abstract(alike, [])


def test_a_parameter_that_a_network_settles_itself_is_no_value_of_its_page() -> None:
    basic, deep = Params(network="basic_cnn", batch_norm=True), Params(network="complex_cnn")
    assert leaderboard.shown(basic, "batch_norm") == "yes"
    assert leaderboard.shown(deep, "batch_norm") == leaderboard.SETTLED
    assert leaderboard.shown(deep, "dropout") == "0"


def test_abstract_is_the_same_from_the_files_text_as_from_numbers() -> None:
    file = io.StringIO()
    writer = csv.DictWriter(file, artifacts.RESULT_COLUMNS)
    writer.writeheader()
    writer.writerows(RESULTS)
    read = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert read[0]["test_official_accuracy"] == "0.52"
    assert leaderboard.abstract(read, CLAIMS) == leaderboard.abstract(RESULTS, CLAIMS)


def test_abstract_names_no_published_figure_beside_other_images() -> None:
    text = leaderboard.abstract(RESULTS, CLAIMS, fer2013=False)
    assert "original:" not in text and "73.70" not in text and "62.75" not in text
    assert "73.70" in leaderboard.abstract(RESULTS, CLAIMS)


def test_abstract_of_an_unfinished_study_says_only_what_is_there() -> None:
    assert leaderboard.abstract([], []).startswith("No training has finished yet")
    text = leaderboard.abstract(RESULTS[:1], [])
    assert "in 1 training: 1 page" in text and "Claims" not in text and "final model" not in text and "None" not in text


def test_abstract_on_drawn_data_gives_no_verdict() -> None:
    claims = [{**claim, "verdict": "not evaluated on sample data"} for claim in CLAIMS]
    assert "their verdicts are not evaluated on sample data" in leaderboard.abstract(RESULTS, claims, False)


@pytest.mark.parametrize(
    ("done", "planned", "words"),
    [
        (1, 12, "1 of 12 has all its runs, {}: supported ({d})."),
        (1, 1, "1 of 1 has all its runs, {}: supported ({d})."),
        (2, 2, "all 2 have all their runs, {}: 1 supported ({d}); 1 not supported ({b})."),
        (2, 3, "2 of 3 have all their runs, {}: 1 supported"),
    ],
)
def test_abstract_counts_claims_in_whole_sentences(done: int, planned: int, words: str) -> None:
    rules = "and rules that were written down before"
    words = words.format(rules, d="`05_analysis/dropout`", b="`05_analysis/batch_norm`")
    assert f"**Claims:** {words}" in leaderboard.abstract(RESULTS, CLAIMS[:done], claims_planned=planned)


def test_findings_are_four_sentences_and_the_abstract_ends_with_them() -> None:
    found = leaderboard.findings(RESULTS, CLAIMS)
    assert len(found) == 4 and all(plain(text).count(". ") == 0 for text in found)
    assert leaderboard.abstract(RESULTS, CLAIMS).endswith("\n\n".join(found))
    assert "known to ± 1.6 points" in plain(found[1])


def test_final_model_is_chosen_by_mean_validation_and_never_by_the_test() -> None:
    assert leaderboard.final_page(RESULTS) == "06_final/from_the_claims"
    better = [dict(r, test_official_accuracy=0.99) if r["page"] == "06_final/all_fixes" else r for r in RESULTS]
    assert leaderboard.final_page(better) == "06_final/from_the_claims"
    assert leaderboard.final_page(RESULTS[:3]) is None


def test_headline_is_the_first_seed() -> None:
    lines = {line.page: line for line in leaderboard.headlines(RESULTS)}
    assert lines["06_final/from_the_claims"].row["test_official_accuracy"] == 0.62
    assert "05_analysis/dropout" not in lines


def test_importing_the_leaderboard_and_the_glossary_is_cheap() -> None:
    code = "import sys, fer_core.leaderboard, fer_core.glossary; print({'torch', 'numpy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


# -- the leaderboard

CONTENDERS = [
    Contender("01_basic_cnn/default", Params(epochs=5), ((0.2, 0.5), (0.2, None, 0.54)), {"done": 1, "diverged": 1}),
    Contender("04_complex_cnn/default", Params(epochs=5, dropout=0.25, width=0.5), ((0.57,),), {"done": 1}),
    Contender("06_final/patience_1", Params(epochs=5, dropout=0.25, width=0.5), (), {"failed": 1, "missing": 2}),
]
ENTRIES = [
    {"name": name, "title": "", "finding": "", "state": state, "href": f"{name}.html", "reason": "a reason"}
    for name, state in zip((c.page for c in CONTENDERS), ("stale", "done", "failed"), strict=True)
]


def test_only_parameters_that_differ_are_columns() -> None:
    board = leaderboard.board(RESULTS, CONTENDERS, ENTRIES)
    assert board["columns"] == ["width", "dropout"]
    assert board["shared"] == "epochs 5"
    assert board["rows"][-1]["values"] == [("0.5", False), ("0.25", False)]


def test_best_validation_comes_first_and_pages_without_a_run_last() -> None:
    pages = [found["page"] for found in leaderboard.board(RESULTS, CONTENDERS, ENTRIES)["rows"]]
    assert pages == ["04_complex_cnn/default", "01_basic_cnn/default", "06_final/patience_1"]


def test_failed_stale_diverged_and_missing_runs_are_visible() -> None:
    rows = {found["page"]: found for found in leaderboard.board(RESULTS, CONTENDERS, ENTRIES)["rows"]}
    assert rows["01_basic_cnn/default"]["troubles"] == [("1 of 2 runs diverged", "diverged")]
    assert dict(rows["06_final/patience_1"]["troubles"]).keys() == {"1 of 3 runs failed", "2 of 3 runs missing"}
    page = index()
    for words in ("1 of 2 runs diverged", "1 of 3 runs failed", ">stale<", ">failed<"):
        assert words in page


def test_sparkline_is_drawn_to_a_common_scale_and_told_in_words() -> None:
    drawn = leaderboard.sparkline(((0.0, 1.0), (0.5, None, 0.5)), (0.0, 1.0))
    assert 'points="2.0,26.0 56.0,2.0"' in drawn  # two of three epochs, from bottom to top
    assert 'aria-label="Validation accuracy from 0.0\u00a0% to 100.0\u00a0% in 2 epochs"' in drawn
    assert leaderboard.sparkline(()) == "" and leaderboard.sparkline(((None,),)) == ""


def test_axis_shows_both_accuracies_with_intervals_and_marks_the_published_figures() -> None:
    drawn = leaderboard.accuracy_axis(leaderboard.headlines(RESULTS), leaderboard.marks(True))
    assert drawn.count('<circle class="official"') == drawn.count('<circle class="free"') == 5
    assert drawn.count('<line class="official"') == 5
    assert "original, ComplexCNN 61<" in drawn and "original, rare_transforms 62.75<" in drawn
    assert "ResEmoteNet 79.79+?<" in drawn
    dotted = re.findall(r'<text class="name more"[^>]*>([^<]+)<', drawn)
    assert dotted and all("+" in name for name in dotted)  # a figure that is only disputed is drawn as any other
    places = [float(x) for x in re.findall(r'<text class="name [a-z]+" x="([\d.]+)%"', drawn)]
    assert places == sorted(places) and len(places) == 13  # the lowest first: no line crosses a name
    bands = re.findall(r'<rect x="0" y="(\d+)" width="100%" height="(\d+)"', drawn)
    rows = [(float(y), float(tall)) for y, tall in bands]
    words = [float(y) for y in re.findall(r'<text class="(?:page|figures)" x="0" y="(\d+)"', drawn)]
    assert len(words) == 10 and not any(y <= word <= y + tall for word in words for y, tall in rows)  # no line there
    assert "WuJie" not in drawn  # states no figure of its own


def test_axis_of_other_images_has_no_marks_and_of_unscored_ones_is_empty() -> None:
    assert leaderboard.marks(False) == ()
    assert leaderboard.accuracy_axis(leaderboard.headlines([row("01_basic_cnn/default")])) == ""


def test_index_says_how_many_pages_are_made_so_far() -> None:
    entries = [ENTRIES[0], *(entry | {"state": "missing", "href": None} for entry in ENTRIES[1:])]
    page = report.render_index(Settings(Path("x"), "d", "cpu", Path("out")), entries, RESULTS, CLAIMS, 3)
    assert "1 of 3 pages is made so far, each from a notebook" in page


def test_runs_of_a_claim_are_counted_with_the_diverged_among_them() -> None:
    claim = {"name": CLAIMS[0]["page"], "title": "", "finding": "", "state": "done", "href": "x.html", "reason": ""}
    entries = [*ENTRIES, claim | {"runs": {"done": 23, "diverged": 7, "missing": 0}}]
    page = report.render_index(Settings(Path("x"), "d", "cpu", Path("out")), entries, RESULTS, CLAIMS, 3)
    assert "<td data-n>30<br><small>7 diverged</small></td>" in page and "0 missing" not in page


def index(sample: bool = False) -> str:
    settings = Settings(None if sample else Path("x"), "d", "cpu", Path("out"))
    return report.render_index(settings, ENTRIES, RESULTS, CLAIMS, 3, CONTENDERS)


def test_index_is_whole_without_scripts_and_says_what_the_study_says() -> None:
    page = index()
    head = page.partition("<script>")[0]
    assert "3 pages, each from a notebook" in head and "−10.0 points" in head
    assert plain(head).count("57.0 %") >= 2 and '<svg class="spark"' in head and '<svg class="axis"' in head
    assert "How the literature's figures were made" in head and "PublicTest, one test at the end" in head
    assert '<a href="04_complex_cnn/default.html"><code>04_complex_cnn/default</code></a>' in head
    assert "<strong>3 times</strong>" in head


def test_index_of_drawn_data_has_no_published_figure() -> None:
    assert "ResEmoteNet" not in index(sample=True) and "ResEmoteNet" in index()


def test_index_is_the_same_bytes_each_time() -> None:
    assert index() == index()


# -- the glossary


@pytest.mark.parametrize("around", ["<code>{}</code>", "<h2>{}</h2>", '<a href="x">{}</a>', "<td>{}</td>"])
def test_no_term_is_linked_inside_code_headings_links_and_tables(around: str) -> None:
    inside = around.format("Dropout")
    inside = f"<table><tr>{inside}</tr></table>" if around.startswith("<td") else inside
    linked = glossary.link(f"{inside}<p>Dropout, and Dropout again</p>")
    assert linked == f'{inside}<p><a class="term" href="glossary.html#dropout">Dropout</a>, and Dropout again</p>'


def test_terms_in_attributes_names_and_paths_are_left_alone() -> None:
    text = '<p title="Dropout > seeds">03_dropout/default, epochs.csv, no-dropout</p><!-- Dropout -->'
    assert glossary.link(text) == text


def test_longer_term_is_not_taken_for_the_shorter_one() -> None:
    assert 'href="g#calibration-error">calibration error<' in glossary.link("<p>a calibration error</p>", "g")


def test_every_term_is_found_by_its_own_name_and_has_a_place_of_its_own() -> None:
    for term in glossary.TERMS:
        assert f'#{term.slug}"' in glossary.link(f"<p>{term.name}</p>"), term.name
    assert len({term.slug for term in glossary.TERMS}) == len(glossary.TERMS)


def test_glossary_page_has_every_place_that_pages_link_to() -> None:
    page = report.render_glossary(Settings(None, "d", "cpu", Path("out")))
    places = set(re.findall(r'<div id="([\w-]+)">', page))
    assert places == {term.slug for term in glossary.TERMS}
    assert set(re.findall(r'class="term" href="#([\w-]+)"', page)) <= places
    linked = set(re.findall(r'class="term" href="glossary.html#([\w-]+)"', index()))
    assert len(linked) > 5 and linked <= places


def test_provenance_links_nothing() -> None:
    page = "<main><p>x</p><!-- provenance --><dd>precision differs</dd><!-- /provenance --></main>"
    assert glossary.link_page(page, "g") == page
