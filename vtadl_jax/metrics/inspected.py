"""Leaves out pixels that are not inspected, for all metrics over maps and masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtadl_jax.metrics.regions import label_one

Array = NDArray[Any]


def packed(scores: Array, mask: Array, inside: Array) -> tuple[Array, Array]:
    """Returns the pixels of a map and its mask that are inspected as images of one row, [1, n].

    All metrics of pixels and of regions are those of the pixels inside: a region of the mask, an
    8-connected component of its inspected pixels, is a run of the row, with one pixel of the
    background after it. Without enough background to lie between them, the last regions are one.

    Args:
      scores: [h, w]; mask: [h, w], bool or 0/1; inside: bool [h, w].

    Raises:
      ValueError: different shapes, or no pixel inside.
    """
    if not scores.shape == mask.shape == inside.shape:
        raise ValueError(f"shapes {scores.shape}, {mask.shape} and {inside.shape} differ")
    if not inside.any():
        raise ValueError("no pixel is inside")
    marked = mask.astype(bool) & inside
    background = np.flatnonzero(inside & ~marked)
    regions, count = label_one(marked)
    places = np.flatnonzero(marked)
    places = places[np.argsort(regions.ravel()[places], kind="stable")]
    if count > 1 and background.size:
        ends = np.cumsum(np.bincount(regions.ravel()[places])[1:])[:-1]
        between = background[: ends.size]
        places = np.insert(places, ends[: between.size], between)
        background = background[between.size :]
    places = np.concatenate([places, background])
    return scores.ravel()[places][None], mask.ravel()[places][None]
