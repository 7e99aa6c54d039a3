"""Confidence intervals of metrics: their variation over test images of the same distribution.

Images are resampled with replacement, never pixels: the pixels of one image are correlated, and an
interval from pixels would be far too narrow. Each class keeps its number of images, so that every
resample has both. Intervals are percentile intervals (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). Limits: with few anomalous images they are somewhat too narrow, and
they do not include the variation over training sets.

`bootstrap` accepts any metric and calls it once per resample; the metrics of images and of pixels
have implementations that sort the scores only once. All draw the same images for one seed.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtadl_jax.metrics import binned
from vtadl_jax.metrics.ranking import as_binary, checked, first_of_each, sorted_classes
from vtadl_jax.metrics.regions import (
    Images,
    checked_limits,
    checked_pairs,
    inverse_area,
    label_one,
    split,
)

Array = NDArray[Any]
_AT_ONCE = 32  # resamples in memory together


class Interval(NamedTuple):
    """An interval of a metric. num_undefined: resamples without a defined metric, left out."""

    low: float
    high: float
    num_undefined: int


def bootstrap(
    metric: Callable[[NDArray[np.int64]], float],
    num_images: int,
    *,
    labels: ArrayLike | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns the percentile interval of `metric(indices)`, indices int64 [num_images].

    Args:
      metric: may return NaN or raise ValueError if it is undefined on a resample, which is then
        left out.
      labels: [num_images], bool or 0/1; resampling is stratified by label. Without labels a
        resample may lack a class.
      level: confidence level, in (0, 1).

    Raises:
      ValueError: a number of images or resamples below 1, a level outside (0, 1), labels of
        another shape, a metric undefined on the original images or on every resample.
    """
    draws = resamples(num_images, labels, num_resamples, seed)
    _check_level(level)
    if np.isnan(metric(np.arange(num_images))):
        raise ValueError(f"the metric of all {num_images} images is NaN: no interval around it")
    values = np.full(num_resamples, np.nan)
    for i, indices in enumerate(draws):
        try:
            values[i] = metric(indices)
        except ValueError:
            continue  # stays NaN and counts as undefined below
    return _interval(values, values, level)


def image_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Returns exact intervals of "image_auroc" and "image_average_precision", by stratification.

    Equal to `bootstrap` with the same seed, from one sort: about N num_resamples steps.

    Args:
      scores: real numbers [N], one per image; labels: [N], bool or 0/1.

    Raises:
      ValueError: as `auroc` and `bootstrap`, and for scores that are not [N].
    """
    _check_level(level)
    found = image_values(scores, labels, num_resamples=num_resamples, seed=seed)
    return {name: _interval(values, values, level) for name, values in found.items()}


def image_values(
    scores: ArrayLike, labels: ArrayLike, *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Array]:
    """Returns "image_auroc" and "image_average_precision" of each resample, [num_resamples].

    Arguments and errors as in `image_intervals`. Equal seeds and labels give the same images, so
    that methods can be compared resample by resample.
    """
    sorted_classes(scores, labels)  # raises for NaN and for a single class
    values, positive = checked(scores, labels)
    if values.ndim != 1:
        raise ValueError(f"scores {values.shape} must be [N], one an image")
    order = np.argsort(values)[::-1]
    first = first_of_each(values[order])
    single = np.ones(first.size, bool)
    areas, precisions = [], []
    for drawn in _weights(values.size, positive, num_resamples, seed):
        drawn = drawn[:, order]
        found, background = (
            np.add.reduceat(drawn * which, first, axis=1)
            for which in (positive[order], ~positive[order])
        )
        areas.append(binned.area(background, found, single).value)
        precisions.append(binned.average_precision(background, found, single).value)
    return {
        "image_auroc": np.concatenate(areas),
        "image_average_precision": np.concatenate(precisions),
    }


def pixel_intervals(
    maps: Images,
    masks: Images,
    fpr_limit: float = 0.3,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    num_cuts: int = 4096,
) -> dict[str, Interval]:
    """Returns intervals of "pixel_auroc" and "aupro", stratified by whether an image has a defect.

    The pixels of each image are counted once, in bins between `num_cuts` of the background's own
    scores; a resample adds up counts. An interval contains the exact one that `bootstrap` gives
    with the same seed: its ends are quantiles of the smallest and largest values that the counts
    allow. It is wider by about 1 / num_cuts at each end for both metrics, and exact if the
    background has no more than num_cuts distinct scores. Costs a sort of all pixels and
    N num_cuts num_resamples multiplications; memory is a copy of the maps, 16 num_cuts bytes per
    image and 32 num_cuts more for an image with a defect.

    Args:
      maps, masks: as in `aupro`; fpr_limit: one, in (0, 1].

    Raises:
      ValueError: as `aupro` and `bootstrap`, and for num_cuts below 2.
    """
    _check_level(level)
    found = pixel_values(
        maps, masks, fpr_limit, num_resamples=num_resamples, seed=seed, num_cuts=num_cuts
    )
    return {name: _interval(low, high, level) for name, (low, high) in found.items()}


def pixel_values(
    maps: Images,
    masks: Images,
    fpr_limit: float = 0.3,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    num_cuts: int = 4096,
) -> dict[str, tuple[Array, Array]]:
    """Returns bounds (low, high) of "pixel_auroc" and "aupro" of each resample, [num_resamples].

    Arguments and errors as in `pixel_intervals`; NaN for undefined resamples, which come last.
    """
    limit = float(checked_limits([fpr_limit])[0])
    if num_cuts < 2:
        raise ValueError(f"num_cuts must be at least 2, got {num_cuts}")
    pixels, _ = split(maps, masks)  # raises if there is no region or no background
    pixels.sort()
    cuts = _cuts(pixels, limit, num_cuts)
    del pixels
    background, anomalous, overlap, defective = _count_images(maps, masks, cuts)
    single = np.arange(2 * cuts.size + 1) % 2 == 1
    lows: dict[str, list[Array]] = {"pixel_auroc": [], "aupro": []}
    highs: dict[str, list[Array]] = {"pixel_auroc": [], "aupro": []}
    for drawn in _weights(defective.size, defective, num_resamples, seed):
        normal = drawn @ background
        normal = normal[normal.any(axis=1)]  # an image without background has no rate
        drawn = drawn[(drawn @ background.sum(1)) > 0][:, defective]
        for name, found, end in (("pixel_auroc", anomalous, 1.0), ("aupro", overlap, limit)):
            _, low, high = binned.area(normal, drawn @ found, single, end)
            lows[name].append(low)
            highs[name].append(high)
    return {
        name: (_filled(lows[name], num_resamples), _filled(highs[name], num_resamples))
        for name in lows
    }


def resamples(
    num_images: int, labels: ArrayLike | None, num_resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Yields `num_resamples` index arrays [num_images], stratified by label.

    Raises:
      ValueError: numbers below 1, labels that are not [num_images] of 0/1.
    """
    if num_images < 1 or num_resamples < 1:
        raise ValueError(
            f"num_images {num_images} and num_resamples {num_resamples} must be at least 1"
        )
    marks = np.zeros(num_images, bool) if labels is None else np.asarray(labels)
    if marks.shape != (num_images,):
        raise ValueError(f"labels {marks.shape} must be one for each of {num_images} images")
    positive = as_binary(marks, "labels")
    classes = [c for c in (np.flatnonzero(~positive), np.flatnonzero(positive)) if c.size]
    rng = np.random.default_rng(seed)
    return (
        np.concatenate([c[rng.integers(0, c.size, c.size)] for c in classes])
        for _ in range(num_resamples)
    )


def _weights(num_images: int, positive: Array, num_resamples: int, seed: int) -> Iterator[Array]:
    """Yields how often each image was drawn, float64 [up to _AT_ONCE, num_images] at a time."""
    rows: list[Array] = []
    for indices in resamples(num_images, positive, num_resamples, seed):
        rows.append(np.bincount(indices, minlength=num_images))
        if len(rows) == _AT_ONCE:
            yield np.array(rows, np.float64)
            rows = []
    if rows:
        yield np.array(rows, np.float64)


def _cuts(background: Array, limit: float, num_cuts: int) -> Array:
    """Returns at most `num_cuts` cuts, ascending, from the sorted background.

    They are all distinct scores, or if there are too many: half of the cuts evenly over all ranks,
    half over the highest ranks up to twice the limit, where AU-PRO needs them.
    """
    distinct = background[first_of_each(background)]
    if distinct.size <= num_cuts:
        return distinct
    last = background.size - 1
    everywhere = np.linspace(0, last, num_cuts - num_cuts // 2)
    highest = np.linspace(last - min(1.0, 2 * limit) * last, last, num_cuts // 2)
    return np.unique(background[np.concatenate([everywhere, highest]).round().astype(np.int64)])


def _count_images(maps: Images, masks: Images, cuts: Array) -> tuple[Array, Array, Array, Array]:
    """Counts the pixels of each image in 2 C + 1 bins: one per cut, and those between C cuts.

    Returns:
      background: float64 [N, 2 C + 1], highest scores first; anomalous and overlap (Σ 1 / area of
      the region): [M, 2 C + 1] of the images with a defect; defective: bool [N], their mask.
    """
    background, anomalous, overlap, defective = [], [], [], []
    for scores, mask in checked_pairs(maps, masks):
        normal = np.sort(scores[~mask])
        background.append(_between(normal, cuts, np.arange(normal.size + 1.0)))
        defective.append(bool(mask.any()))
        if defective[-1]:
            regions, _ = label_one(mask)
            pixels = scores[mask]
            order = np.argsort(pixels)
            area = np.cumsum(inverse_area(regions[mask])[order])
            anomalous.append(_between(pixels[order], cuts, np.arange(pixels.size + 1.0)))
            overlap.append(_between(pixels[order], cuts, np.append(0.0, area)))
    return np.array(background), np.array(anomalous), np.array(overlap), np.array(defective)


def _between(values: Array, cuts: Array, total: Array) -> Array:
    """Returns the increase of `total` [len(values) + 1] in each bin of the sorted values, highest
    bin first."""
    ends = np.stack([np.searchsorted(values, cuts, side=side) for side in ("left", "right")], 1)
    return np.diff(total[np.concatenate([[0], ends.ravel(), [values.size]])])[::-1]


def _filled(parts: list[Array], size: int) -> Array:
    """Concatenates all parts to [size], padded by NaN for resamples that were left out."""
    values = np.concatenate(parts)
    return np.append(values, np.full(size - values.size, np.nan))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")


def _interval(lows: Array, highs: Array, level: float) -> Interval:
    """Returns quantiles of the values that are not NaN; both arrays are [num_resamples]."""
    undefined = np.isnan(lows)
    if undefined.all():
        raise ValueError(f"the metric is undefined on all {lows.size} resamples")
    tail = (1 - level) / 2
    return Interval(
        low=float(np.quantile(lows[~undefined], tail)),
        high=float(np.quantile(highs[~undefined], 1 - tail)),
        num_undefined=int(undefined.sum()),
    )
