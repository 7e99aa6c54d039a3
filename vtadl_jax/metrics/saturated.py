"""Saturated per-region overlap (sPRO), the localization metric of MVTec LOCO AD.

A region counts as found to min(number of its pixels that are found / its saturation, 1): where one
of two equal parts is missing, either place may be marked, and half of the marked area is enough.
Bergmann et al., "Beyond Dents and Scratches" (IJCV 2022), section 5. With a saturation of the
area of each region it is the overlap of `regions.py`, whose other conventions hold.

Not here: the saturations of a data set, which its reader knows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtadl_jax.metrics.ranking import as_binary, as_scores, count_nan
from vtadl_jax.metrics.regions import area_of, checked_limits


@dataclasses.dataclass(frozen=True, eq=False)
class SaturatedRegion:
    """One annotated anomaly: mask, bool or 0/1 [H, W], in one piece or several; saturation: the
    number of its pixels, above 0, that are enough; a larger one than its area is its area."""

    mask: NDArray[Any]
    saturation: float


def au_spro(
    maps: Sequence[NDArray[Any]],
    regions: Sequence[Sequence[SaturatedRegion]],
    fpr_limit: float = 0.05,
) -> float:
    """Returns the area under the sPRO curve up to a false-positive rate, divided by that rate.

    In [0, 1]; exact, by trapezoids between the points of the curve, one per distinct score. The
    area is a sum over pixels, as in `regions.aupro`: of the pixels of a region, highest first, only
    as many have a weight as its saturation.

    Args:
      maps: float [H_i, W_i] of N images; higher is more anomalous.
      regions: of each image; none for a normal one. They may overlap: a pixel counts in each. The
        background is what no region covers.
      fpr_limit: in (0, 1].

    Raises:
      ValueError: NaN in the maps, shapes that differ, masks not 0/1 or empty, no region, no
        background, a saturation that is not above 0, a limit outside (0, 1].
    """
    limits = checked_limits([fpr_limit])
    if len(maps) != len(regions):
        raise ValueError(f"{len(maps)} maps but regions of {len(regions)} images")
    background: list[NDArray[Any]] = []
    found: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for i, (anomaly_map, here) in enumerate(zip(maps, regions, strict=True)):
        scores = as_scores(np.asarray(anomaly_map))
        if count_nan(scores):
            raise ValueError(f"{count_nan(scores)} of {scores.size} scores of map {i} are NaN")
        normal = np.ones(scores.shape, bool)
        for region in here:
            mask = as_binary(np.asarray(region.mask), f"a mask of image {i}")
            if mask.shape != scores.shape or not mask.any():
                raise ValueError(
                    f"a region of image {i} has {int(mask.sum())} pixels of {mask.shape}, expected "
                    f"1 or more of {scores.shape}"
                )
            normal &= ~mask
            found.append((scores[mask], saturated_weights(scores[mask], region.saturation)))
        background.append(scores[normal])
    if not found:
        raise ValueError(f"no region in {len(maps)} images")
    good = np.concatenate(background)
    if not good.size:
        raise ValueError("no background: all pixels are anomalous")
    return area_of(good, found, len(found), limits)[0]


def saturated_weights(scores: NDArray[Any], saturation: float) -> NDArray[np.float64]:
    """Returns what each pixel of a region adds to its overlap, float64 [A], 1 in all.

    scores: [A]. The k-th highest pixel adds 1 / saturation until that many are found; a fraction of
    a pixel its part. Among equal scores it does not matter which comes first.
    Raises ValueError for a saturation that is not above 0.
    """
    if not saturation > 0:
        raise ValueError(f"saturation {saturation} must be above 0")
    enough = min(float(saturation), float(scores.size))
    rank = np.empty(scores.size)
    rank[np.argsort(scores)[::-1]] = np.arange(scores.size)
    return np.clip(enough - rank, 0, 1) / enough
