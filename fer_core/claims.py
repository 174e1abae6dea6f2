"""Verdicts on claims: the metric of each run, the difference between arms, and the rule that was written down before.

A diverged run is data: at chance level it counts as such, and its accuracy, gap and losses enter as they stand. Where a
run has no value (an empty history, a NaN, an epoch it never reached) the value is NaN, and NaN is left out of means
(with its partner, where seeds are paired) and *said*: an outcome holds `n`, what entered, and `excluded`, what did not.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_core.evaluation import Interval, mean_interval, newcombe, welch_interval, wilson
from fer_core.schema import DEFAULTS, ParameterError, listed, nearest

if TYPE_CHECKING:
    import pandas as pd

    from fer_core.artifacts import Run
    from fer_core.schema import Params

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
ON_SAMPLE = "not evaluated on sample data"
LEAST_SEEDS = 2
WORDS = {
    "validation_accuracy": "validation accuracy",
    "best_validation_accuracy": "best validation accuracy",
    "gap": "gap",
    "clean_gap": "clean gap",
    "at_chance": "share of runs at chance level",
    "late_loss_variability": "late loss variability",
    "macro_f1": "macro F1",
    "test_official_accuracy": "official test accuracy",
    "test_leak_free_accuracy": "leak-free test accuracy",
    "leak_flattery": "official minus leak-free test accuracy",
    "test_copies_accuracy": "accuracy on test images with a copy",
}
NUMBERED = {
    "validation_accuracy_at_": "validation accuracy at epoch {}",
    "best_validation_accuracy_from_": "best validation accuracy from epoch {}",
    "improvement_after_": "improvement after epoch {}",
}
CONDITION_KEYS = ("arm", "against", "metric", "direction", "threshold")


@dataclass(frozen=True)
class Outcome:
    """One condition of a rule, evaluated: arm − against (or the arm's own mean) with its 95 % interval."""

    rule: str
    verdict: str
    metric: str
    arm: str
    against: str | None
    threshold: float
    effect: float | None
    low: float | None
    high: float | None
    n: int  # pairs; unpaired: values of the smaller arm
    excluded: int  # runs without a value


@dataclass(frozen=True)
class Verdict:
    """A claim's row: effect, low, high and n are those of the first condition, which is the claim's main one."""

    effect: float | None
    low: float | None
    high: float | None
    n: int
    rule: str
    verdict: str
    conditions: tuple[Outcome, ...]
    note: str  # what was left out and why; empty where nothing was
    mixed: str = ""  # why the rule could not decide, where the runs were not computed alike


def words(metric: str) -> str:
    """The metric in words; raises ParameterError (with the nearest name) for one that does not exist."""
    if metric in WORDS:
        return WORDS[metric]
    if metric.startswith("recall_") and len(metric) > len("recall_"):
        return f"{metric.removeprefix('recall_')} recall"
    for prefix, sentence in NUMBERED.items():
        if match := re.fullmatch(prefix + r"([1-9]\d*)", metric):
            return sentence.format(match[1])
    known = [*WORDS, "recall_<class>", *(f"{prefix}<epoch>" for prefix in NUMBERED)]
    raise ParameterError(f"unknown metric {metric!r}, expected one of {', '.join(known)}{nearest(metric, known)}")


def unit(metric: str) -> str:
    """What a value is counted in: "%" (a share), "points" (a difference of shares) or "nats"."""
    if metric == "late_loss_variability":
        return "nats"
    return "points" if metric in ("gap", "clean_gap", "leak_flattery") or metric.startswith("improvement_") else "%"


def told(found: Sequence[float | None], metric: str = "", change: bool = False, threshold: float | None = None) -> str:
    """(value, low, high, …) as "61.2 % [59.6, 62.8]"; differences of shares in points, losses in nats.

    Parameters
    ----------
    found : value, low, high, as of `evaluation` or of an outcome; low and high may be None
    metric : names the unit: a share, points or nats
    change : whether it is a difference, with its sign
    threshold : given, an end that is not the same stands with so many digits that it does not look the same
    """
    value, low, high = found[:3]
    if value is None or not math.isfinite(value):
        return "no value"
    counted_in = unit(metric)
    digits, scale = (3, 1) if counted_in == "nats" else (1, 100)
    if threshold is not None:
        off = [end - threshold for end in (low, high) if end is not None and not math.isclose(end, threshold)]
        while digits < 6 and any(round(distance * scale, digits) == 0 for distance in off):
            digits += 1
    words = " points" if change and counted_in == "%" else "\u00a0%" if counted_in == "%" else f" {counted_in}"

    def number(end: float, sign: str = "") -> str:
        return format(round(end * scale, digits) + 0.0, f"{sign}.{digits}f")  # no −0.0

    if counted_in == "%" and not change and low is not None and high is not None:
        low, high = max(low, 0.0), min(high, 1.0)  # no share lies beyond, however few seeds its interval is over
    text = number(value, "+" if change else "") + words
    text += f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    return text.replace("-", "\u2212")


def told_effect(outcome: Outcome) -> str:
    """A condition's effect with its interval over seeds: a difference where it is against another arm."""
    found = outcome.effect, outcome.low, outcome.high
    return told(found, outcome.metric, outcome.against is not None, outcome.threshold)


def decided_by(verdict: Verdict) -> str:
    """What the verdict came by, where the first condition, whose effect is the claim's, does not tell it."""
    if verdict.mixed:
        return verdict.mixed
    words_of = {INCONCLUSIVE: "Not settled", NOT_SUPPORTED: "What does not hold"}
    if verdict.verdict not in words_of or verdict.conditions[0].verdict == verdict.verdict:
        return ""
    others = [outcome for outcome in verdict.conditions if outcome.verdict == verdict.verdict]
    return f"{words_of[verdict.verdict]}: {'; '.join(f'{about(o)} {told_effect(o)}' for o in others)}"


def about(outcome: Outcome) -> str:
    """What a condition's effect is of."""
    against = f" against “{outcome.against}”" if outcome.against else ""
    return f"{words(outcome.metric)} of “{outcome.arm}”{against}"


def metric_of(run: Run, metric: str) -> float:
    """One run's value, a fraction or nats; NaN where the run has none. Raises ParameterError for an unknown metric."""
    validation = _split(run, "validation")
    _check_metric(metric, validation.get("classes"))
    if metric == "at_chance":
        return float(run.state == "diverged")
    if metric == "gap":
        return _number(run.metrics.get("gap"))
    if metric == "test_copies_accuracy":
        return _outside(_split(run, "test_official"), _split(run, "test_leak_free"))
    if metric.startswith("test_"):
        return _number(_split(run, metric.removesuffix("_accuracy")).get("accuracy"))
    if metric == "leak_flattery":
        return metric_of(run, "test_official_accuracy") - metric_of(run, "test_leak_free_accuracy")
    if metric in ("validation_accuracy", "macro_f1"):
        return _number(validation.get(metric.removeprefix("validation_")))
    if metric.startswith("recall_"):
        return _number(validation.get("classes", {}).get(metric.removeprefix("recall_"), {}).get("recall"))
    return _from_history(run, metric)


def source(metric: str) -> str:
    """The artifact and columns that `metric_of` takes a metric from."""
    if metric == "at_chance":
        return "run.json: state"
    if metric.startswith("test_") or metric == "leak_flattery":
        return "metrics.json: accuracy of test_official, test_leak_free"
    if metric == "gap":
        return "metrics.json: gap"
    if metric in ("validation_accuracy", "macro_f1"):
        return f"metrics.json: {metric.removeprefix('validation_')} of validation"
    if metric.startswith("recall_"):
        return f"metrics.json: recall of {metric.removeprefix('recall_')} in validation"
    columns = {"clean_gap": "train_clean_accuracy, validation_accuracy", "late_loss_variability": "validation_loss"}
    return f"history.csv: epoch, {columns.get(metric, 'validation_accuracy')}"


def _outside(whole: Mapping[str, Any], part: Mapping[str, Any]) -> float:
    """Accuracy on the images of the one split that are not among the other's."""
    n = whole.get("n", 0) - part.get("n", 0)
    right = [_number(split.get("accuracy")) * split.get("n", 0) for split in (whole, part)]
    return (right[0] - right[1]) / n if n > 0 else math.nan


def _from_history(run: Run, metric: str) -> float:
    if len(run.history) == 0:
        return math.nan
    history = run.history.set_index("epoch").astype(float)
    accuracy = history["validation_accuracy"]
    if metric == "best_validation_accuracy":
        return float(accuracy.max())  # pandas leaves NaN out
    if metric == "clean_gap":
        gaps = history["train_clean_accuracy"] - accuracy
        return float(gaps.get(run.selected_epoch, math.nan))
    if metric == "late_loss_variability":
        # Changes from epoch to epoch that arrive in the last half: so a steady fall is not taken for oscillation.
        changes = history["validation_loss"].diff()[history.index > history.index.max() / 2]
        return float(changes.std(ddof=1, skipna=False)) if len(changes) > 1 else math.nan
    epoch = int(metric.rpartition("_")[2])
    if metric.startswith("validation_accuracy_at_"):
        return float(accuracy.get(epoch, math.nan))
    if metric.startswith("best_validation_accuracy_from_"):
        return float(accuracy[accuracy.index >= epoch].max())
    return float(accuracy[accuracy.index > epoch].max() - accuracy[accuracy.index <= epoch].max())


def arm_table(arms: Mapping[str, Sequence[Run]], metric: str) -> pd.DataFrame:
    """One row a run: arm, seed, state, value (NaN where the run has none)."""
    import pandas as pd

    rows = [(arm, run.params.seed, run.state, metric_of(run, metric)) for arm, runs in arms.items() for run in runs]
    return pd.DataFrame(rows, columns=["arm", "seed", "state", "value"])


def arm_interval(values: Iterable[float], metric: str) -> Interval:
    """An arm's mean with Student's t interval over seeds, or, for `at_chance`, its share of runs with Wilson's."""
    values = list(values)
    if metric != "at_chance" or len(values) < LEAST_SEEDS:
        return mean_interval(values)
    return Interval(sum(values) / len(values), *wilson(round(sum(values)), len(values)), len(values))


def check_rule(rule: Any, arms: Iterable[str], metric: str, classes: Sequence[str] | None = None) -> None:
    """Raise ParameterError, one sentence, where a rule could not be evaluated on these arms (and of these classes)."""
    names = list(arms)
    _check_metric(metric, classes)
    if not isinstance(rule, list | tuple) or not rule:
        raise ParameterError(f"rule: expected a list of at least one condition, got {rule!r}.")
    for number, condition in enumerate(rule, 1):
        if fault := _fault(condition, names):
            raise ParameterError(f"rule, condition {number}: {fault}{'' if fault.endswith('?') else '.'}")
        _check_metric(condition.get("metric") or metric, classes)


def _check_metric(metric: str, classes: Iterable[str] | None) -> None:
    words(metric)
    name = metric.removeprefix("recall_")
    if classes is not None and name != metric and name not in classes:
        raise ParameterError(f"metric {metric!r}: no class is called {name!r}, expected one of {', '.join(classes)}.")


def _fault(condition: Any, arms: list[str]) -> str | None:
    """What is wrong with one condition; None where nothing is."""
    if not isinstance(condition, Mapping):
        return f"expected arm, direction and threshold, got {condition!r}"
    for key in condition:
        if key not in CONDITION_KEYS:
            return f"unknown key {key!r}, expected {', '.join(CONDITION_KEYS)}{nearest(str(key), CONDITION_KEYS)}"
    for key in ("arm", "direction", "threshold"):
        if key not in condition:
            return f"{key} is missing, expected arm, direction and threshold at least"
    arm, against, threshold = condition["arm"], condition.get("against"), condition["threshold"]
    for key, name in (("arm", arm), ("against", arm if against is None else against)):
        if name not in arms:
            return f"{key} {name!r} is not an arm, expected one of {', '.join(arms)}{nearest(str(name), arms)}"
    if arm == against:
        return f"arm {arm!r} is compared with itself, expected another one"
    if condition["direction"] not in ("above", "below"):
        return f"direction expected above or below, got {condition['direction']!r}"
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        return f"threshold expected a number (in YAML 0.001, not 1e-3), got {threshold!r}"
    return None


def describe(condition: Mapping[str, Any], metric: str, paired: bool = True) -> str:
    """The condition in words: "gap of “dropout” below gap of “batch_norm” by more than 0.05 (paired over seeds, …)"."""
    metric = condition.get("metric") or metric
    name, arm, direction, t = words(metric), condition["arm"], condition["direction"], float(condition["threshold"])
    share = metric == "at_chance"
    if condition.get("against") is None:
        how = "Wilson's 95 % interval" if share else "mean over seeds, 95 % interval"
        return f"{name} of “{arm}” {direction} {t:g} ({how})"
    # Beyond the threshold on its own side of zero it is "by more than"; across zero the wording has to turn round.
    if t == 0:
        relation, amount = direction, ""
    elif (t > 0) == (direction == "above"):
        relation, amount = direction, f" by more than {abs(t):g}"
    else:
        relation, amount = f"not {'above' if t > 0 else 'below'}", f" by {abs(t):g} or more"
    how = "Newcombe's 95 % interval" if share else f"{'paired' if paired else 'unpaired'} over seeds, 95 % interval"
    return f"{name} of “{arm}” {relation} {name} of “{condition['against']}”{amount} ({how})"


def evaluate(
    arms: Mapping[str, Sequence[Run]], metric: str, rule: Sequence[Mapping[str, Any]], sample: bool
) -> Verdict:
    """Judge a claim: supported if every condition is, not supported if any is not, else inconclusive.

    A condition's value is arm − against: paired where both arms have the same seeds, else Welch's interval; Newcombe's
    for `at_chance`; without `against` the arm's own mean. `above` t is supported where the whole 95 % interval lies
    above t and not supported where it lies below t; `below` the other way round; else, and with fewer than two seeds,
    inconclusive.

    Raises
    ------
    ParameterError : see `check_rule`
    """
    check_rule(rule, arms, metric)
    outcomes = tuple(_outcome(arms, metric, condition, sample) for condition in rule)
    verdicts = {outcome.verdict for outcome in outcomes}
    verdict = next(v for v in (ON_SAMPLE, NOT_SUPPORTED, INCONCLUSIVE, SUPPORTED) if v in verdicts)
    notes = dict.fromkeys(
        f"{words(o.metric)} of {o.arm}{f' and {o.against}' if o.against else ''}: {o.excluded} "
        f"{'run has' if o.excluded == 1 else 'runs have'} no value and {'is' if o.excluded == 1 else 'are'} left out"
        for o in outcomes
        if o.excluded
    )
    first = outcomes[0]
    text = "; and ".join(outcome.rule for outcome in outcomes)
    return Verdict(first.effect, first.low, first.high, first.n, text, verdict, outcomes, "; ".join(notes))


def judge(params: Params, arms: Mapping[str, Sequence[Run]], sample: bool) -> Verdict:
    """`evaluate` by what a claim's page states; inconclusive where the arms were not all computed the same way, since a
    difference may then be the device's or the precision's.
    """
    verdict = evaluate(arms, params.metric, params.rule, sample)
    ways = mixture({arm: [run.provenance for run in runs] for arm, runs in arms.items()}, params)
    if sample or not ways:
        return verdict
    return dataclasses.replace(
        verdict,
        verdict=INCONCLUSIVE,
        conditions=tuple(dataclasses.replace(outcome, verdict=INCONCLUSIVE) for outcome in verdict.conditions),
        mixed=f"Its runs were computed in {listed(ways)}, and these are not mixed in one comparison",
    )


def mixture(arms: Mapping[str, Iterable[Mapping[str, Any]]], params: Params = DEFAULTS) -> list[str]:
    """The ways in which runs that are compared were computed, in words, where there is more than one unasked for.

    Parameters
    ----------
    arms : `device` (its type) and `precision` of each arm's runs, as run.json holds them
    params : of a claim's page: arms that state their precision ask for it
    """
    stated = {name: (arm.get("set") or {}).get("precision") for name, arm in params.arms.items()}
    ways = set()
    for name, records in arms.items():
        for record in records:
            precision, asked = record["precision"], stated.get(name)
            if asked and precision != asked:  # a ledger's run stands in for any precision
                precision = f"{precision} in place of {asked}"
            elif any(stated.values()):
                precision = "the precision asked for"
            ways.add(f"{precision} on {record['device']}")
    return sorted(ways) if len(ways) > 1 else []


def _outcome(arms: Mapping[str, Sequence[Run]], metric: str, condition: Mapping[str, Any], sample: bool) -> Outcome:
    metric, against = condition.get("metric") or metric, condition.get("against")
    arm, threshold = condition["arm"], float(condition["threshold"])
    values = [metric_of(run, metric) for name in (arm, against) if name for run in arms[name]]
    if against:
        interval, paired = difference(arms[arm], arms[against], metric)
    else:
        interval, paired = arm_interval(values, metric), True
    verdict = ON_SAMPLE if sample else _judge(interval, condition["direction"], threshold)
    sentence, excluded = describe(condition, metric, paired), sum(map(math.isnan, values))
    return Outcome(sentence, verdict, metric, arm, against, threshold, *interval, excluded)


def difference(runs: Sequence[Run], others: Sequence[Run], metric: str) -> tuple[Interval, bool]:
    """Runs − others with its 95 % interval, and whether it is paired: where both have the same seeds, else Welch's
    interval; Newcombe's for `at_chance`.
    """
    sides = [sorted(side, key=lambda run: run.params.seed) for side in (runs, others)]
    seeds, rest = ([run.params.seed for run in side] for side in sides)
    paired = seeds == rest and len(set(seeds)) == len(seeds)
    first, second = ([metric_of(run, metric) for run in side] for side in sides)
    if metric == "at_chance":
        return newcombe(round(sum(first)), len(first), round(sum(second)), len(second)), paired
    if paired:
        return mean_interval(one - other for one, other in zip(first, second, strict=True)), True
    return welch_interval(first, second), False


def _judge(interval: Interval, direction: str, threshold: float) -> str:
    if interval.n < LEAST_SEEDS or interval.low is None or interval.high is None:
        return INCONCLUSIVE
    beyond, short = interval.low > threshold, interval.high < threshold
    if direction == "below":
        beyond, short = short, beyond
    return SUPPORTED if beyond else NOT_SUPPORTED if short else INCONCLUSIVE


def _split(run: Run, split: str) -> dict[str, Any]:
    return run.metrics.get(split) or {}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
