"""Pages side by side: the same images, the exact test, what differs; faces are marked, and nothing is drawn twice."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fer_core import artifacts, build, compare, evaluation, plots, report, schema
from fer_core.artifacts import Run, Settings
from fer_core.compare import Side
from fer_core.data import Faces, make_split
from fer_core.schema import ParameterError, Params

A, B, C = "01_basic_cnn/default", "02_batch_norm/default", "06_final/all_fixes"


def side(faces: Faces, folder: Path, name: str, wrong: int, scored: bool = False, **params: Any) -> Side:
    """A page of two seeds, one image apart, that have every `wrong`-th image wrong and answer with the next class."""
    told = Params(score_test=scored, **params)
    split, runs = make_split(faces, told.split), []
    for seed in range(2):
        place = folder / f"{name.replace('/', '_')}{seed}"
        rows = np.concatenate([split.validation, split.test] if scored else [split.validation])
        answer = faces.labels[rows].astype(int)
        answer[seed::wrong] = (answer[seed::wrong] + 1) % 3
        table = pd.DataFrame({"image_id": faces.ids[rows], "label": faces.labels[rows].astype(int)})
        table.insert(1, "split", np.where(np.isin(rows, split.test), "test", "validation"))
        table[["p_class0", "p_class1", "p_class2"]] = np.where(np.eye(3)[answer] > 0, 0.8, 0.1)
        right = float((answer == table["label"])[: len(split.validation)].mean())
        metrics = {"validation": {"accuracy": right}, "gap": 0.1, "selected_epoch": 2, "parameters": 1234}
        artifacts.write_json(place / "metrics.json", metrics | ({"test_official": {}} if scored else {}))
        how = {"device": "cpu", "precision": "float32"}
        artifacts.write_json(place / "run.json", {"state": "done", "seconds": 1.0, "host": "h"} | how)
        artifacts.write_frame(place / "predictions.parquet", table)
        history = {"epoch": [1, 2], "validation_accuracy": [0.4, right], "validation_loss": [1.0, 0.9 + seed / 10]}
        artifacts.write_frame(place / "history.csv", pd.DataFrame(history))
        runs.append(Run(f"{name}{seed}", dataclasses.replace(told, seed=seed), place))
    return Side(name, told, tuple(runs))


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch, faces: Faces) -> None:
    monkeypatch.setattr(compare.data, "open_faces", lambda *_: faces)


@pytest.fixture
def sides(faces: Faces, tmp_path: Path) -> tuple[Side, Side]:
    return side(faces, tmp_path, A, 3), side(faces, tmp_path, B, 9, batch_norm=True)


def text(made: compare.Document) -> str:
    return json.dumps(made.notebook(), ensure_ascii=False)


# -- the same images


def test_mcnemar_and_difference_are_about_the_images_that_both_answered(sides: tuple[Side, Side]) -> None:
    found = compare.pair(*sides, "validation", 3)
    n = found.n
    wrong_a, wrong_b = set(range(0, n, 3)), set(range(0, n, 9))
    only_b = len(wrong_a - wrong_b)
    assert found.asked == (n, n) and found.mcnemar[:2] == (0, only_b)
    assert found.mcnemar[2] == pytest.approx(2 * 0.5**only_b)
    assert found.difference.value == pytest.approx(only_b / n)


def test_pages_that_split_differently_are_compared_on_common_images_and_it_is_said(
    faces: Faces, tmp_path: Path
) -> None:
    made = side(faces, tmp_path, A, 3), side(faces, tmp_path, C, 5, split="official")
    found = compare.pair(*made, "validation", 3)
    ids = [set(one.runs[0].predictions["image_id"]) for one in made]
    assert set(found.ids) == ids[0] & ids[1] and 0 < found.n < min(map(len, ids))
    page = text(compare.document(made, faces, sample=False))
    assert f"they have {found.n} in common" in page and "split differently" in page


def test_pages_without_a_common_image_still_have_their_curves(faces: Faces, sides: tuple[Side, Side]) -> None:
    for run in sides[1].runs:
        renamed = run.predictions.assign(image_id="x" + run.predictions["image_id"])
        artifacts.write_frame(run.folder / "predictions.parquet", renamed)
    fresh = Side(B, sides[1].params, tuple(Run(run.key, run.params, run.folder) for run in sides[1].runs))
    page = text(compare.document((sides[0], fresh), faces, sample=False))
    assert "no validation image in common" in page and "validation_accuracy" in page and "disagree" not in page


def test_test_images_are_compared_only_where_both_pages_may_score_them(faces: Faces, tmp_path: Path) -> None:
    both = side(faces, tmp_path, A, 3, scored=True), side(faces, tmp_path, B, 9, scored=True)
    assert "test, official" in text(compare.document(both, faces, sample=False))
    (tmp_path / "other").mkdir()
    one = both[0], side(faces, tmp_path / "other", B, 9)
    assert "test, official" not in text(compare.document(one, faces, sample=False))


def test_interval_of_a_paired_difference_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n, p_a, p_b = 200, 0.15, 0.25
    draws = rng.multinomial(n, [p_a, p_b, 1 - p_a - p_b], 2000)
    intervals = [evaluation.paired_difference(int(a), int(b), n) for a, b, _ in draws]
    assert 0.94 < np.mean([i.low < p_b - p_a < i.high for i in intervals]) < 0.97
    assert evaluation.paired_difference(0, 0, 0) == (None, None, None, 0)


# -- the page


def test_only_differing_parameters_and_the_first_seeds_figures_are_told(faces: Faces, sides: tuple[Side, Side]) -> None:
    page = text(compare.document(sides, faces, sample=False))
    assert "<td>batch_norm</td>" in page and "<td>dropout</td>" not in page
    found = compare.pair(*sides, "validation", 3)
    shares = [f"{found.right(place).mean() * 100:.1f}\u00a0%" for place in (1, 0)]
    finding = compare.finding([found], sample=False)
    assert f"02_batch_norm has {shares[0]} right, 01_basic_cnn {shares[1]}" in finding and "McNemar" in finding
    assert "drawn" not in finding and "drawn" in compare.finding([found], sample=True)


def test_runs_that_were_computed_differently_are_said_to_be(faces: Faces, sides: tuple[Side, Side]) -> None:
    assert "computed in" not in text(compare.document(sides, faces, sample=False))
    file = sides[1].runs[1].folder / "run.json"
    artifacts.write_json(file, json.loads(file.read_text()) | {"precision": "bfloat16"})
    other = dataclasses.replace(sides[1], runs=tuple(dataclasses.replace(run) for run in sides[1].runs))
    told = text(compare.document((sides[0], other), faces, sample=False))
    assert "computed in bfloat16 on cpu and float32 on cpu" in told


def test_three_pages_are_each_compared_with_the_first(faces: Faces, tmp_path: Path, sides: tuple[Side, Side]) -> None:
    page = text(compare.document([*sides, side(faces, tmp_path, C, 4)], faces, sample=False))
    assert "01_basic_cnn and 02_batch_norm disagree" in page and "01_basic_cnn and 06_final/all_fixes disagree" in page


def outputs(made: compare.Document) -> list[Any]:
    return [output for cell in made.cells for output in cell.get("outputs", [])]


def test_faces_are_marked_and_may_be_withheld_with_their_ids_standing_in(
    faces: Faces, sides: tuple[Side, Side]
) -> None:
    shown = [output for output in outputs(compare.document(sides, faces, False)) if "image/png" in output["data"]]
    assert [output["metadata"]["fer"]["faces"] for output in shown].count(True) == 1  # only b has any right alone
    assert all(output["metadata"]["image/png"]["alt"] for output in shown)
    withheld = report.withhold_faces(report.clean(compare.document(sides, faces, False).notebook()))
    left = [output for cell in withheld.cells for output in cell.get("outputs", [])]
    assert not any(output.metadata.get("fer", {}).get("faces") for output in left)
    (told,) = [output["data"][report.STAND_IN] for output in left if report.STAND_IN in output.get("data", {})]
    found = compare.pair(*sides, "validation", 3)
    assert [row[0] for row in told["rows"]] == list(found.ids[found.disagreements(1)]) and told["means"]


def test_surest_disagreements_come_first_whatever_the_order_of_rows(sides: tuple[Side, Side]) -> None:
    found = compare.pair(*sides, "validation", 3)
    rows = found.disagreements(1)
    assert found.right(1)[rows].all() and not found.right(0)[rows].any() and len(rows) <= compare.SHOWN
    assert list(found.ids[rows]) == sorted(found.ids[rows])  # equally sure: by id


def test_a_network_that_answers_nan_is_wrong_and_breaks_nothing(faces: Faces, tmp_path: Path) -> None:
    made = side(faces, tmp_path, A, 3), side(faces, tmp_path, B, 9)
    run = made[1].runs[0]
    columns = ["p_class0", "p_class1", "p_class2"]
    artifacts.write_frame(run.folder / "predictions.parquet", run.predictions.assign(**dict.fromkeys(columns, np.nan)))
    fresh = Side(B, made[1].params, (Run("k", run.params, run.folder),))
    assert "<td>none</td>" in text(compare.document((made[0], fresh), faces, False))


def test_page_is_whole_small_and_the_same_bytes_each_time(
    sides: tuple[Side, Side], place: Settings, faces: Faces
) -> None:
    compare.make(sides, place, {"a": 1})
    folder = place.reports / "compare" / "01_basic_cnn+02_batch_norm"
    page = folder.with_name(f"{folder.name}.html")
    stood = {file: file.read_bytes() for file in (page, *filter(Path.is_file, folder.rglob("*")))}
    assert {file.name for file in stood} >= {page.name, "answers.csv", "notebook.ipynb", "page.json"}
    compare.make(sides, place, {"a": 1})
    assert {file: file.read_bytes() for file in stood} == stood
    html = stood[page].decode()
    beside = re.findall(r'href="(01_basic_cnn\+02_batch_norm/figures/[^"]+)"', html)
    assert len(set(beside)) >= 4 and all((page.parent / file).exists() for file in beside)
    assert len(html) < 500_000 and 'href="../index.html"' in html and "make compare PAGES=&#34;" in html
    assert 'href="01_basic_cnn+02_batch_norm/answers.csv"' in html and "notebooks/compare" not in html
    assert re.search(r'class="term" href="../glossary.html#mcnemar-s-test"', html)
    assert report.comparisons(place.reports, []) == []  # one that does not stand any more
    listed = report.comparisons(place.reports, ["compare/01_basic_cnn+02_batch_norm"])
    assert [entry["href"] for entry in listed] == ["compare/01_basic_cnn+02_batch_norm.html"]
    assert "validation images" in listed[0]["finding"]
    answers = pd.read_csv(folder / "answers.csv")
    assert list(answers)[:3] == ["image_id", "label", "01_basic_cnn"]
    assert (answers["01_basic_cnn"] != answers["02_batch_norm"]).all()


# -- what may be compared, and when it is made


def plan_of(place: Settings, *sides: Side) -> Any:
    pages = {
        one.name: SimpleNamespace(
            name=one.name,
            params=one.params,
            runs=[SimpleNamespace(key=run.key, found=run) for run in one.runs],
            finished=list(one.runs),
            own=SimpleNamespace(found=one.runs[0]),
        )
        for one in sides
    }
    return SimpleNamespace(settings=place, pages=pages, data_hash="d", rendering={}, own={})


def test_comparison_is_made_once_and_again_when_a_run_changed(
    sides: tuple[Side, Side], place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.compare(plan_of(place, *sides), [A, B])
    drawn: list[str] = []
    monkeypatch.setattr(compare, "make", lambda *_: drawn.append("again"))
    assert not build.compare(plan_of(place, *sides), [A, B]) and not drawn
    other = dataclasses.replace(sides[1], runs=(dataclasses.replace(sides[1].runs[0], key="another"),))
    assert build.compare(plan_of(place, sides[0], other), [A, B]) and drawn


def test_a_comparison_somebody_asked_for_is_brought_up_to_date_or_left_out(
    sides: tuple[Side, Side], place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "results", lambda plan: [])
    monkeypatch.setattr(report, "COMPARED", ())
    assert build.compare(plan_of(place, sides[1], sides[0]), [B, A])
    name = report.comparison_name([B, A])
    drawn: list[str] = []
    monkeypatch.setattr(compare, "make", lambda *_: drawn.append("again"))
    other = dataclasses.replace(sides[1], runs=(dataclasses.replace(sides[1].runs[0], key="another"),))
    assert build.compare_study(plan_of(place, sides[0], other)) == {name: [B, A]} and drawn
    assert build.compare_study(plan_of(place, sides[0])) == {}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([A], "two pages or more"),
        ([A, A], "two pages or more"),
        ([A, "05_analysis/dropout"], "no run of its own"),
        ([A, "02_batch_norm/defualt"], "did you mean 02_batch_norm/default"),
        ([A, C], "no run of its own|make report"),
    ],
)
def test_what_cannot_be_compared_gets_one_sentence(
    sides: tuple[Side, Side], place: Settings, names: list[str], words: str
) -> None:
    with pytest.raises(ParameterError, match=words) as fault:
        build.compare(plan_of(place, *sides), names)
    assert "\n" not in str(fault.value)


def test_page_without_a_finished_run_is_named_with_the_command_that_makes_it(
    sides: tuple[Side, Side], place: Settings
) -> None:
    plan = plan_of(place, *sides)
    plan.pages[B].runs[0].found = None
    with pytest.raises(ParameterError, match=f"make report PAGE={B} first"):
        build.compare(plan, [A, B])


def test_claim_over_whole_pages_links_their_comparison() -> None:
    whole = {"x": {"page": B}, "y": {"page": "03_dropout/default"}}
    assert report.compared_in(Params(arms=whole)) == ("compare/02_batch_norm+03_dropout",)
    changed = whole | {"y": {"page": "03_dropout/default", "set": {"epochs": 3}}}
    assert report.compared_in(Params(arms=changed)) == ()


# -- figures


def test_confusion_difference_names_the_largest_change() -> None:
    first, second = np.array([[8, 2], [5, 5]]), np.array([[8, 2], [1, 9]])
    axes = plots.confusion_difference(first, second, ("happy", "sad"), ("a", "b"))
    assert plots.title(axes) == "b: sad is taken for happy less often (−40.0 points of 10)"
    assert "−40.0\n−4" in [cell.get_text() for cell in axes.texts]
    plots.picture(axes, "", "")


def test_a_confusion_difference_of_many_classes_stays_a_figure() -> None:
    same, other = np.eye(40, dtype=int) * 9, np.eye(40, dtype=int) * 9
    other[3] = np.roll(other[3], 1)
    axes = plots.confusion_difference(same, other, [f"class {k}" for k in range(40)], ("a", "b"))
    assert axes.get_figure().get_size_inches()[1] < 10 and not axes.texts
    assert plots.title(axes) == "b: class 3 is recognised less often (−100.0 points of 9)"
    plots.picture(axes, "", "")


def test_recall_intervals_name_where_pages_differ_most() -> None:
    rows = [("happy", "a", 0.8, 0.7, 0.9, 50), ("happy", "b", 0.8, 0.7, 0.9, 50), ("sad", "a", 0.5, 0.4, 0.6, 50)]
    rows.append(("sad", "b", 0.3, 0.2, 0.4, 50))
    table = pd.DataFrame(rows, columns=["class", "arm", "value", "low", "high", "n"])
    axes = plots.recall_intervals(table)
    assert plots.title(axes).replace("\u00a0", " ") == "Recall differs most for sad: 50 % with a, 30 % with b"
    plots.picture(axes, "", "")


def test_band_reaches_from_the_lowest_to_the_highest_seed() -> None:
    seeds = [pd.DataFrame({"epoch": [1, 2], "validation_accuracy": v}) for v in ([0.2, 0.4], [0.3, 0.6])]
    axes = plots.arm_curves({"a": seeds}, band=True)
    corners = {round(float(y), 3) for y in axes.collections[0].get_paths()[0].vertices[:, 1]}
    assert corners == {0.2, 0.3, 0.4, 0.6} and len(axes.lines) == 1
    plots.picture(axes, "", "")


def test_the_short_runs_of_an_ablation_are_no_seeds_of_their_page(sides: tuple[Side, Side]) -> None:
    own, short = sides[0].runs[0], sides[1].runs[0]
    wanted = [build.WantedRun(run.params, SimpleNamespace(key=run.key), run, 0) for run in (own, short)]  # type: ignore[arg-type]
    page = build.PagePlan(schema.Page(A), own.params, {A: wanted[:1], "without it": wanted[1:]}, {})
    (side,) = build.compared_sides(SimpleNamespace(pages={A: page}), [A])  # type: ignore[arg-type]
    assert side.runs == (own,)
