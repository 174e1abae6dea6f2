"""Metrics and intervals against numbers worked out by hand or printed in the papers they come from."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from fer_core import evaluation
from fer_core.schema import DataError

CLASSES = ("angry", "disgust", "happy")
#                 right         wrong → happy  right         wrong → angry
PROBABILITIES = [[0.7, 0.2, 0.1], [0.3, 0.1, 0.6], [0.1, 0.1, 0.8], [0.5, 0.1, 0.4]]
LABELS = [0, 0, 2, 2]


def predictions(rows: list[tuple[str, int, list[float]]]) -> pd.DataFrame:
    columns = {f"p_{name}": [p[i] for _, _, p in rows] for i, name in enumerate(CLASSES)}
    ids, labels = [image_id for image_id, _, _ in rows], [label for _, label, _ in rows]
    return pd.DataFrame({"image_id": ids, "split": "validation", "label": labels} | columns)


def test_wilson_gives_the_published_interval():
    assert evaluation.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert evaluation.wilson(0, 20) == (0.0, pytest.approx(0.1611, abs=5e-5))
    assert evaluation.wilson(29, 29)[1] == 1.0


def test_wilson_without_observations_says_nothing():
    assert evaluation.wilson(0, 0) == (0.0, 1.0)


def test_newcombe_gives_the_published_interval():
    found = evaluation.newcombe(56, 70, 48, 80)  # Newcombe 1998, table II (a), method 10
    assert found[:3] == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert found.n == 70


def test_newcombe_needs_runs_on_both_sides():
    assert evaluation.newcombe(1, 2, 0, 0) == (None, None, None, 0)


def test_mean_interval_is_students():
    found = evaluation.mean_interval([1.0, 2.0, 3.0])  # t(2) at 97.5 % is 4.30265, standard error 1 / √3
    assert found[:3] == pytest.approx((2.0, 2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-5)


def test_one_value_has_a_mean_but_no_interval():
    assert evaluation.mean_interval([0.5]) == (0.5, None, None, 1)


def test_nan_is_left_out_of_the_mean_and_of_n():
    assert evaluation.mean_interval([0.5, math.nan, 0.5]) == (0.5, 0.5, 0.5, 2)
    assert evaluation.mean_interval([math.nan]) == (None, None, None, 0)


def test_welch_interval_by_hand():
    # variances 1 and 4, three values each: error √(5/3); freedom (5/3)² / ((1/3)²/2 + (4/3)²/2) = 2.941, t = 3.2195
    found = evaluation.welch_interval([1, 2, 3], [2, 4, 6])
    assert found.value == -2
    assert found.high == pytest.approx(-2 + 3.2195 * math.sqrt(5 / 3), abs=1e-3)
    assert found.n == 3


def test_welch_interval_of_identical_values_has_no_width():
    assert evaluation.welch_interval([0.5, 0.5], [0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25, 2)


def test_metrics_by_hand():
    found = evaluation.metrics(PROBABILITIES, LABELS, CLASSES)
    assert (found["n"], found["accuracy"]) == (4, 0.5)
    assert found["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.8) + math.log(0.4)) / 4)
    assert (found["accuracy_low"], found["accuracy_high"]) == evaluation.wilson(2, 4)
    assert found["classes"]["angry"] == {"n": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_absent_class_keeps_its_row_and_stays_out_of_macro_f1():
    found = evaluation.metrics(PROBABILITIES, LABELS, CLASSES)
    assert found["classes"]["disgust"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert found["macro_f1"] == 0.5


def test_class_never_predicted_has_f1_zero_and_no_precision():
    found = evaluation.metrics([[0.9, 0.1], [0.8, 0.2]], [0, 1], ("angry", "happy"))
    assert found["classes"]["happy"] == {"n": 1, "precision": None, "recall": 0.0, "f1": 0.0}


def test_metrics_are_plain_json():
    text = json.dumps(evaluation.metrics(np.float32(PROBABILITIES), np.uint8(LABELS), CLASSES), allow_nan=False)
    assert json.loads(text)["classes"]["happy"]["n"] == 2


def test_certain_mistake_costs_a_finite_loss():
    assert evaluation.cross_entropy([[0.0, 1.0]], [0]) == pytest.approx(-math.log(1e-12))


def test_diverged_networks_answers_count_as_wrong_and_have_no_loss():
    found = evaluation.metrics([[math.nan] * 2, [0.9, 0.1]], [0, 0], ("angry", "happy"))
    assert (found["accuracy"], found["loss"]) == (0.5, None)


def test_split_without_images_is_refused():
    with pytest.raises(DataError, match="got \\(0, 3\\) and 0 labels"):
        evaluation.metrics(np.zeros((0, 3)), [], CLASSES)


def test_confusion_has_true_rows_and_keeps_absent_classes():
    found = evaluation.confusion([0, 0, 2, 2], [0, 2, 2, -1], 3)
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]


def test_calibration_by_hand():
    table = evaluation.calibration([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [math.nan, math.nan]], [0, 1, 0, 0], bins=5)
    assert table["n"].tolist() == [0, 0, 1, 1, 1]  # an edge belongs to the bin below it
    assert table["accuracy"].tolist()[2:] == [1.0, 0.0, 1.0]
    assert evaluation.calibration_error(table) == pytest.approx((0.4 + 0.8 + 0.1) / 3)


def test_calibration_error_without_answers_is_none():
    assert evaluation.calibration_error(evaluation.calibration([[math.nan, math.nan]], [0])) is None


def test_temperature_undoes_overconfidence():
    # Three of four right at a stated confidence of 0.9: log(0.9 / 0.1) / T = log(3) gives T = 2.
    probabilities, labels = [[0.9, 0.1]] * 4, [0, 0, 0, 1]
    temperature = evaluation.fit_temperature(probabilities, labels)
    assert temperature == pytest.approx(2.0, abs=1e-3)
    assert evaluation.with_temperature(probabilities, temperature)[0] == pytest.approx([0.75, 0.25], abs=1e-3)


def test_temperature_of_a_diverged_network_is_one():
    assert evaluation.fit_temperature([[math.nan, math.nan]], [0]) == 1.0


def test_mcnemar_is_the_exact_binomial():
    labels, a, b = np.zeros(8, int), np.array([0] * 7 + [1]), np.array([0] + [1] * 6 + [0])
    assert evaluation.mcnemar(labels, a, b) == (6, 1, pytest.approx(2 * (1 + 7) / 2**7))
    assert evaluation.mcnemar(labels, a, a) == (0, 0, 1.0)


def test_most_confident_mistakes_come_first_and_ties_go_by_id():
    rows = [("b", 0, [0.1, 0.0, 0.9]), ("a", 0, [0.1, 0.0, 0.9]), ("c", 1, [0.6, 0.4, 0.0]), ("d", 0, [1.0, 0.0, 0.0])]
    found = evaluation.most_confident_mistakes(predictions(rows), 5)
    assert found["image_id"].tolist() == ["a", "b", "c"]
    assert found.loc[2, ["label", "predicted", "confidence"]].tolist() == [1, 0, 0.6]


def test_least_certain_leaves_out_nan_answers():
    rows = [("a", 0, [0.9, 0.1, 0.0]), ("b", 0, [0.4, 0.3, 0.3]), ("c", 0, [math.nan] * 3)]
    assert evaluation.least_certain(predictions(rows), 2)["image_id"].tolist() == ["b", "a"]
