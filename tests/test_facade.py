"""What the notebooks call: layers of parameters, one log however a run came about, the test set only where allowed."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_core import analysis, artifacts, beyond, claims, data, evaluation, exploration, notebook, plots, schema
from fer_core.artifacts import Run, Settings
from fer_core.data import Faces
from fer_core.schema import FerError, ParameterError, Params
from tests.conftest import make_faces

SMALL = Params(width=0.25, epochs=2, batch_size=32, learning_rate=0.005, threads=1, precision="float32", seeds=(0, 1))


class Shown:
    """Stands in for IPython's display: keeps what each output holds at the end."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []

    def __call__(self, content: Any, **_: Any) -> Any:
        self.outputs.append(content)
        return self

    def update(self, content: Any, **_: Any) -> None:
        self.outputs[-1] = content

    @property
    def last(self) -> str:
        return self.outputs[-1]["text/html"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    display = Shown()
    monkeypatch.setattr(notebook, "display", display)
    return display


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch, place: Settings, faces: Faces) -> None:
    """The facade on the small data set in memory, as real data: no sample ceilings."""
    real = dataclasses.replace(place, data=place.out, name="small")
    monkeypatch.setattr(notebook, "settings", lambda: real)
    for module in (analysis, beyond):
        monkeypatch.setattr(module, "settings", lambda: real)
    monkeypatch.setattr(notebook, "open_faces", lambda: faces)


def with_settings(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    changed = dataclasses.replace(notebook.settings(), **changes)
    for module in (notebook, analysis):
        monkeypatch.setattr(module, "settings", lambda: changed)


# -- parameters


def test_only_names_that_the_notebook_knows_are_taken() -> None:
    names = {"learning_rate": 0.02, "seeds": [3, 4], "learning_rte": 1, "np": np, "arms": {"a": 1}}
    params = notebook.parameters("03_dropout", names)
    assert (params.learning_rate, params.seeds, params.seed, params.arms) == (0.02, (3, 4), 3, {})


def test_a_value_out_of_range_is_refused_and_names_the_notebook() -> None:
    with pytest.raises(ParameterError, match=r"notebooks/03_dropout.ipynb: dropout is 1\.5"):
        notebook.parameters("03_dropout", {"dropout": 1.5})


def test_sample_ceilings_apply_and_set_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with_settings(monkeypatch, data=None, set_values={"epochs": 9, "arms": {}})
    params = notebook.parameters("03_dropout", {"epochs": 20, "seeds": [0, 1, 2]})
    assert params.epochs == 9
    assert len(params.seeds) == schema.sample_ceilings()["seeds"]


def test_parameter_table_marks_what_differs_from_the_notebook() -> None:
    params = notebook.parameters("03_dropout", {**schema.notebook_defaults("03_dropout"), "label_smoothing": 0.1})
    table = notebook.parameter_table(params, "03_dropout")
    marks = table[""].to_dict()
    assert marks["label_smoothing"] == "◂\u00a0differs" and marks["dropout"] == ""
    assert table.loc["precision", "value"] != "auto" and table.loc["threads", "value"] != "auto"
    assert "mixup_alpha" not in marks


def test_a_table_is_shown_whole() -> None:
    table = notebook.Table.of([("a" * 200, i) for i in range(150)], ["long", "number"])
    assert table._repr_html_().count("a" * 200) == 150


# -- runs


def test_the_log_is_the_same_whether_the_run_was_trained_or_loaded(shown: Shown) -> None:
    notebook.train_or_load(SMALL)
    trained = shown.last
    run = notebook.train_or_load(SMALL)
    assert shown.last == trained and len(shown.outputs) == 2
    assert notebook._epoch_lines(run.history) in trained
    assert not re.search(r"wandb|/|\d\d:\d\d", re.sub(r"</\w+>", "", trained))


def test_the_log_of_a_resumed_run_is_that_of_one_never_stopped(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = notebook.train_or_load(SMALL)
    untouched = shown.last
    log = notebook.Log()
    log._epoch({"resuming": 2, "epochs": 2}, "")
    assert "epoch 2 (resuming) of 2" in shown.last
    log._epoch({"epochs": 2, **whole.history.to_dict("records")[1]}, "")
    assert "<details open>" in shown.last
    notebook.train_or_load(SMALL)
    assert shown.last == untouched


def test_all_seeds_are_trained_and_the_first_is_the_run_shown(shown: Shown) -> None:
    run, runs = notebook.train_or_load(SMALL), notebook.train_seeds(SMALL)
    assert [r.params.seed for r in runs] == [0, 1] and runs[0].key == run.key
    assert "2 seeds" in shown.last


def test_a_limit_shorter_than_an_epoch_is_said(shown: Shown) -> None:
    with pytest.raises(FerError, match="time_limit_minutes"):
        notebook.train_or_load(dataclasses.replace(SMALL, time_limit_minutes=1e-9))


def test_a_page_that_may_not_look_shows_no_test_even_of_a_scored_run(shown: Shown) -> None:
    allowed = dataclasses.replace(SMALL, score_test=True)
    runs = notebook.score_test(allowed, notebook.train_seeds(allowed))
    assert runs[0].scored
    assert notebook.answers(allowed, runs[0]).split == "test"
    assert notebook.answers(SMALL, runs[0]).split == "validation"
    assert "test_official" not in notebook.scores(SMALL, runs[0])
    assert "this page decides on validation" in str(notebook.test_table(SMALL, runs).data)
    assert "official test images" in notebook.finding(allowed, runs).data
    assert "test" not in notebook.finding(SMALL, runs).data


def test_finding_states_number_n_split_interval_and_seeds(shown: Shown) -> None:
    runs = notebook.train_seeds(SMALL)
    accuracy = runs[0].metrics["validation"]["accuracy"]
    text = notebook.finding(SMALL, runs).data
    assert schema.percent(accuracy) in text
    assert re.search(rf"\[.+\] of the {runs[0].metrics['validation']['n']} validation images; seed 1 on ", text)
    three = notebook.finding(SMALL, [*runs, runs[0]]).data
    assert "; its mean over 3 seeds is" in three and "(95 % intervals: over images, and over seeds);" in three
    gap = runs[0].metrics["gap"]
    side = "above" if gap >= 0 else "below"
    assert text.endswith(
        f"training accuracy, as trained, lies {abs(gap) * 100:.1f} points {side} that on validation images."
    )


def test_finding_of_a_cut_or_diverged_run_says_so(shown: Shown) -> None:
    run = notebook.train_or_load(SMALL)
    run.provenance["state"] = "cut"
    assert notebook.finding(SMALL, [run]).data.startswith("Cut by its time limit after 2 of 2 epochs")
    run.provenance["state"] = "diverged"
    assert "never left chance level" in notebook.finding(SMALL, [run]).data
    run.provenance["reason"] = "the loss is nan in epoch 2"
    told = notebook.finding(SMALL, [run]).data
    assert "broke off (the loss is nan in epoch 2)" in told and "chance level" not in told


def test_a_further_seed_that_was_cut_is_left_out_where_the_others_are_scored(shown: Shown) -> None:
    allowed = dataclasses.replace(SMALL, score_test=True)
    first, second = notebook.train_seeds(allowed)
    runs = [notebook.scored(first), second]
    assert not second.scored
    assert list(notebook.test_table(allowed, runs).index) == ["seed 0"]
    assert "seed 1" not in notebook.finding(allowed, runs).data
    assert len(notebook.ensemble(allowed, runs)) == 2


def test_finding_names_what_was_added_to_the_network(shown: Shown) -> None:
    run = notebook.train_or_load(SMALL)
    told = notebook.finding(dataclasses.replace(SMALL, batch_norm=True, dropout=0.25), [run]).data
    assert told.startswith("basic_cnn with BatchNorm and Dropout (0.25) (seed 0) is right on")
    deep = dataclasses.replace(SMALL, network="complex_cnn", batch_norm=True)
    assert notebook.finding(deep, [run]).data.startswith("complex_cnn (seed 0)")  # which has it anyway


def test_finding_holds_the_originals_figure_against_the_interval(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = dataclasses.replace(SMALL, score_test=True)
    run = notebook.scored(notebook.train_or_load(allowed))
    assert "original" not in notebook.finding(allowed, [run], original=0.5).data  # these are other images
    monkeypatch.setattr(data, "is_fer2013", lambda faces: True)
    for original, side in ((0.0, "below"), (run.metrics["test_official"]["accuracy"], "within"), (1.1, "above")):
        assert f"% lies {side} the interval" in notebook.finding(allowed, [run], original=original).data
    told = notebook.finding(allowed, [run], original=0.627473, kept_of="rare_transforms").data
    assert "The 62.75 % that the original kept, of its own rare_transforms, lies" in told
    assert "original" not in notebook.finding(SMALL, [run], original=0.5).data


def test_finding_on_drawn_data_is_marked(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    run = notebook.train_or_load(SMALL)
    assert "drawn sample data" not in notebook.finding(SMALL, [run]).data
    with_settings(monkeypatch, data=None)
    assert "drawn sample data" in notebook.finding(SMALL, [run]).data


def test_pictures_are_the_images_that_their_rows_name(shown: Shown, faces: Faces) -> None:
    found = notebook.answers(SMALL, notebook.train_or_load(SMALL))
    doubts = notebook.least_certain(found, 4)
    for image, name in zip(doubts.images, doubts.table.index, strict=True):
        assert np.array_equal(image, faces.images[list(faces.ids).index(name)])


def test_ensemble_stands_beside_its_members(shown: Shown) -> None:
    params = dataclasses.replace(SMALL, score_test=True)
    runs = notebook.score_test(params, notebook.train_seeds(params))
    table = notebook.ensemble(params, runs)
    assert list(table.index) == ["test official", "test leak free"]
    same = notebook.ensemble(params, [runs[0], runs[0]])
    alone = notebook.with_interval(runs[0].metrics["test_official"])
    assert same.iloc[0, -1] == alone


def as_on_a_ledger(*runs: Run) -> None:
    for run in runs:
        for name in ("model.safetensors", "predictions.parquet"):
            (run.folder / name).unlink(missing_ok=True)


def test_what_needs_weights_or_further_answers_is_shown_again_without_them(shown: Shown) -> None:
    params = dataclasses.replace(SMALL, ablation={"weights' decay": {"weight_decay": 0.3}}, ablation_epochs=1)
    runs, without = notebook.train_seeds(SMALL), beyond.Ablation(params)
    together, worth = notebook.ensemble(SMALL, runs), without.worth
    answers = notebook.answers(SMALL, runs[0])
    looks = notebook.attention(answers)
    as_on_a_ledger(*runs, *without.runs.values())
    assert notebook.ensemble(SMALL, runs).equals(together)
    assert beyond.Ablation(params).worth.equals(worth)
    assert np.array_equal(notebook.attention(answers).heat, looks.heat)


def test_selection_optimism_is_best_minus_last(shown: Shown) -> None:
    table = notebook.selection_optimism(SMALL, [notebook.train_or_load(SMALL)])
    assert not table.iloc[0, -1].startswith("\u2212") and list(table["images"]) == ["validation"]
    watched = dataclasses.replace(SMALL, score_test=True, test_by_epoch=True, learning_rate=0.003)
    run = notebook.score_test(watched, [notebook.train_or_load(watched)])[0]
    table = notebook.selection_optimism(watched, [run])
    assert list(table["images"]) == ["validation", "test, official", "test, leak-free"]
    assert table["last epoch"].iloc[1] == schema.percent(run.metrics["test_official"]["accuracy"])
    assert list(notebook.selection_optimism(SMALL, [run])["images"]) == ["validation"]


# -- exploration


def test_augmented_shows_both_readings_of_180_degrees(faces: Faces) -> None:
    image = faces.images[0]
    mirrored = exploration.augmented(image, 2, mirror_probability=1.0)
    turned = exploration.augmented(image, 2, half_turn_probability=1.0)
    assert np.array_equal(mirrored[0], image[:, ::-1]) and np.array_equal(turned[1], image[::-1, ::-1])


def test_absent_class_has_a_black_mean_face(faces: Faces) -> None:
    rows = np.flatnonzero(faces.labels != 1)
    means = exploration.mean_faces(faces, rows)
    assert means.shape == (3, 16, 16) and not means[1].any() and means[0].any()
    assert exploration.class_counts(faces, {"some": rows}).loc["class1", "some"] == 0
    split, told = data.make_split(faces), exploration.merging(faces, data.make_split(faces)).data
    assert f"{len(split.train)} of them" in told and f"{len(split.validation)} validate" in told


# -- claims

ARMS = {
    "plain": {"page": "02_batch_norm/default", "set": {"width": 0.25}},
    "dropped": {"page": "02_batch_norm/default", "set": {"width": 0.25, "dropout_fc": 0.5}},
}
RULE = [{"arm": "dropped", "against": "plain", "direction": "below", "threshold": -0.05}]
CLAIM = Params(claim="It helps", question="Does it?", arms=ARMS, metric="gap", rule=RULE, seeds=(0, 1))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    with_settings(monkeypatch, set_values={"epochs": 1, "threads": 1})


def test_claim_states_its_rule_before_any_run(quick: None, place: Settings) -> None:
    page = analysis.page(CLAIM)
    assert "It helps" in page.question().data and "by more than 0.05" in page.rule().data
    assert list(page.arms().index) == ["plain", "dropped"]
    assert not (place.store / "runs").exists()


def test_a_claim_says_which_of_its_runs_came_out_the_same(shown: Shown, quick: None) -> None:
    arms = {
        "plain": {"page": "03_dropout/default"},
        "never": {"page": "03_dropout/default", "set": {"gradient_clip": 1e6}},
    }
    rule = [{"arm": "never", "against": "plain", "direction": "above", "threshold": 0.0}]
    page = analysis.page(dataclasses.replace(CLAIM, arms=arms, rule=rule))
    page.train()
    assert "never acted: “plain” and “never” (seeds 0, 1)." in page.verdict().data
    del page.runs["never"][0]
    assert "“never” (seed 1)." in page.verdict().data
    assert "types of processor" not in page.verdict().data
    elsewhere = page.runs["never"][0]
    record = elsewhere.provenance | {"processor": "another"}
    artifacts.write_json(elsewhere.folder / "run.json", record)
    page.runs["never"] = [Run(elsewhere.key, elsewhere.params, elsewhere.folder)]
    assert "“never” against “plain” compares runs of different types of processor" in page.verdict().data


def test_a_claim_says_where_a_schedule_never_acted(shown: Shown, quick: None) -> None:
    arms = {"plain": {"page": "03_dropout/default", "set": {"schedule": "plateau"}}}
    rule = [{"arm": "plain", "direction": "above", "threshold": 0.0}]
    page = analysis.page(dataclasses.replace(CLAIM, arms=arms, rule=rule))
    page.train()
    assert "The learning rate never fell in 2 of 2 runs of “plain”." in page.verdict().data


def test_an_arm_tells_what_the_samples_ceilings_made_of_its_page_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with_settings(monkeypatch, data=None, set_values={})
    rate = schema.sample_ceilings()["learning_rate"]
    page = analysis.page(schema.resolve_page(schema.load_page("05_analysis/learning_rate"), True))
    told = page.arms()["what differs"]
    assert told["0.005"] == f"learning_rate {rate:g} (stated: 0.005)"
    assert told["0.001"] in ("–", "learning_rate 0.001")


def test_a_page_about_a_cut_shows_what_stood_there(shown: Shown, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with_settings(monkeypatch, set_values={"epochs": 2, "threads": 1})
    rule = [{"arm": "plain", "direction": "below", "threshold": 0.01}]
    page = analysis.page(dataclasses.replace(CLAIM, metric="improvement_after_1", rule=rule))
    page.train()
    table = page.secondary()
    assert "validation accuracy at epoch 1" in {*table.index, *table.columns}


def test_claim_is_judged_from_its_runs(shown: Shown, quick: None) -> None:
    page = analysis.page(CLAIM)
    page.train()
    expected = claims.evaluate(page.runs, "gap", RULE, False)
    assert page.verdict().data.startswith(f"**Verdict: {expected.verdict}.**")
    assert "4 runs: " in shown.last and expected.verdict in page.finding().data
    assert "does not name" not in page.finding().data
    table = page.secondary()
    assert list(table.columns) == ["“dropped” − “plain”"]
    assert "gap" in table.index and "clean gap" not in table.index  # nobody measured it
    change = claims.difference(page.runs["dropped"], page.runs["plain"], "gap")[0]
    assert change.value == pytest.approx(expected.effect)
    assert table.loc["gap"].item() == notebook.of_seeds(change, "gap", change=True)


def test_claim_about_dead_runs_counts_those_of_the_arms_that_its_rule_does_not_name(shown: Shown, quick: None) -> None:
    rule = [{"arm": "dropped", "direction": "below", "threshold": 0.3}]
    page = analysis.page(dataclasses.replace(CLAIM, metric="at_chance", rule=rule))
    page.train()
    dead = sum(run.state == "diverged" for run in page.runs["plain"])
    assert f"does not name, at chance level: {dead} of 2 in “plain”" in page.finding().data


def test_claim_on_drawn_data_has_no_verdict(shown: Shown, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with_settings(monkeypatch, data=None)
    page = analysis.page(dataclasses.replace(CLAIM, seeds=(0,)))
    page.train()
    assert "not evaluated on sample data" in page.verdict().data


def test_a_claim_with_a_faulty_rule_is_refused_before_any_run() -> None:
    with pytest.raises(ParameterError, match="dropt"):
        analysis.page(dataclasses.replace(CLAIM, rule=[{**RULE[0], "arm": "dropt"}]))


def test_only_a_ranking_of_whole_default_pages_shows_the_test_beside_it() -> None:
    depth = schema.resolve_page(schema.load_page("05_analysis/depth"), False)
    rates = schema.resolve_page(schema.load_page("05_analysis/learning_rate"), False)
    assert analysis.Claim(depth).shows_test
    assert not analysis.Claim(rates).shows_test
    assert not analysis.Claim(CLAIM).shows_test


def test_summary_on_other_classes_leaves_out_the_claims_about_fer2013(faces: Faces) -> None:
    left_out = {"05_analysis/class_weights", "05_analysis/leaked_copies", "05_analysis/torn_copies"}
    assert faces.classes != schema.EMOTIONS
    assert not left_out & set(analysis.page(Params()).table["page"])


def test_summary_names_every_claim_and_trains_none(
    place: Settings, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    emotional = dataclasses.replace(faces, classes=schema.EMOTIONS)
    monkeypatch.setattr(notebook, "open_faces", lambda: emotional)
    page = analysis.page(Params())
    pages = [name for name in schema.page_names() if name.startswith("05_analysis/") and "summary" not in name]
    assert list(page.table["page"]) == pages
    assert set(page.table["verdict"]) == {"not yet run"}
    assert list(page.table.columns) == list(artifacts.CLAIM_COLUMNS)
    assert f"{len(pages)} are not yet run" in page.finding().data
    assert not (place.store / "runs").exists()


# -- calibration, where it looks, and what stands in for faces


def test_temperature_is_fitted_on_images_that_are_not_shown(shown: Shown) -> None:
    allowed = dataclasses.replace(SMALL, score_test=True)
    run = notebook.score_test(allowed, [notebook.train_or_load(allowed)])[0]
    n = run.metrics["validation"]["n"]
    whole = notebook.answers(allowed, run).calibration
    assert (whole.images, whole.n) == ("the validation images", run.metrics["test_official"]["n"])
    half = notebook.answers(SMALL, run).calibration
    assert half.images == "the other half" and 0 < half.n < n
    assert half.table["n"].sum() == half.scaled["n"].sum() == half.n


def test_scaling_by_the_fitted_temperature_lowers_the_loss_where_it_was_fitted(shown: Shown) -> None:
    found = notebook.answers(SMALL, notebook.train_or_load(SMALL))
    fitted = notebook._odd(found.predictions["image_id"])
    p, labels = found.probabilities[fitted], found.labels[fitted]
    scaled = evaluation.with_temperature(p, found.calibration.temperature)
    before, after = (evaluation.cross_entropy(q, labels) for q in (p, scaled))
    assert after is not None and before is not None and after <= before


def test_copies_of_an_image_are_in_the_same_half() -> None:
    ids = pd.Series(["00000000000a", "00000000000b", "00000000000b-2", "00000000000b-13", "00000000000a-2"])
    assert notebook._odd(ids).tolist() == [False, True, True, True, False]


def test_attention_is_the_mean_over_right_and_over_wrong_answers(shown: Shown, faces: Faces) -> None:
    found = notebook.answers(SMALL, notebook.train_or_load(SMALL))
    looks = notebook.attention(found, at_most=3)
    k = len(faces.classes)
    assert looks.means.shape == looks.heat.shape == (2, k, 16, 16) and looks.counts.max() <= 3
    for row, right in enumerate((True, False)):
        for code in range(k):
            of = (found.predicted == code) & ((found.predicted == found.labels) == right)
            ids = sorted(found.predictions["image_id"][of])[:3]
            images = faces.images[[list(faces.ids).index(name) for name in ids]]
            assert looks.counts[row, code] == len(ids)
            assert np.allclose(looks.means[row, code], images.mean(0) if len(ids) else 0, atol=1e-3)


def test_what_stands_in_for_faces_holds_ids_labels_and_means_only(shown: Shown, faces: Faces) -> None:
    mistakes = notebook.confident_mistakes(notebook.answers(SMALL, notebook.train_or_load(SMALL)), 4)
    told = mistakes.stand_in
    assert told["columns"] == ["image_id", "true", "predicted", "confidence"] and told["size"] == [16, 16]
    assert [row[0] for row in told["rows"]] == list(mistakes.table.index)
    assert set(told) == {"columns", "rows", "size", "means"}
    name, mean = next(iter(told["means"].items()))
    rows = (faces.labels == faces.classes.index(name)) & (faces.usage == 0)
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(mean["image/png"]))).convert("L"), float)
    assert np.abs(drawn - faces.images[rows].mean(0)).mean() < 8  # 32 greys


def test_a_class_of_few_faces_has_no_mean(monkeypatch: pytest.MonkeyPatch, faces: Faces) -> None:
    few = dataclasses.replace(faces, labels=np.where(np.arange(faces.n) < 5, 0, 1).astype(np.uint8))
    monkeypatch.setattr(notebook, "open_faces", lambda: few)
    assert list(notebook.stand_in(notebook.named(np.array([0, 40])))["means"]) == ["class1"]


def test_sanity_checks_are_a_table_and_a_sentence(shown: Shown) -> None:
    checks = notebook.sanity_checks(SMALL)
    assert list(checks.columns) == ["expected", "found", "ok"] and "numbers" in checks.index
    bad = checks.assign(ok=["no", *checks["ok"][1:]])
    assert notebook.checks_line(bad).endswith(f"1 does not hold: {checks.index[0]}.")


def test_a_run_of_another_machine_tells_what_auto_came_to_there(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "run.json", {"precision": "bfloat16", "threads": 8})
    settled = Run("key", SMALL, tmp_path).settled(dataclasses.replace(SMALL, precision="auto", threads="auto"))
    assert (settled.precision, settled.threads) == ("bfloat16", 8)


# -- beyond


def test_ablation_compares_with_the_whole_recipe_on_the_same_images(shown: Shown) -> None:
    params = dataclasses.replace(SMALL, ablation={"weights' decay": {"weight_decay": 0.3}}, ablation_epochs=1)
    found = beyond.Ablation(params)
    assert [len(run.history) for run in found.runs.values()] == [1, 1]
    assert list(found.worth["name"]) == [schema.WHOLE, "without weights' decay"]
    whole, without = found.worth["value"]
    assert found.worth["worth"].iloc[1] == pytest.approx(whole - without)
    assert found.table().shape == (2, 3) and "ingredients add more than chance" in found.finding()
    assert "2 short runs" in shown.last


def test_a_page_that_switches_nothing_off_says_so_and_draws_nothing(shown: Shown) -> None:
    none = beyond.Ablation(dataclasses.replace(SMALL, ablation={}))
    assert none.finding() == "This page switches no ingredient off" and none.table().shape[0] == 0
    assert not plots.accuracies(none.worth, none.finding()).lines


def test_the_field_has_intervals_and_ours_among_it(shown: Shown) -> None:
    run = notebook.train_or_load(SMALL)
    field = beyond.the_field(SMALL, [run])
    tang = field[field["name"].str.startswith("Tang")].iloc[0]
    assert tang["value"] == 0.7116 and tang["high"] - tang["low"] == pytest.approx(0.0296, abs=2e-4)
    assert field["ours"].sum() == 1 and field["value"].dropna().is_monotonic_increasing
    assert "of 10 steps between stated accuracies are smaller than ± 1.4 points" in beyond.field_finding(field)
    assert len(beyond.field_table(field)) == len(field)
    of_two = beyond.the_field(SMALL, [run, notebook.train_or_load(dataclasses.replace(SMALL, seed=1))])
    assert of_two.loc[of_two["ours"], "name"].str.contains("2 seeds together").sum() == 1 and of_two["ours"].sum() == 2


def test_leaked_copies_are_measured_only_where_the_test_may_be_looked_at(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = dataclasses.replace(SMALL, score_test=True)
    run = notebook.score_test(allowed, [notebook.train_or_load(allowed)])[0]
    assert "was not measured" in beyond.copies_flatter(SMALL, run).data
    assert "No test image here has a copy" in beyond.copies_flatter(allowed, run).data
    copied = {"test_official": {**run.metrics["test_official"], "n": 12, "accuracy": 0.75},
              "test_leak_free": {**run.metrics["test_leak_free"], "n": 8, "accuracy": 0.625}}  # fmt: skip
    run.metrics.update(copied)
    told = beyond.copies_flatter(allowed, run).data.replace("\u00a0", " ")
    assert told.startswith("On the 4 test images") and "right on 100.0 %" in told and "by +12.5 points" in told


def test_a_change_that_rounds_to_none_has_no_minus() -> None:
    assert notebook.interval((-0.0002, -0.011, 0.0), change=True) == "+0.0 points [−1.1, 0.0]"
    assert plots._signed(-0.04, 1) == "+0.0" and plots._signed(-0.06, 1) == "−0.1"


def test_a_mean_with_a_mark_shows_what_is_mirrored() -> None:
    faces = make_faces()
    face = exploration.marked_mean(faces, np.arange(faces.n))
    assert face.shape == faces.images.shape[1:] and face.dtype == np.uint8 and (face == 255).any()
    assert not np.array_equal(face, face[:, ::-1]) and not np.array_equal(face, face[::-1, ::-1])


def test_no_share_has_an_interval_beyond_what_is_possible() -> None:
    assert notebook.interval((0.575, -0.293, 1.443)) == "57.5\u00a0% [0.0, 100.0]"
    assert notebook.interval((0.1, -0.293, 1.443), change=True) == "+10.0 points [−29.3, 144.3]"
