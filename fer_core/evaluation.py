"""What is measured on predictions: metrics of a split, intervals, calibration, and the images worth looking at.

Numbers leave as plain Python floats and ints, and what is undefined leaves as None, so that JSON can hold them.
Two kinds of interval never mix: Wilson's and Newcombe's are about sampling test images (or runs, for shares of runs),
Student's t is about the spread over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fer_core.schema import DataError

if TYPE_CHECKING:
    import pandas as pd

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
SMALLEST_PROBABILITY = 1e-12  # a certain mistake costs 27.6 nats instead of infinity


class Interval(NamedTuple):
    """A value with its 95 % interval; None where too few of the n observations define it."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share; n = 0 says nothing and gives (0, 1). Source: Wilson 1927.

    Parameters
    ----------
    successes, n : counts

    Returns
    -------
    float, float : low and high, 0–1
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * ((share * (1 - share) + z2 / (4 * n)) / n) ** 0.5 / (1 + z2 / n)
    # The ends are exact at no and at all successes; floating point misses them by 1e-17.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def newcombe(successes_1: int, n_1: int, successes_2: int, n_2: int) -> Interval:
    """Difference of two independent shares, first − second, with its 95 % interval. Source: Newcombe 1998 (10).

    Parameters
    ----------
    successes_1, n_1, successes_2, n_2 : counts of two samples

    Returns
    -------
    Interval : n is the smaller sample's
    """
    if not n_1 or not n_2:
        return Interval(None, None, None, 0)
    share_1, share_2 = successes_1 / n_1, successes_2 / n_2
    (low_1, high_1), (low_2, high_2) = wilson(successes_1, n_1), wilson(successes_2, n_2)
    low = share_1 - share_2 - ((share_1 - low_1) ** 2 + (high_2 - share_2) ** 2) ** 0.5
    high = share_1 - share_2 + ((high_1 - share_1) ** 2 + (share_2 - low_2) ** 2) ** 0.5
    return Interval(share_1 - share_2, low, high, min(n_1, n_2))


def mean_interval(values: Iterable[float]) -> Interval:
    """Mean over seeds with its 95 % Student t interval.

    NaN (a run without that value) is left out, and `n` says how many were left in. One value has no interval.

    Parameters
    ----------
    values : one a seed

    Returns
    -------
    Interval : low and high None for a single value
    """
    from scipy import special  # not stats: its import costs most of a second in every notebook

    kept = np.asarray([value for value in values if np.isfinite(value)], dtype=float)
    n = len(kept)
    if n == 0:
        return Interval(None, None, None, 0)
    mean = float(kept.mean())
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(special.stdtrit(n - 1, 0.975) * kept.std(ddof=1) / n**0.5)
    return Interval(mean, mean - half, mean + half, n)


def welch_interval(first: Iterable[float], second: Iterable[float]) -> Interval:
    """Difference of two means (first − second) with Welch's 95 % interval; NaN left out; n is the smaller sample's.

    Parameters
    ----------
    first, second : values of two arms, one a seed

    Returns
    -------
    Interval
    """
    from scipy import special

    a, b = (np.asarray([value for value in values if np.isfinite(value)], dtype=float) for values in (first, second))
    n = min(len(a), len(b))
    if n == 0:
        return Interval(None, None, None, 0)
    difference = float(a.mean() - b.mean())
    if n == 1:
        return Interval(difference, None, None, 1)
    part_a, part_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if part_a + part_b == 0:  # identical values throughout: the degrees of freedom would be 0 / 0
        return Interval(difference, difference, difference, n)
    freedom = (part_a + part_b) ** 2 / (part_a**2 / (len(a) - 1) + part_b**2 / (len(b) - 1))
    half = float(special.stdtrit(freedom, 0.975) * (part_a + part_b) ** 0.5)
    return Interval(difference, difference - half, difference + half, n)


def predicted_labels(probabilities: ArrayLike) -> np.ndarray:
    """int (n,) of the likeliest class; −1 where a diverged network answered NaN, so that it counts as wrong.

    Parameters
    ----------
    probabilities : float (n, k)

    Returns
    -------
    int (n,)
    """
    p = np.asarray(probabilities, dtype=float)
    return np.where(np.isfinite(p).all(axis=1), p.argmax(axis=1), -1)


def confusion(labels: ArrayLike, predicted: ArrayLike, k: int) -> np.ndarray:
    """int (k, k): row true, column predicted; every class keeps its row; a prediction of −1 falls in no column.

    Parameters
    ----------
    labels, predicted : int (n,)
    k : how many classes

    Returns
    -------
    int (k, k)
    """
    true, answer = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    kept = answer >= 0
    return np.bincount(true[kept] * k + answer[kept], minlength=k * k).reshape(k, k)


def cross_entropy(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Plain mean cross-entropy in nats, neither weighted nor smoothed; None where any probability is NaN.

    Parameters
    ----------
    probabilities : float (n, k)
    labels : int (n,)

    Returns
    -------
    float, nats; or None
    """
    p = np.asarray(probabilities, dtype=float)
    true = p[np.arange(len(p)), np.asarray(labels, dtype=np.int64)]  # (n, k) -> (n,)
    loss = float(-np.log(np.maximum(true, SMALLEST_PROBABILITY)).mean())
    return loss if np.isfinite(loss) else None


def metrics(probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """What `metrics.json` holds for one split.

    Parameters
    ----------
    probabilities : float (n, k), rows sum to 1
    labels : int (n,), 0 … k − 1

    Returns
    -------
    dict of n, loss, accuracy, accuracy_low, accuracy_high (Wilson, 95 %), macro_f1 and
        classes {name: {n, precision, recall, f1}}. A class without images keeps its row (n 0, recall and f1 None);
        macro_f1 is the mean over the classes present; precision is None where the class was never predicted.

    Raises
    ------
    DataError : no image, or as many labels as images were expected and others came.
    """
    p, true = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=np.int64)
    if len(true) == 0 or p.shape != (len(true), len(classes)):
        raise DataError(
            f"Metrics expected probabilities of shape (images, {len(classes)}) with a label each, got {p.shape} "
            f"and {len(true)} labels: score only splits that have labelled images."
        )
    counts = confusion(true, predicted_labels(p), len(classes))
    present, answered, hits = np.bincount(true, minlength=len(classes)), counts.sum(axis=0), counts.diagonal()
    rows: dict[str, dict[str, Any]] = {}
    for name, n, given, hit in zip(classes, present.tolist(), answered.tolist(), hits.tolist(), strict=True):
        rows[name] = {
            "n": n,
            "precision": hit / given if given else None,
            "recall": hit / n if n else None,
            "f1": 2 * hit / (n + given) if n else None,
        }
    right, n_images = int(hits.sum()), len(true)
    low, high = wilson(right, n_images)
    return {
        "n": n_images,
        "loss": cross_entropy(p, true),
        "accuracy": right / n_images,
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": float(np.mean([row["f1"] for row in rows.values() if row["f1"] is not None])),
        "classes": rows,
    }


def calibration(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> pd.DataFrame:
    """Reliability table: one row a bin of equal width of the confidence, with low, high, n, confidence, accuracy.

    An empty bin keeps its row (n 0, NaN means). Images with NaN probabilities are in no bin. Source: arXiv:1706.04599.

    Parameters
    ----------
    probabilities : float (n, k)
    labels : int (n,)
    bins : how many, of equal width

    Returns
    -------
    DataFrame : low, high, n, confidence, accuracy
    """
    import pandas as pd

    p, true = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=np.int64)
    finite = np.isfinite(p).all(axis=1)
    confidence, right = p[finite].max(axis=1), p[finite].argmax(axis=1) == true[finite]
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # bins (low, high]
    n = np.bincount(where, minlength=bins)
    filled = np.where(n > 0, n, np.nan)
    columns = {"low": edges[:-1], "high": edges[1:], "n": n}
    columns["confidence"] = np.bincount(where, confidence, bins) / filled
    columns["accuracy"] = np.bincount(where, right, bins) / filled
    return pd.DataFrame(columns)


def calibration_error(table: pd.DataFrame) -> float | None:
    """Expected calibration error (ECE) of a `calibration` table: mean |accuracy − confidence|, bins weighted by n.

    Parameters
    ----------
    table : of `calibration`

    Returns
    -------
    float, 0–1; None without images
    """
    n = int(table["n"].sum())
    return float(((table["accuracy"] - table["confidence"]).abs() * table["n"]).sum() / n) if n else None


def with_temperature(probabilities: ArrayLike, temperature: float) -> np.ndarray:
    """float (n, k): the probabilities that logits divided by `temperature` give (above 1: less confident).

    Parameters
    ----------
    probabilities : float (n, k)
    temperature : above 0

    Returns
    -------
    float (n, k), rows sum to 1
    """
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=float), SMALLEST_PROBABILITY)) / temperature
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Temperature in 0.05 … 20 with the lowest cross-entropy; fit it on validation images. Source: arXiv:1706.04599.

    Parameters
    ----------
    probabilities : float (n, k)
    labels : int (n,)

    Returns
    -------
    float : 1 where no image has a probability
    """
    from scipy.optimize import minimize_scalar

    p, true = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=np.int64)
    finite = np.isfinite(p).all(axis=1)
    if not finite.any():
        return 1.0  # a diverged network: there is nothing to calibrate

    def loss(log_temperature: float) -> float:
        return cross_entropy(with_temperature(p[finite], float(np.exp(log_temperature))), true[finite]) or 0.0

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def mcnemar(labels: ArrayLike, predicted_a: ArrayLike, predicted_b: ArrayLike) -> tuple[int, int, float]:
    """Images that only a, that only b has right, and the exact two-sided p of McNemar's test on the same images.

    Parameters
    ----------
    labels, predicted_a, predicted_b : int (n,), of the same images

    Returns
    -------
    int, int, float : only a right, only b right, p
    """
    from scipy import special

    true = np.asarray(labels)
    right_a, right_b = np.asarray(predicted_a) == true, np.asarray(predicted_b) == true
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return only_a, only_b, p


def paired_difference(only_a: int, only_b: int, n: int) -> Interval:
    """Accuracy of b minus that of a on the same n images, with its 95 % interval. Source: Bonett & Price 2012.

    Parameters
    ----------
    only_a, only_b : images that only one of the two has right
    n : all images

    Returns
    -------
    Interval
    """
    if n == 0:
        return Interval(None, None, None, 0)
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = Z95 * ((share_a + share_b - (share_b - share_a) ** 2) / (n + 2)) ** 0.5
    return Interval((only_b - only_a) / n, share_b - share_a - half, share_b - share_a + half, n)


def probability_columns(predictions: pd.DataFrame) -> list[str]:
    """Names of the columns p_<class>, in the order of the classes.

    Parameters
    ----------
    predictions : columns of predictions.parquet

    Returns
    -------
    list of str
    """
    return [str(column) for column in predictions.columns if str(column).startswith("p_")]


def _answers(predictions: pd.DataFrame) -> pd.DataFrame:
    """image_id, split, label, predicted (class indices), confidence; images with NaN answers are left out."""
    p = predictions[probability_columns(predictions)].to_numpy(dtype=float)
    table = predictions[["image_id", "split", "label"]].assign(predicted=predicted_labels(p), confidence=p.max(axis=1))
    return table[table["predicted"] >= 0]


def most_confident_mistakes(predictions: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n wrong answers given with the highest probability: image_id, split, label, predicted, confidence.

    Parameters
    ----------
    predictions : columns of predictions.parquet
    n : how many at most

    Returns
    -------
    DataFrame
    """
    table = _answers(predictions)
    wrong = table[table["predicted"] != table["label"]]
    # Ties go by id, so that the same images are shown whatever order the rows came in.
    return wrong.sort_values(["confidence", "image_id"], ascending=[False, True]).head(n).reset_index(drop=True)


def least_certain(predictions: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n images whose likeliest class has the lowest probability; same columns as `most_confident_mistakes`.

    Parameters
    ----------
    predictions : columns of predictions.parquet
    n : how many at most

    Returns
    -------
    DataFrame
    """
    table = _answers(predictions)
    return table.sort_values(["confidence", "image_id"]).head(n).reset_index(drop=True)
