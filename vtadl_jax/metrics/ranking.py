"""Ranking metrics of anomaly scores: AUROC, average precision, PR-AUC, best F1.

Conventions: predicted positive is `score >= threshold`; ties are exact (one curve point per
distinct score); scores keep their own dtype and are never binned or rescaled. The same functions
serve pixels and images: arrays of any shape are flattened.

Why it is fast: the metrics need only the number of negatives between two positives. So each class
is sorted by value (float32 sorts with SIMD, an argsort does not) and the smaller class is looked up
in the larger.

Not here: anything with regions (see `regions.py`), whole curves (see `curves.py`), plots,
thresholds fitted on good images.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the area under the ROC curve: P(positive > negative score), ties counted half.

    The Mann-Whitney statistic in integers, hence exact up to one division.

    Args:
      scores: any shape, real numbers (infinities rank as usual).
      labels: same shape, bool or 0/1; 1 is anomalous.

    Raises:
      ValueError: NaN scores, shapes that differ, labels not 0/1, or only one class.
    """
    pos, neg = sorted_classes(scores, labels)
    pairs = pos.size * neg.size
    few_pos = pos.size <= neg.size
    wins_twice = _rank_sum(neg, pos) if few_pos else 2 * pairs - _rank_sum(pos, neg)
    return wins_twice / (2 * pairs)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the step-wise average precision Σ (R_k - R_{k-1}) P_k, distinct scores descending.

    With ties it is below `pr_auc`, so a table must say which of the two it shows. Arguments and
    errors as in `auroc`.
    """
    curve = _curve(scores, labels)
    gained = np.diff(curve.tp, prepend=0)
    return float(gained @ (curve.tp / (curve.tp + curve.fp)) / curve.num_pos)


def pr_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the area under the precision-recall curve by trapezoid, from recall 0, precision 1.

    Equals scikit-learn's `auc(recall, precision)`. Arguments and errors as in `auroc`.
    """
    curve = _curve(scores, labels)
    gained = np.diff(curve.tp, prepend=0)
    before = curve.tp - gained
    # Each trapezoid starts at the last point of the previous recall, after all negatives above.
    # Without predictions precision is 1 by convention.
    predicted = before + curve.fp_above
    left = np.where(predicted > 0, before / np.maximum(predicted, 1), 1.0)
    right = curve.tp / (curve.tp + curve.fp)
    return float(gained @ (left + right) / 2 / curve.num_pos)


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Returns the largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds, and its threshold.

    The threshold is one of the scores, the highest one among ties. Arguments and errors as in
    `auroc`.
    """
    curve = _curve(scores, labels)
    f1 = 2 * curve.tp / (curve.tp + curve.fp + curve.num_pos)
    best = int(np.argmax(f1))
    return float(f1[best]), float(curve.thresholds[best])


def balanced_accuracy_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Returns the largest (TPR + TNR) / 2 over all thresholds, and its threshold.

    The threshold is one of the scores, the highest one among ties. Arguments and errors as in
    `auroc`.
    """
    curve = _curve(scores, labels)
    pairs = curve.num_pos * curve.num_neg
    # tpr - fpr over the common denominator, in integers: equal thresholds compare equal.
    gain = curve.tp * curve.num_neg - curve.fp * curve.num_pos
    best = int(np.argmax(gain))
    return (pairs + int(gain[best])) / (2 * pairs), float(curve.thresholds[best])


def youden_accuracy(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Returns the share of right decisions where TPR - FPR is largest, and that threshold.

    The threshold is one of the scores or, for no positive decision at all, infinity: the highest
    one among ties, as with scikit-learn's `roc_curve`. Arguments and errors as in `auroc`.
    """
    curve = _curve(scores, labels)
    tp, fp = (np.concatenate([[0], counts]) for counts in (curve.tp, curve.fp))
    best = int(np.argmax(tp * curve.num_neg - fp * curve.num_pos))
    right = int(tp[best] + curve.num_neg - fp[best])
    threshold = curve.thresholds[best - 1] if best else np.inf
    return right / (curve.num_pos + curve.num_neg), float(threshold)


class _Curve(NamedTuple):
    """Counts at each distinct positive score, descending; every array int64 [K].

    Thresholds between two positives only add false positives, so the best F1, the best balanced
    accuracy and areas over recall do not need them.
    """

    thresholds: NDArray[Any]  # dtype of the scores
    tp: NDArray[np.int64]  # positives >= threshold
    fp: NDArray[np.int64]  # negatives >= threshold
    fp_above: NDArray[np.int64]  # negatives > threshold
    num_pos: int
    num_neg: int


def _curve(scores: ArrayLike, labels: ArrayLike) -> _Curve:
    pos, neg = sorted_classes(scores, labels)
    first = first_of_each(pos)
    distinct = pos[first]
    fp = neg.size - np.searchsorted(neg, distinct, side="left")
    fp_above = neg.size - np.searchsorted(neg, distinct, side="right")
    return _Curve(
        thresholds=distinct[::-1],
        tp=(pos.size - first)[::-1],
        fp=fp[::-1],
        fp_above=fp_above[::-1],
        num_pos=pos.size,
        num_neg=neg.size,
    )


def _rank_sum(many: NDArray[Any], few: NDArray[Any]) -> int:
    """Returns Σ over `few` of 2 x the number of `many` below it, ties counted half; both sorted."""
    left = np.searchsorted(many, few, side="left").sum()
    return int(left) + int(np.searchsorted(many, few, side="right").sum())


def sorted_classes(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the scores of positives and of negatives, each ascending, after checks.

    Raises ValueError as `auroc`.
    """
    values, positive = checked(scores, labels)
    pos, neg = values[positive], values[~positive]
    pos.sort()
    neg.sort()
    num_nan = count_nan(pos) + count_nan(neg)
    if num_nan:
        raise ValueError(f"{num_nan} of {values.size} scores are NaN")
    for name, group in (("positive (1)", pos), ("negative (0)", neg)):
        if not group.size:
            raise ValueError(f"no {name} among {values.size} labels")
    return pos, neg


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Returns scores and the mask of positives, of one shape (else ValueError); allows NaN."""
    values = as_scores(scores)
    marks = np.asarray(labels)
    # [N, H, W] against [N, W, H] has the same size and would give a plausible wrong number.
    if values.shape != marks.shape:
        raise ValueError(f"scores {values.shape} and labels {marks.shape} differ in shape")
    return values, as_binary(marks, "labels")


def first_of_each(values: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the indices at which a new value begins in a sorted, non-empty [N]."""
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))


def from_infinity(thresholds: NDArray[Any]) -> NDArray[Any]:
    """Prepends +inf (no prediction) to descending thresholds: [K] → [K + 1] floating."""
    if thresholds.dtype.kind != "f":
        thresholds = thresholds.astype(np.float64)
    return np.concatenate([np.asarray([np.inf], thresholds.dtype), thresholds])


def as_scores(scores: ArrayLike) -> NDArray[Any]:
    """Returns the scores in a dtype that numpy can sort, without rounding.

    Raises ValueError for anything but real numbers.
    """
    values = np.asarray(scores)
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return values.astype(np.float32)  # exact; numpy sorts ml_dtypes slowly
    if values.dtype.kind not in "fiu":
        raise ValueError(f"scores of dtype {values.dtype} are not real numbers")
    return values


def as_binary(marks: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Returns `marks == 1`, after checking that all other values are 0 (else ValueError)."""
    if marks.dtype == np.bool_:
        return marks
    positive = marks == 1
    if np.count_nonzero(positive) != np.count_nonzero(marks):
        wrong = marks[(marks != 0) & ~positive]
        raise ValueError(f"{name} must be 0 or 1: {wrong.size} are not, the first is {wrong[0]}")
    return positive


def count_nan(values: NDArray[Any]) -> int:
    """Returns the number of NaN in an array of any real dtype."""
    return int(np.count_nonzero(np.isnan(values))) if values.dtype.kind == "f" else 0
