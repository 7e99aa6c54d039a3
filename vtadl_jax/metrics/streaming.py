"""Pixel metrics of test sets that do not fit in memory: counts in bins, with error bounds.

The range of scores need not be known: bins are the leading bits of the float32 number, mapped so
that they preserve order. 2^20 bins split every octave into 2048 parts, including negative numbers
and infinities. `ranking.py` and `regions.py` are exact and faster; use them if the maps fit.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtadl_jax.metrics import binned
from vtadl_jax.metrics.ranking import first_of_each
from vtadl_jax.metrics.regions import (
    Images,
    checked_limits,
    checked_pairs,
    inverse_area,
    label_one,
)

Array = NDArray[Any]


class PixelMetrics:
    """Accumulator of maps that gives pixel AUROC, average precision and AU-PRO at any time.

    Each metric is the exact one of scores rounded to their bin. `error_bounds` bounds its distance
    to the exact metric of the scores; the bound is computed from the accumulated counts and holds
    for any data (except rounding errors below 1e-12). It is 0 if no bin has two different scores,
    as for maps of integers below 4096. Memory: 29 bytes per bin.

    Args:
      num_bins: a power of two from 2 to 2^28.

    Raises:
      ValueError: another number of bins.
    """

    def __init__(self, num_bins: int = 2**20):
        if num_bins not in [2**k for k in range(1, 29)]:
            raise ValueError(f"num_bins must be a power of two from 2 to 2^28, got {num_bins}")
        self.num_bins = num_bins
        self.num_images = 0
        self._shift = np.uint32(33 - num_bins.bit_length())
        self._background = np.zeros(num_bins, np.int64)
        self._anomalous = np.zeros(num_bins, np.int64)
        self._overlap = np.zeros(num_bins, np.float64)  # Σ 1 / area of the region, over pixels
        self._key = np.zeros(num_bins, np.uint32)  # one of the scores in each bin
        self._mixed = np.zeros(num_bins, bool)  # whether there are others

    def update(self, maps: Images, masks: Images) -> None:
        """Adds one image, [H, W] each, or several: [N, H, W] or lists of [H_i, W_i].

        Scores of other dtypes are rounded to float32; the bounds include that error. On an error
        nothing is added.

        Raises:
          ValueError: NaN in the maps, shapes that differ, masks not 0/1.
        """
        if not isinstance(maps, list | tuple) and np.asarray(maps).ndim == 2:
            maps, masks = [np.asarray(maps)], [np.asarray(masks)]
        images = checked_pairs(maps, masks)
        for scores, mask in images:
            keys, rounded = order_preserving(scores)
            self._mixed[keys[rounded] >> self._shift] = True
            self._count(keys[~mask], self._background)
            if mask.any():
                self._count(keys[mask], self._anomalous)
                regions, _ = label_one(mask)
                np.add.at(self._overlap, keys[mask] >> self._shift, inverse_area(regions[mask]))
        self.num_images += len(images)

    def merge(self, other: "PixelMetrics") -> None:
        """Adds the counts of another accumulator (ValueError if its number of bins differs)."""
        if other.num_bins != self.num_bins:
            raise ValueError(f"cannot merge {other.num_bins} bins into {self.num_bins}")
        differ = self._seen() & other._seen() & (self._key != other._key)
        self._mixed |= other._mixed | differ
        self._key = np.where(other._seen(), other._key, self._key)
        self._background += other._background
        self._anomalous += other._anomalous
        self._overlap += other._overlap
        self.num_images += other.num_images

    def auroc(self) -> float:
        """Returns the pixel AUROC. Raises ValueError without an anomalous or a normal pixel."""
        return float(self._estimate("auroc").value)

    def average_precision(self) -> float:
        """Returns the step-wise average precision of pixels. Raises as `auroc`."""
        return float(self._estimate("average_precision").value)

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Returns the normalized area under the PRO curve up to `fpr_limit`, as `regions.aupro`.

        Raises as `auroc`, and ValueError for a limit outside (0, 1].
        """
        return float(self._estimate("aupro", fpr_limit).value)

    def error_bounds(self, fpr_limit: float = 0.3) -> dict[str, float]:
        """Returns bounds of |metric - exact|: auroc, average_precision, aupro; raises as they."""
        bounds = {}
        for name in ("auroc", "average_precision", "aupro"):
            value, low, high = self._estimate(name, fpr_limit)
            bounds[name] = max(float(high - value), float(value - low), 0.0)
        return bounds

    def _estimate(self, name: str, fpr_limit: float = 1.0) -> binned.Estimate:
        limit = float(checked_limits([fpr_limit])[0])
        used = np.flatnonzero(self._seen())[::-1]
        background, anomalous = self._background[used], self._anomalous[used]
        if not anomalous.any():
            raise ValueError(f"no region: no anomalous pixel in {self.num_images} images")
        if not background.any():
            raise ValueError(f"no background: all pixels of {self.num_images} images are anomalous")
        single = ~self._mixed[used]
        if name == "average_precision":
            return binned.average_precision(background, anomalous, single)
        if name == "auroc":
            return binned.area(background, anomalous, single)
        return binned.area(background, self._overlap[used], single, limit)

    def _seen(self, bins: Any = slice(None)) -> NDArray[np.bool_]:
        return self._background[bins] + self._anomalous[bins] > 0

    def _count(self, keys: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
        """Adds pixels to one of the two histograms and marks bins that have different scores."""
        if not keys.size:
            return
        keys.sort()
        first = first_of_each(keys >> self._shift)
        bins = keys[first] >> self._shift
        lowest, highest = keys[first], keys[np.append(first[1:], keys.size) - 1]
        known = self._seen(bins) & (self._key[bins] != lowest)
        self._mixed[bins] |= known | (lowest != highest)
        self._key[bins] = lowest
        counts[bins] += np.diff(first, append=keys.size)


def order_preserving(scores: ArrayLike) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Returns uint32 keys that sort as the scores rounded to float32, and which were rounded.

    Both have the scores' shape. The bits of a positive float32 sort as an integer, those of a
    negative one in reverse.
    """
    values = np.asarray(scores)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and keep their order
        narrow = values.astype(np.float32)
    if np.can_cast(values.dtype, np.float32, "safe"):
        rounded = np.zeros(values.shape, bool)
    elif values.dtype.kind == "f":
        rounded = narrow != values
    else:
        rounded = (values > 2**24) | (values < -(2**24))  # float32 has 24 bits
    bits = (narrow + np.float32(0)).view(np.uint32)  # adding 0 makes -0 and 0 one number
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31)), rounded
