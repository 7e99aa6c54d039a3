"""Metrics per defect type, per region and at a threshold: the parts of an average.

All results are plain Python values for JSON, None for an undefined number. A defect type is
compared with ALL normal images, or all normal pixels, so that all types share one false-positive
rate and the metric of the whole set is their mean, weighted by images, pixels or regions.

Not here: choosing thresholds, files, tables.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtadl_jax.metrics.ranking import auroc, checked, count_nan
from vtadl_jax.metrics.regions import (
    Images,
    checked_limits,
    checked_pairs,
    credit,
    inverse_area,
    label_one,
    split,
)


class Region(NamedTuple):
    """One 8-connected region of a mask.

    image: its index; region: its index within the image; area: in pixels; max_score: largest score
    in it; overlap: fraction of its pixels >= the threshold.
    """

    image: int
    region: int
    area: int
    max_score: float
    overlap: float


def decisions(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, Any]:
    """Returns the confusion matrix of `score >= threshold` and its rates.

    The comparison is exact: the threshold is not rounded to the dtype of the scores.

    Args:
      scores: any shape, real numbers, images or pixels; may be empty or of one class only.
      labels: same shape, bool or 0/1; 1 is anomalous.

    Returns:
      threshold; tp, fp, fn, tn: counts; tpr (recall), fpr (false-alarm rate), precision, f1: None
      if the denominator is 0.

    Raises:
      ValueError: NaN scores or threshold, shapes that differ, labels not 0/1.
    """
    values, positive = _defined(scores, labels)
    predicted = _reached(values, threshold)
    tp = int(np.count_nonzero(predicted & positive))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(positive)) - tp
    tn = values.size - tp - fp - fn
    return {
        "threshold": float(threshold),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "tpr": _ratio(tp, tp + fn),
        "fpr": _ratio(fp, fp + tn),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def by_defect(
    scores: ArrayLike,
    labels: ArrayLike,
    defects: Sequence[str],
    threshold: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns image metrics of each defect type against all normal images, sorted by name.

    Args:
      scores: real numbers [N]; labels: [N], bool or 0/1.
      defects: N names; those of normal images are ignored.
      threshold: of image scores, for "detected".

    Returns:
      For each defect type of the anomalous images: num_images; image_auroc, None without normal
      images; detected: number of images that reach the threshold, None without a threshold.

    Raises:
      ValueError: NaN scores or threshold, numbers of images that differ, labels not 0/1.
    """
    values, positive = _defined(scores, labels)
    kinds = _names(defects, values.shape)
    normal = values[~positive]
    found = {}
    for kind in sorted(set(kinds[positive].tolist())):
        ours = values[positive & (kinds == kind)]
        marks = np.repeat([True, False], [ours.size, normal.size])
        reached = None if threshold is None else int(_reached(ours, threshold).sum())
        found[kind] = {
            "num_images": ours.size,
            "image_auroc": auroc(np.append(ours, normal), marks) if normal.size else None,
            "detected": reached,
        }
    return found


def by_defect_pixels(
    maps: Images, masks: Images, defects: Sequence[str], fpr_limit: float = 0.3
) -> dict[str, dict[str, Any]]:
    """Returns pixel metrics of each defect type against the background of ALL images.

    The mean of the types' pixel_auroc weighted by num_pixels is the pixel AUROC of the whole set;
    the mean of their aupro weighted by num_regions is its AU-PRO.

    Args:
      maps, masks, fpr_limit: as in `aupro`, one limit.
      defects: one name per image; ignored for images without an anomalous pixel, whether normal or
        of a defect without ground truth.

    Returns:
      For each defect type with an anomalous pixel, sorted by name: num_images (with such a pixel),
      num_pixels and num_regions (anomalous), pixel_auroc, aupro.

    Raises:
      ValueError: as `aupro`, and if the number of names differs from the number of images.
    """
    limit = float(checked_limits([fpr_limit])[0])
    images = checked_pairs(maps, masks)
    names = _names(defects, (len(images),))
    background, found = split(maps, masks)
    background.sort()
    size = background.size
    # `split` returns only the images with a defect, in order.
    kinds = names[[bool(mask.any()) for _, mask in images]]
    result = {}
    for kind in sorted(set(kinds.tolist())):
        ours = [part for part, name in zip(found, kinds, strict=True) if name == kind]
        regions = sum(int(ids.max()) for _, ids in ours)
        pixels = sum(ids.size for _, ids in ours)
        wins = overlap = 0.0
        for scores, ids in ours:
            order = np.argsort(scores)  # sorted queries keep searchsorted in cache
            before = size - np.searchsorted(background, scores[order], side="right")
            after = size - np.searchsorted(background, scores[order], side="left")
            wins += float((size - (before + after) / 2).sum())
            overlap += float(inverse_area(ids)[order] @ credit(before, after, limit * size))
        result[kind] = {
            "num_images": len(ours),
            "num_pixels": pixels,
            "num_regions": regions,
            "pixel_auroc": wins / (pixels * size),
            "aupro": overlap / (regions * limit * size),
        }
    return result


def region_table(maps: Images, masks: Images, threshold: float) -> list[Region]:
    """Returns one row per region of every mask, ordered by image and then by first pixel.

    Arguments as in `aupro`, but there may be no region; the threshold is one of map values.

    Raises:
      ValueError: NaN in the maps or as threshold, shapes that differ, masks not 0/1.
    """
    _reached(np.zeros(0), threshold)
    table = []
    for i, (scores, mask) in enumerate(checked_pairs(maps, masks)):
        if not mask.any():
            continue
        regions, count = label_one(mask)
        ids, values = regions[mask] - 1, scores[mask]
        areas = np.bincount(ids, minlength=count)
        reached = np.bincount(ids[_reached(values, threshold)], minlength=count)
        order = np.argsort(ids, kind="stable")
        largest = np.maximum.reduceat(values[order], np.cumsum(areas) - areas)
        for k in range(count):
            overlap = int(reached[k]) / int(areas[k])
            table.append(Region(i, k, int(areas[k]), float(largest[k]), overlap))
    return table


def detected_regions(
    maps: Images, masks: Images, threshold: float, min_overlap: float = 0.0
) -> dict[str, Any]:
    """Counts detected regions: at least one pixel and `min_overlap` of the area are predicted.

    Arguments and errors as in `region_table`; min_overlap is in [0, 1] (else ValueError).

    Returns:
      threshold, min_overlap, num_regions, detected, and share (None without regions).
    """
    if not 0 <= min_overlap <= 1:
        raise ValueError(f"min_overlap must be in [0, 1], got {min_overlap}")
    overlaps = [row.overlap for row in region_table(maps, masks, threshold)]
    detected = sum(overlap > 0 and overlap >= min_overlap for overlap in overlaps)
    return {
        "threshold": float(threshold),
        "min_overlap": float(min_overlap),
        "num_regions": len(overlaps),
        "detected": detected,
        "share": _ratio(detected, len(overlaps)),
    }


def _defined(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    values, positive = checked(scores, labels)
    num_nan = count_nan(values)
    if num_nan:
        raise ValueError(f"{num_nan} of {values.size} scores are NaN")
    return values, positive


def _names(defects: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.object_]:
    names = np.empty(len(defects), object)
    names[:] = list(defects)
    if names.shape != shape:
        raise ValueError(f"{len(names)} names of defects for images of shape {shape}")
    return names


def _reached(scores: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Returns `scores >= threshold` in float64: numpy would round a Python float to float32."""
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN")
    return scores >= np.float64(threshold)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
