"""Areas from counts in bins of scores, with bounds of the exact area.

Within a bin the order of the scores is unknown. The value counts them as tied, which is the exact
metric of scores rounded to their bin; the bounds are those of the best and the worst order. A bin
that holds a single distinct score is exact. Shared by `streaming.py` and `bootstrap.py`; all arrays
run from the highest to the lowest scores along their last axis.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtadl_jax.metrics.regions import credit

Array = NDArray[Any]


class Estimate(NamedTuple):
    """An area. value: scores of a bin tied; low, high: bounds over all orders in bins; [...]."""

    value: Array
    low: Array
    high: Array


def area(background: Array, found: Array, single: Array, limit: float = 1.0) -> Estimate:
    """Returns the normalized area under `found` against the false-positive rate up to `limit`.

    With counts of anomalous pixels as `found` and limit 1 it is the AUROC, with their weights 1 /
    area of the region it is AU-PRO.

    Args:
      background: counts [..., K], the sum over K positive.
      found: counts or weights [..., K], the sum over K positive.
      single: bool [K], the bin holds one distinct score (or broadcastable to [..., K]).
      limit: in (0, 1].
    """
    after = np.cumsum(background, axis=-1, dtype=np.float64)
    before = after - background
    allowed = limit * after[..., -1:]
    tied = credit(before, after, allowed)
    best = np.where(single, tied, np.maximum(allowed - before, 0.0))
    worst = np.where(single, tied, np.maximum(allowed - after, 0.0))
    whole = found.sum(-1) * allowed[..., 0]
    # The quotient of two forms of one sum can round to above 1.
    return Estimate(
        *(np.minimum((found * each).sum(-1) / whole, 1.0) for each in (tied, worst, best))
    )


def average_precision(background: Array, found: Array, single: Array) -> Estimate:
    """Returns the step-wise average precision; arguments as in `area`, both counts.

    In a bin with t positives, TP positives before it and FP negatives up to its end, the worst
    order is all negatives first and no ties: Σ_j (TP + j) / (TP + j + FP), j = 1..t, which is
    t - FP Σ 1 / (TP + FP + j), at least t - FP log(1 + t / (TP + FP)). The best order is all
    positives tied, before the negatives.
    """
    tp = np.cumsum(found, axis=-1, dtype=np.float64)
    fp = np.cumsum(background, axis=-1, dtype=np.float64)
    tied = found * tp / np.maximum(tp + fp, 1)
    best = found * tp / np.maximum(tp + fp - background, 1)
    worst = found - fp * np.log1p(found / np.maximum(tp - found + fp, 1))
    worst = np.where(fp > 0, np.maximum(worst, 0), found)
    bounds = (tied, np.where(single, tied, worst), np.where(single, tied, best))
    return Estimate(*(each.sum(-1) / tp[..., -1] for each in bounds))
