"""Regions of a mask and the per-region overlap (PRO) curve.

Conventions: predicted positive is `score >= threshold`; a region is an 8-connected component of
one mask; regions of all images are pooled, each of weight 1 whatever its area; the false-positive
rate counts the background of ALL images, those without a defect included; the curve has one point
per distinct score, from (0, 0). Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021),
section 5.2.

Not here: metrics without regions (see `ranking.py`), resizing, plots. Pass the detector's maps
unchanged: a clamp or a min-max before this changes the result.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtadl_jax.metrics.ranking import (
    as_binary,
    as_scores,
    count_nan,
    first_of_each,
    from_infinity,
)

Images: TypeAlias = ArrayLike | Sequence[ArrayLike]
Array: TypeAlias = NDArray[Any]

_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@overload
def aupro(maps: Images, masks: Images, fpr_limit: float = 0.3) -> float: ...
@overload
def aupro(maps: Images, masks: Images, fpr_limit: Sequence[float]) -> list[float]: ...
def aupro(
    maps: Images, masks: Images, fpr_limit: float | Sequence[float] = 0.3
) -> float | list[float]:
    """Returns the area under the PRO curve up to a false-positive rate, divided by that rate.

    In [0, 1]. Trapezoid between the points of the curve, linear interpolation at the limit. The
    curve itself is never built: its area is the sum over anomalous pixels of weight x (limit - FPR
    at which the pixel is found), so only the highest `fpr_limit` of the background is sorted.

    Args:
      maps: float [N, H, W], or a list of [H_i, W_i]; higher is more anomalous.
      masks: the same shapes, bool or 0/1; 1 is anomalous.
      fpr_limit: in (0, 1]. Several limits share one pass and give a list of values.

    Raises:
      ValueError: NaN in the maps, shapes that differ, masks not 0/1, no region, no background,
        a limit outside (0, 1].
    """
    limits = checked_limits(fpr_limit)
    background, found = split(maps, masks)
    num_regions = sum(int(ids.max()) for _, ids in found)
    weighted = ((scores, inverse_area(ids)) for scores, ids in found)
    values = area_of(background, weighted, num_regions, limits)
    return values[0] if np.ndim(fpr_limit) == 0 else values


def area_of(
    background: Array,
    found: Iterable[tuple[Array, Array]],
    num_regions: int,
    limits: NDArray[np.float64],
) -> list[float]:
    """Returns the normalized area under the curve of mean overlap, for each limit.

    background: scores of normal pixels, [B], reordered in place. found: scores and weights of
    anomalous pixels, [A] each; the weights of a region add up to its overlap. limits: [L].
    """
    allowed = limits * background.size  # false positives at the limit, fractional
    top, ties_below = _highest(background, min(int(np.ceil(allowed.max())), background.size))
    totals = np.zeros(limits.size)
    for scores, every in found:
        # Per image: the temporaries stay small, and sorted queries keep searchsorted in cache.
        order = np.argsort(scores)
        reached = order[np.searchsorted(scores, top[0], side="left", sorter=order) :]
        queries, weights = scores[reached], every[reached]
        before = top.size - np.searchsorted(top, queries, side="right")
        after = top.size - np.searchsorted(top, queries, side="left")
        after += np.where(queries == top[0], ties_below, 0)
        for i, limit in enumerate(allowed):
            totals[i] += weights @ credit(before, after, limit)
    return (totals / (num_regions * allowed)).tolist()


def pro_curve(maps: Images, masks: Images) -> tuple[Array, Array, Array]:
    """Returns the whole PRO curve, one point per distinct score.

    Arguments and errors as in `aupro`.

    Returns:
      fpr, pro: float64 [K + 1], ascending from (0, 0) to (1, 1).
      thresholds: [K + 1] descending in the maps' floating dtype. Point k predicts
        `score >= thresholds[k]`; the first is +inf, no prediction.
    """
    background, found = split(maps, masks)
    background.sort()
    scores = np.concatenate([pixels for pixels, _ in found])
    weights = np.concatenate([inverse_area(ids) for _, ids in found])
    order = np.argsort(scores)
    scores = scores[order]
    num_regions = sum(int(ids.max()) for _, ids in found)
    # overlap[i]: the summed weight of scores[i:]; the clip removes the last rounding error.
    overlap = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0) / num_regions
    everything = np.sort(np.concatenate([background, scores]))
    thresholds = everything[first_of_each(everything)][::-1]
    detected = background.size - np.searchsorted(background, thresholds, side="left")
    fpr = detected / background.size
    pro = np.minimum(overlap[np.searchsorted(scores, thresholds, side="left")], 1.0)
    pro[-1] = 1.0
    zero = np.zeros(1)
    return np.concatenate([zero, fpr]), np.concatenate([zero, pro]), from_infinity(thresholds)


def checked_limits(fpr_limit: float | Sequence[float]) -> NDArray[np.float64]:
    """Returns the limits as [L], each in (0, 1] (else ValueError)."""
    limits = np.atleast_1d(np.asarray(fpr_limit, dtype=np.float64))
    if limits.ndim != 1 or not limits.size or not np.all((limits > 0) & (limits <= 1)):
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
    return limits


def label_regions(masks: Images) -> tuple[list[NDArray[np.int32]], int]:
    """Labels the 8-connected regions of every mask, numbered from 1 across all images.

    Args:
      masks: [N, H, W], or a list of [H_i, W_i]; bool or 0/1.

    Returns:
      One int32 [H_i, W_i] per image (0 is background), and the number of regions.

    Raises:
      ValueError: masks not 0/1 or not of two dimensions each.
    """
    labels = []
    total = 0
    for i, mask in enumerate(_each(masks, "masks")):
        if mask.ndim != 2:
            raise ValueError(f"mask {i} has shape {mask.shape}, expected [H, W]")
        regions, count = label_one(as_binary(mask, f"mask {i}"))
        regions[regions > 0] += total
        labels.append(regions)
        total += count
    return labels, total


def label_one(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Returns the components of one mask (int32, 1..count) and their number."""
    from scipy import ndimage  # local: a slow import that most processes do not need

    regions, count = ndimage.label(mask, structure=_EIGHT_CONNECTED, output=np.int32)
    return regions, int(count)


def inverse_area(ids: Array) -> NDArray[np.float64]:
    """Returns 1 / area of the region of each anomalous pixel."""
    return (1.0 / np.maximum(np.bincount(ids), 1))[ids]


def credit(before: Array, after: Array, limit: float | Array) -> NDArray[np.float64]:
    """Returns the area (in false positives) that each anomalous pixel adds to the left of `limit`.

    The pixel's overlap rises linearly from `before` to `after` false positives, the background tied
    with it, and is constant after that. A limit inside the ties cuts off a triangle.
    """
    full = limit - (before + after) / 2
    part = np.maximum(limit - before, 0.0) ** 2 / (2 * np.maximum(after - before, 1))
    return np.where(after <= limit, full, part)


def _highest(background: Array, count: int) -> tuple[Array, int]:
    """Returns the `count` highest, ascending, and how many of the rest equal the lowest of them.

    Reorders `background` in place: a copy would be as large as the maps.
    """
    cut = background.size - count
    background.partition(cut)
    top = background[cut:]
    top.sort()
    return top, int(np.count_nonzero(background[:cut] == top[0]))


def split(maps: Images, masks: Images) -> tuple[Array, list[tuple[Array, Array]]]:
    """Separates background from regions, after checks.

    Returns:
      The background scores of all images, [B]; and for each image with a defect the scores of its
      anomalous pixels, [A], and the numbers of their regions, int32 [A] from 1.

    Raises:
      ValueError: as `aupro`.
    """
    images = checked_pairs(maps, masks)
    num_pixels = sum(scores.size for scores, _ in images)
    num_anomalous = sum(int(np.count_nonzero(mask)) for _, mask in images)
    if not num_anomalous:
        raise ValueError(f"no region: none of {len(images)} masks holds an anomalous pixel")
    if num_anomalous == num_pixels:
        raise ValueError(f"no background: all {num_pixels} pixels are anomalous")
    dtype = np.result_type(*{scores.dtype for scores, _ in images})
    background = np.empty(num_pixels - num_anomalous, dtype)
    found = []
    end = 0
    for scores, mask in images:
        start, end = end, end + mask.size - int(np.count_nonzero(mask))
        background[start:end] = scores[~mask]
        if end - start < mask.size:
            regions, _ = label_one(mask)
            found.append((scores[mask].astype(dtype, copy=False), regions[mask]))
    return background, found


def checked_pairs(maps: Images, masks: Images) -> list[tuple[Array, NDArray[np.bool_]]]:
    """Returns each map [H, W] with its mask as bool, after checks (else ValueError)."""
    all_maps, all_masks = _each(maps, "maps"), _each(masks, "masks")
    if len(all_maps) != len(all_masks):
        raise ValueError(f"{len(all_maps)} maps but {len(all_masks)} masks")
    images = []
    for i, (scores, mask) in enumerate(zip(all_maps, all_masks, strict=True)):
        if scores.ndim != 2 or scores.shape != mask.shape:
            raise ValueError(
                f"map {i} has shape {scores.shape} and its mask {mask.shape}, expected both [H, W]"
            )
        images.append((as_scores(scores), as_binary(mask, f"mask {i}")))
    num_nan = sum(count_nan(scores) for scores, _ in images)
    if num_nan:
        num_pixels = sum(scores.size for scores, _ in images)
        raise ValueError(f"{num_nan} of {num_pixels} scores are NaN")
    return images


def _each(images: Images, name: str) -> list[Array]:
    """Returns the images as a list, as views where possible."""
    if not isinstance(images, list | tuple):
        stack = np.asarray(images)
        if stack.ndim != 3:
            raise ValueError(f"{name} must be [N, H, W] or a list of [H, W], got {stack.shape}")
        return list(stack)
    return [np.asarray(image) for image in images]
