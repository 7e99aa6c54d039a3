"""How well scores rank anomalous above normal: AUROC, average precision, PR-AUC, best F1.

Conventions: predicted positive is `score >= threshold`; ties are exact (one curve point per
distinct score); scores keep their own dtype and are never binned or rescaled. One function serves
pixels and images: pass whatever shape, it is ravelled.

How it is fast: no metric needs the negatives that lie between two positives, only their number.
So each class is sorted by value (float32 sorts with SIMD, an argsort does not) and the few are
looked up among the many.

Not here: anything with regions (see `regions.py`), whole curves (see `curves.py`), plots,
thresholds fitted on good images.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties counted half.

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
    """Average precision, step-wise: Σ (R_k - R_{k-1}) P_k over distinct scores, descending.

    With ties it is below `pr_auc`, so say which of the two a table shows. Arguments and errors
    are those of `auroc`.
    """
    curve = _curve(scores, labels)
    gained = np.diff(curve.tp, prepend=0)
    return float(gained @ (curve.tp / (curve.tp + curve.fp)) / curve.num_pos)


def pr_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the precision-recall curve by trapezoid, from (recall 0, precision 1).

    Equals scikit-learn's `auc(recall, precision)`. Arguments and errors are those of `auroc`.
    """
    curve = _curve(scores, labels)
    gained = np.diff(curve.tp, prepend=0)
    before = curve.tp - gained
    # Each trapezoid starts at the last point of the recall before: all negatives above included.
    # With no prediction at all precision is 1 by convention.
    predicted = before + curve.fp_above
    left = np.where(predicted > 0, before / np.maximum(predicted, 1), 1.0)
    right = curve.tp / (curve.tp + curve.fp)
    return float(gained @ (left + right) / 2 / curve.num_pos)


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds, and the threshold that gives it.

    The threshold is one of the scores; of several that are equally good, the highest. Arguments
    and errors are those of `auroc`.
    """
    curve = _curve(scores, labels)
    f1 = 2 * curve.tp / (curve.tp + curve.fp + curve.num_pos)
    best = int(np.argmax(f1))
    return float(f1[best]), float(curve.thresholds[best])


def balanced_accuracy_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Largest (TPR + TNR) / 2 over all thresholds, and the threshold that gives it.

    The threshold is one of the scores; of several that are equally good, the highest. Arguments
    and errors are those of `auroc`.
    """
    curve = _curve(scores, labels)
    pairs = curve.num_pos * curve.num_neg
    # tpr - fpr over the common denominator, in integers: equal thresholds compare equal.
    gain = curve.tp * curve.num_neg - curve.fp * curve.num_pos
    best = int(np.argmax(gain))
    return (pairs + int(gain[best])) / (2 * pairs), float(curve.thresholds[best])


class _Curve(NamedTuple):
    """Counts at each distinct positive score, descending; every array int64 [K].

    Thresholds between two positives only add false positives, so neither a best F1, a best
    balanced accuracy nor an area in recall ever needs them.
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
    """Σ over `few` of 2 x how many of `many` lie below, ties counted half; both sorted."""
    left = np.searchsorted(many, few, side="left").sum()
    return int(left) + int(np.searchsorted(many, few, side="right").sum())


def sorted_classes(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Checks the arguments; returns the scores of positives and of negatives, each ascending."""
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
    """Scores and which of them are positive, of one shape (ValueError otherwise); NaN may be."""
    values = as_scores(scores)
    marks = np.asarray(labels)
    # [N, H, W] against [N, W, H] has the same size and would give a plausible wrong number.
    if values.shape != marks.shape:
        raise ValueError(f"scores {values.shape} and labels {marks.shape} differ in shape")
    return values, as_binary(marks, "labels")


def first_of_each(values: NDArray[Any]) -> NDArray[np.int64]:
    """Indices at which a new value begins in a sorted, non-empty [N]."""
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))


def from_infinity(thresholds: NDArray[Any]) -> NDArray[Any]:
    """Descending thresholds of a curve [K] → [K + 1] floating, +inf (no prediction) first."""
    if thresholds.dtype.kind != "f":
        thresholds = thresholds.astype(np.float64)
    return np.concatenate([np.asarray([np.inf], thresholds.dtype), thresholds])


def as_scores(scores: ArrayLike) -> NDArray[Any]:
    """The scores as an array whose dtype numpy can sort, without rounding any of them.

    Raises ValueError for what is not real numbers.
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
    """`marks == 1`, after checking that everything else is 0 (ValueError otherwise)."""
    if marks.dtype == np.bool_:
        return marks
    positive = marks == 1
    if np.count_nonzero(positive) != np.count_nonzero(marks):
        wrong = marks[(marks != 0) & ~positive]
        raise ValueError(f"{name} must be 0 or 1: {wrong.size} are not, the first is {wrong[0]}")
    return positive


def count_nan(values: NDArray[Any]) -> int:
    """Number of NaN in an array of any real dtype."""
    return int(np.count_nonzero(np.isnan(values))) if values.dtype.kind == "f" else 0
