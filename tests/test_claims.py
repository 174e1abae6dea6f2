"""What a run's metric is, how arms are compared, and every way a verdict can fall."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from fer_core import claims
from fer_core.notebook import interval
from fer_core.schema import ParameterError, Params


def run(seed=0, state="done", selected_epoch=None, history=None, **metrics):
    """A run as a claim sees it; `validation=0.6` and the like stand for the split's accuracy."""
    splits = {
        name: {"accuracy": value} for name, value in metrics.items() if isinstance(value, float) and name != "gap"
    }
    empty = pd.DataFrame(columns=["epoch", "validation_accuracy", "validation_loss", "train_clean_accuracy"])
    return SimpleNamespace(
        params=SimpleNamespace(seed=seed),
        state=state,
        selected_epoch=selected_epoch,
        history=empty if history is None else history,
        metrics=metrics | splits,
    )


def epochs(accuracy, loss=None, clean=None):
    n = len(accuracy)
    columns = {"validation_accuracy": accuracy, "validation_loss": loss or [1.0] * n}
    return pd.DataFrame({"epoch": range(1, n + 1), "train_clean_accuracy": clean or [None] * n} | columns)


def arm(*values, first_seed=0):
    return [run(first_seed + i, validation=value) for i, value in enumerate(values)]


def above(threshold, **more):
    return {"arm": "a", "against": "b", "direction": "above", "threshold": threshold} | more


def verdict(a, b, condition, metric="validation_accuracy", sample=False):
    return claims.evaluate({"a": a, "b": b}, metric, [condition], sample)


# -- the metric of a run


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("best_validation_accuracy", 0.8),
        ("validation_accuracy_at_3", 0.6),
        ("best_validation_accuracy_from_3", 0.7),
        ("improvement_after_2", 0.7 - 0.8),
        ("improvement_after_4", math.nan),
        ("validation_accuracy_at_9", math.nan),
        ("clean_gap", 0.75 - 0.6),
        ("late_loss_variability", math.sqrt(0.5) * 3),
    ],
)
def test_metric_read_from_history(metric, expected):
    # The last half is epochs 3 and 4: the loss changes by 1 and by −2, deviations ± 1.5, so √(2 × 1.5²).
    history = epochs([0.4, 0.8, 0.6, 0.7], [2.0, 1.0, 2.0, 0.0], [0.5, 0.6, 0.75, 0.8])
    found = claims.metric_of(run(history=history, selected_epoch=3), metric)
    assert found == pytest.approx(expected, nan_ok=True)


def test_metric_read_from_metrics():
    classes = {"disgust": {"recall": 0.25}}
    validation = {"accuracy": 0.6, "macro_f1": 0.5, "classes": classes}
    one = run(validation=validation, gap=0.125, test_official=0.625, test_leak_free=0.5)
    names = ("validation_accuracy", "macro_f1", "recall_disgust", "gap", "test_official_accuracy", "leak_flattery")
    assert [claims.metric_of(one, name) for name in names] == [0.6, 0.5, 0.25, 0.125, 0.625, 0.125]


def test_steady_fall_is_no_variability():
    history = epochs([0.5] * 5, [5.0, 4.0, 3.0, 2.0, 1.0])
    assert claims.metric_of(run(history=history), "late_loss_variability") == 0


@pytest.mark.parametrize(
    "metric", ["late_loss_variability", "best_validation_accuracy", "clean_gap", "improvement_after_2"]
)
def test_empty_history_gives_nan(metric):
    assert math.isnan(claims.metric_of(run(state="diverged"), metric))


def test_nan_in_the_late_loss_is_not_skipped():
    history = epochs([0.2] * 6, [2.0, 2.1, 1.9, 2.0, 2.2, math.nan])
    assert math.isnan(claims.metric_of(run(history=history), "late_loss_variability"))


def test_diverged_run_is_at_chance_and_keeps_its_accuracy():
    one = run(state="diverged", validation=0.25)
    assert (claims.metric_of(one, "at_chance"), claims.metric_of(one, "validation_accuracy")) == (1.0, 0.25)


def test_unscored_test_gives_nan():
    assert math.isnan(claims.metric_of(run(validation=0.5), "test_official_accuracy"))


def test_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(ParameterError, match="did you mean validation_accuracy"):
        claims.metric_of(run(), "validation_acuracy")


def test_recall_of_an_unknown_class_is_refused():
    with pytest.raises(ParameterError, match="no class is called 'disgusted'"):
        claims.metric_of(run(validation={"classes": {"disgust": {"recall": 0.5}}}), "recall_disgusted")


@pytest.mark.parametrize(
    ("found", "metric", "change", "words"),
    [
        ((0.612, 0.596, 0.628), "validation_accuracy", False, "61.2\u00a0% [59.6, 62.8]"),
        ((0.035, -0.02, 0.0004), "validation_accuracy", True, "+3.5 points [−2.0, 0.0]"),
        ((-0.0001, None, None), "gap", True, "+0.0 points"),
        ((1.25, 1.0, 1.5), "late_loss_variability", True, "+1.250 nats [1.000, 1.500]"),
        ((None, None, None), "gap", True, "no value"),
    ],
)
def test_effect_is_told_in_its_own_unit_as_on_the_claims_page(found, metric, change, words):
    assert claims.told(found, metric, change) == words == interval(found, metric, change)


def test_an_end_close_to_the_threshold_is_told_with_the_digits_that_part_them():
    assert claims.told((0.0042, -0.00001, 0.0085), "leak_flattery", True, 0.0) == "+0.420 points [−0.001, 0.850]"
    assert claims.told((0.0042, 0.0, 0.0085), "leak_flattery", True, 0.0) == "+0.4 points [0.0, 0.9]"  # the very same
    assert claims.told((0.0042, 0.004, 0.0085), "leak_flattery", True, 0.0) == "+0.4 points [0.4, 0.9]"


def test_accuracy_on_copies_is_that_of_the_images_in_which_the_splits_differ():
    scores = {"test_official": {"accuracy": 0.62, "n": 100}, "test_leak_free": {"accuracy": 0.6, "n": 90}}
    assert claims.metric_of(run(**scores), "test_copies_accuracy") == pytest.approx(0.8)
    scores["test_leak_free"] = scores["test_official"]
    assert math.isnan(claims.metric_of(run(**scores), "test_copies_accuracy"))


def test_a_verdict_by_another_condition_than_the_first_names_it():
    arms = {"a": arm(0.9, 0.91, 0.92), "b": arm(0.5, 0.52, 0.51)}
    rule = [above(0.1), {"arm": "b", "direction": "above", "threshold": 0.51}]
    found = claims.evaluate(arms, "validation_accuracy", rule, False)
    assert found.verdict == "inconclusive" and found.conditions[0].verdict == "supported"
    assert claims.decided_by(found).startswith("Not settled: validation accuracy of “b” 51.0\u00a0% [")
    assert claims.decided_by(claims.evaluate(arms, "validation_accuracy", rule[:1], False)) == ""
    assert claims.decided_by(claims.evaluate(arms, "validation_accuracy", rule, True)) == ""


# -- the verdict


@pytest.mark.parametrize(
    ("threshold", "direction", "expected"),
    [
        (0.05, "above", "supported"),
        (0.15, "above", "not supported"),
        (0.1, "above", "inconclusive"),
        (0.15, "below", "supported"),
        (0.05, "below", "not supported"),
        (0.1, "below", "inconclusive"),
        (0.0, "above", "supported"),
    ],
)
def test_verdict_follows_the_interval_and_the_threshold(threshold, direction, expected):
    # Differences 0.09, 0.10, 0.11: mean 0.1, interval ± 0.0248.
    found = verdict(arm(0.59, 0.60, 0.61), arm(0.5, 0.5, 0.5), above(threshold, direction=direction))
    assert found.verdict == expected
    assert (found.effect, found.low, found.high) == pytest.approx((0.1, 0.0752, 0.1248), abs=1e-4)


def test_zero_width_interval_decides_unless_it_is_the_threshold():
    a, b = arm(0.75, 0.75), arm(0.5, 0.5)
    assert [verdict(a, b, above(t)).verdict for t in (0.0, 0.25, 0.5)] == ["supported", "inconclusive", "not supported"]


def test_single_seed_is_inconclusive_however_large_the_effect():
    found = verdict(arm(0.9), arm(0.1), above(0.0))
    assert (found.verdict, found.n, found.low) == ("inconclusive", 1, None)
    assert found.effect == pytest.approx(0.8)


def test_arms_pair_by_seed_whatever_their_order():
    a, b = arm(0.5, 0.6, 0.7), arm(0.4, 0.5, 0.6)[::-1]
    found = verdict(a, b, above(0.0))
    assert found.low == pytest.approx(0.1)  # unpaired, the interval would reach below zero
    assert "paired over seeds" in found.rule


def test_arms_of_other_seeds_are_compared_unpaired():
    found = verdict(arm(0.5, 0.6, 0.7), arm(0.4, 0.5, 0.6, first_seed=7), above(0.0))
    assert (found.verdict, found.n) == ("inconclusive", 3)
    assert "unpaired over seeds" in found.rule


def test_run_without_a_value_leaves_with_its_partner_and_is_said():
    found = verdict(arm(0.6, math.nan, 0.7), arm(0.5, 0.1, 0.6), above(0.0))
    assert (found.n, found.conditions[0].excluded) == (2, 1)
    assert found.effect == pytest.approx(0.1)
    assert found.note == "validation accuracy of a and b: 1 run has no value and is left out"


def test_arms_without_any_value_are_inconclusive():
    found = verdict(arm(math.nan, math.nan), arm(0.5, 0.5), above(0.0))
    assert (found.verdict, found.effect, found.n) == ("inconclusive", None, 0)


def test_every_metric_names_the_artifact_and_column_it_is_from():
    one = run()
    for metric in [*claims.WORDS, "recall_class0", "best_validation_accuracy_from_2"]:
        artifact, _, columns = claims.source(metric).partition(": ")
        if artifact == "history.csv":
            assert set(columns.split(", ")) <= set(one.history.columns) | {"train_clean_accuracy"}
        else:
            assert artifact in ("metrics.json", "run.json") and columns


def test_shares_at_chance_take_newcombes_interval():
    stuck = [run(seed, "diverged" if seed < 8 else "done") for seed in range(10)]
    found = verdict(stuck, [run(seed) for seed in range(10)], above(0.1), "at_chance")
    assert (found.effect, found.n, found.verdict) == (0.8, 10, "supported")
    assert found.low == pytest.approx(0.8 - math.hypot(0.8 - 0.4902, 0.2775), abs=1e-4)
    assert "Newcombe" in found.rule


def test_share_of_one_arm_takes_wilsons_interval():
    rule = {"arm": "a", "direction": "below", "threshold": 0.3}
    found = verdict([run(seed) for seed in range(10)], arm(0.5), rule, "at_chance")
    assert (found.effect, found.low, found.verdict) == (0.0, 0.0, "supported")
    assert found.high == pytest.approx(0.2775, abs=1e-4)


def test_share_of_a_single_run_is_inconclusive():
    found = verdict([run()], arm(0.5), {"arm": "a", "direction": "below", "threshold": 0.9}, "at_chance")
    assert (found.verdict, found.low) == ("inconclusive", None)


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ((0.0, 0.1), "supported"),
        ((0.0, 0.9), "not supported"),
        ((0.0, 0.25), "inconclusive"),
        ((0.25, 0.9), "not supported"),
    ],
)
def test_verdict_needs_every_condition(thresholds, expected):
    rule = [above(threshold) for threshold in thresholds]
    assert (
        claims.evaluate({"a": arm(0.75, 0.75), "b": arm(0.5, 0.5)}, "validation_accuracy", rule, False).verdict
        == expected
    )


def test_condition_may_have_its_own_metric_and_the_first_is_the_claims_row():
    a, b = ([run(seed, validation=v, gap=g) for seed in range(2)] for v, g in ((0.75, 0.25), (0.5, 0.5)))
    rule = [above(0.0), above(0.0, metric="gap", direction="below")]
    found = claims.evaluate({"a": a, "b": b}, "validation_accuracy", rule, False)
    assert (found.effect, found.verdict) == (0.25, "supported")
    assert found.conditions[1].effect == -0.25


def test_sample_data_gives_the_effect_but_no_verdict():
    found = verdict(arm(0.75, 0.75), arm(0.5, 0.5), above(0.0), sample=True)
    assert (found.verdict, found.effect) == ("not evaluated on sample data", 0.25)


@pytest.mark.parametrize(
    ("direction", "threshold", "expected"),
    [
        ("below", -0.05, "gap of “a” below gap of “b” by more than 0.05 (paired over seeds, 95 % interval)"),
        ("above", 0.05, "gap of “a” above gap of “b” by more than 0.05 (paired over seeds, 95 % interval)"),
        ("below", 0.05, "gap of “a” not above gap of “b” by 0.05 or more (paired over seeds, 95 % interval)"),
        ("above", -0.05, "gap of “a” not below gap of “b” by 0.05 or more (paired over seeds, 95 % interval)"),
        ("above", 0, "gap of “a” above gap of “b” (paired over seeds, 95 % interval)"),
    ],
)
def test_rule_reads_as_a_sentence(direction, threshold, expected):
    assert claims.describe(above(threshold, direction=direction), "gap") == expected


def test_rule_about_one_arm_reads_as_a_sentence():
    rule = {"arm": "a", "direction": "below", "threshold": 0.1}
    assert claims.describe(rule, "recall_disgust") == "disgust recall of “a” below 0.1 (mean over seeds, 95 % interval)"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([], "at least one condition, got \\[\\]"),
        (["a above b"], "condition 1: expected arm, direction and threshold, got 'a above b'"),
        ([above(0.0), {"arm": "a", "threshold": 0}], "condition 2: direction is missing"),
        ([above(0.0, treshold=1)], "unknown key 'treshold', .*did you mean threshold"),
        ([above(0.0, against="bb")], "against 'bb' is not an arm, expected one of a, b"),
        ([above(0.0, against="a")], "'a' is compared with itself"),
        ([above(0.0, direction="over")], "expected above or below, got 'over'"),
        ([above("1e-3")], "expected a number .*got '1e-3'"),
        ([above(True)], "expected a number .*got True"),
        ([above(math.nan)], "expected a number .*got nan"),
        ([above(0.0, metric="gaps")], "unknown metric 'gaps'.*did you mean gap"),
    ],
)
def test_faulty_rule_is_refused_with_what_is_wrong(rule, message):
    with pytest.raises(ParameterError, match=message):
        claims.check_rule(rule, ["a", "b"], "gap")


def test_arm_table_has_a_row_a_run():
    table = claims.arm_table({"a": arm(0.5, math.nan)}, "validation_accuracy")
    assert table.columns.tolist() == ["arm", "seed", "state", "value"]
    assert (table["seed"].tolist(), table["value"].isna().tolist()) == ([0, 1], [False, True])


# -- runs that were not computed alike


def computed(runs, device="cpu", precision="float32"):
    for found in runs:
        found.provenance = {"device": device, "precision": precision}
    return runs


def claim(**of_a):
    return Params(
        metric="validation_accuracy", rule=[above(0.1)], arms={"a": {"page": "p", "set": of_a}, "b": {"page": "p"}}
    )


def judged(a, b, params, sample=False):
    return claims.judge(params, {"a": a, "b": b}, sample)


def test_runs_computed_alike_are_judged_by_the_rule():
    found = judged(computed(arm(0.75, 0.76)), computed(arm(0.5, 0.5)), claim())
    assert (found.verdict, found.mixed) == (claims.SUPPORTED, "")


@pytest.mark.parametrize("other", [{"precision": "bfloat16"}, {"device": "cuda"}])
def test_runs_that_were_not_computed_alike_decide_nothing(other):
    found = judged(computed(arm(0.75, 0.76)), computed(arm(0.5, 0.5), **other), claim())
    assert found.verdict == found.conditions[0].verdict == claims.INCONCLUSIVE
    assert found.effect == pytest.approx(0.255)  # what was measured still stands there
    both = {"device": "cpu", "precision": "float32"} | other
    assert claims.decided_by(found) == found.mixed  # what index and finding say beside the verdict
    assert all(way in found.mixed for way in ("float32 on cpu", f"{both['precision']} on {both['device']}"))


def test_one_seed_computed_otherwise_is_a_mixture_too():
    a = computed(arm(0.75)) + computed(arm(0.76, first_seed=1), precision="bfloat16")
    assert judged(a, computed(arm(0.5, 0.5)), claim()).verdict == claims.INCONCLUSIVE


def test_a_claim_about_precision_may_compare_precisions_but_no_devices():
    params = claim(precision="bfloat16")
    a, b = computed(arm(0.75, 0.76), precision="bfloat16"), arm(0.5, 0.5)
    assert judged(a, computed(b), params).verdict == claims.SUPPORTED
    assert judged(a, computed(b, device="cuda"), params).verdict == claims.INCONCLUSIVE
    stood_in = judged(computed(a), computed(b), params)  # a ledger's run, in another precision than was asked for
    assert stood_in.verdict == claims.INCONCLUSIVE and "float32 in place of bfloat16" in stood_in.mixed


def test_a_mixture_of_drawn_data_reads_as_all_drawn_data_does():
    a, b = computed(arm(0.75, 0.76)), computed(arm(0.5, 0.5), precision="bfloat16")
    assert judged(a, b, claim(), sample=True).verdict == claims.ON_SAMPLE
