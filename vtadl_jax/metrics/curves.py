"""Whole ROC and precision-recall curves, and a thinning that preserves their plot.

Conventions: predicted positive is `score >= threshold`; one point per distinct score, preceded by
"no prediction" (threshold +inf). The per-region curve is `regions.pro_curve`.

Not here: drawing; areas (`ranking.py`, `regions.py` compute them without building a curve).
"""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtadl_jax.metrics.ranking import first_of_each, from_infinity, sorted_classes
from vtadl_jax.metrics.regions import label_regions

Array = NDArray[np.float64]
BACKGROUND_SAMPLE = 1_000_000  # pixels; the thresholds of `pro_points` are their quantiles


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, NDArray[Any]]:
    """Returns the whole ROC curve. Arguments and errors as in `auroc`.

    Returns:
      fpr, tpr: float64 [K + 1], ascending from (0, 0) to (1, 1).
      thresholds: [K + 1] descending in the scores' floating dtype, from +inf.
    """
    tp, fp, thresholds = _counts(scores, labels)
    return fp / fp[-1], tp / tp[-1], thresholds


def pr_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, NDArray[Any]]:
    """Returns the whole precision-recall curve. Arguments and errors as in `auroc`.

    Its trapezoids add up to `pr_auc`, its steps (precision at the right end) to
    `average_precision`.

    Returns:
      recall: float64 [K + 1], ascending from 0 to 1.
      precision: float64 [K + 1]; 1 by convention without predictions.
      thresholds: [K + 1] descending in the scores' floating dtype, from +inf.
    """
    tp, fp, thresholds = _counts(scores, labels)
    precision = np.ones(tp.size)
    np.divide(tp, tp + fp, out=precision, where=tp + fp > 0)
    return tp / tp[-1], precision, thresholds


def _counts(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], ...]:
    """Returns true and false positives, int64 [K + 1], and thresholds [K + 1] from +inf on."""
    pos, neg = sorted_classes(scores, labels)
    everything = np.concatenate([pos, neg])
    everything.sort()
    thresholds = everything[first_of_each(everything)][::-1]
    tp, fp = (part.size - np.searchsorted(part, thresholds, side="left") for part in (pos, neg))
    return np.append(0, tp), np.append(0, fp), from_infinity(thresholds)


def pro_points(
    maps: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[Any]],
    fpr_limit: float = 0.3,
    max_points: int = 200,
) -> tuple[Array, Array]:
    """Returns points (fpr, pro) of the exact PRO curve, denser towards 0, up to about `fpr_limit`.

    The whole curve (`regions.pro_curve`) has one point per pixel value: too many to draw. Arguments
    and errors as in `regions.aupro`.
    """
    pixels = sum(mask.size for mask in masks)
    every = max(1, pixels // BACKGROUND_SAMPLE)
    sample = np.concatenate([m[t == 0][::every] for m, t in zip(maps, masks, strict=True)])
    rates = fpr_limit * np.linspace(0, 1, max_points) ** 2
    thresholds = np.unique(np.quantile(sample, 1 - rates).astype(np.float32))  # ascending
    background = np.zeros(thresholds.size)
    overlaps = []
    for anomaly_map, regions in zip(maps, label_regions(masks)[0], strict=True):
        # The number of thresholds that each pixel reaches.
        reached = np.searchsorted(thresholds, anomaly_map, side="right")
        for region in np.unique(regions):
            inside = reached[regions == region]
            hits = np.bincount(inside, minlength=thresholds.size + 1)
            above = hits[::-1].cumsum()[::-1][1:]
            if region == 0:
                background += above
            else:
                overlaps.append(above / inside.size)
    fpr = background / sum(int((mask == 0).sum()) for mask in masks)
    x, y = fpr[::-1], np.mean(overlaps, axis=0)[::-1]
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], y])


class Thinned(NamedTuple):
    """A thinned polyline and its largest deviation from the original.

    x, y: float64 [P]; kept: int64 [P], their indices in the original, ascending from the first to
    the last. tolerance: largest distance of a point of either line from the other line, in the
    common unit of x and y.
    """

    x: Array
    y: Array
    kept: NDArray[np.int64]
    tolerance: float


def thin(x: ArrayLike, y: ArrayLike, max_points: int = 500, tolerance: float = 0.0) -> Thinned:
    """Returns at most `max_points` points of the polyline (x, y), fewer if `tolerance` allows.

    Repeatedly adds the point farthest from the line through those kept (Douglas & Peucker 1973,
    best first) until none is farther than `tolerance`: a straight run costs two points at any
    tolerance. About K log(max_points) steps on curves, K max_points at worst.

    Args:
      x, y: real and finite, [K], K >= 1.
      max_points: at least 2.
      tolerance: in the common unit of x and y, at least 0.

    Raises:
      ValueError: arrays that are not [K] each or not finite, max_points or tolerance too small.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape or not xs.size:
        raise ValueError(f"x {xs.shape} and y {ys.shape} must be [K] both, K at least 1")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError("x and y must be finite: thin the rates, not the thresholds")
    if max_points < 2 or not tolerance >= 0:
        raise ValueError(
            f"max_points {max_points} must be at least 2 and tolerance {tolerance} at least 0"
        )
    corners = _corners(xs, ys)
    xc, yc = xs[corners], ys[corners]
    last = corners.size - 1
    kept = sorted({0, last})
    heap = [_farthest(xc, yc, 0, last)]
    while -heap[0][0] > tolerance and len(kept) < max_points:
        _, start, middle, end = heapq.heappop(heap)
        kept.append(middle)
        heapq.heappush(heap, _farthest(xc, yc, start, middle))
        heapq.heappush(heap, _farthest(xc, yc, middle, end))
    index = corners[np.sort(kept)]
    return Thinned(xs[index], ys[index], index, max(-heap[0][0], 0.0))


def _corners(x: Array, y: Array) -> NDArray[np.int64]:
    """Returns all points except those inside horizontal or vertical runs, which are redundant."""
    dx, dy = np.sign(np.diff(x)), np.sign(np.diff(y))
    along_x = (dx[1:] * dx[:-1] > 0) & (dy[1:] == 0) & (dy[:-1] == 0)
    along_y = (dy[1:] * dy[:-1] > 0) & (dx[1:] == 0) & (dx[:-1] == 0)
    keep = np.ones(x.size, bool)
    keep[1:-1] = ~(along_x | along_y)
    return np.flatnonzero(keep)


def _farthest(x: Array, y: Array, start: int, end: int) -> tuple[float, int, int, int]:
    """Returns (-distance, start, i, end): i is the point between both farthest from their line."""
    if end - start < 2:
        return 0.0, start, start, end
    px, py = x[start + 1 : end] - x[start], y[start + 1 : end] - y[start]
    ex, ey = x[end] - x[start], y[end] - y[start]
    # Distance from the segment, not the infinite line: a precision-recall curve may turn back.
    along = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, np.finfo(float).tiny), 0.0, 1.0)
    squared = (px - along * ex) ** 2 + (py - along * ey) ** 2
    i = int(np.argmax(squared))
    return -float(np.sqrt(squared[i])), start, start + 1 + i, end
