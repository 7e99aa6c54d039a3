"""Finds the anomalous regions of an anomaly map: where they are, how large, how strong.

A region is an 8-connected component of the pixels whose value is the threshold or more. Not here:
metrics over regions (`metrics/regions.py`), the choice of the threshold (`calibration.py`).
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

_EIGHT_CONNECTED = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class Region:
    """One region of an anomaly map.

    box: (top, left, bottom, right) in pixels, bottom and right just outside, as a slice has them.
    area: number of pixels. peak: largest value; peak_at: its (row, column), the first in reading
    order among equal ones. mean: of the values of its pixels.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    mean: float


def find_regions(anomaly_map: np.ndarray, threshold: float, min_area: int = 1) -> list[Region]:
    """Returns the regions of a map, those with the highest peak first.

    anomaly_map: float32 [h, w], higher is more anomalous; NaN belongs to no region. threshold: a
    pixel is anomalous if its value is this or more. min_area: regions of fewer pixels are left out.
    Equal peaks are in reading order. A noisy map has up to h·w/4 regions: time and memory grow with
    the number of anomalous pixels, not with that of regions. Raises ValueError for a map that is
    not [h, w], a threshold that is not finite or an area below 1.
    """
    values = np.asarray(anomaly_map, np.float32)
    if values.ndim != 2:
        raise ValueError(f"an anomaly map is [h, w], got {list(values.shape)}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold {threshold}: give a finite number")
    if min_area < 1:
        raise ValueError(f"min_area {min_area}: give 1 or more")
    labels, count = ndimage.label(values >= np.float64(threshold), _EIGHT_CONNECTED)
    if not count:
        return []
    rows, columns = np.nonzero(labels)  # in reading order
    label, value = labels[rows, columns], values[rows, columns]
    # Within a region the highest value is first, and the first in reading order of equal ones.
    order = np.lexsort((np.arange(len(label)), -value, label))
    starts = np.searchsorted(label[order], np.arange(1, count + 1))
    rows, columns, value = rows[order], columns[order], value[order]
    areas = np.diff(np.append(starts, len(rows)))
    edges = (
        np.minimum.reduceat(rows, starts),
        np.minimum.reduceat(columns, starts),
        np.maximum.reduceat(rows, starts) + 1,
        np.maximum.reduceat(columns, starts) + 1,
    )
    boxes = np.stack(edges, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.add.reduceat(value.astype(np.float64), starts) / areas
    ranked = np.lexsort((columns[starts], rows[starts], -value[starts]))
    return [
        Region(
            box=tuple(boxes[i].tolist()),
            area=int(areas[i]),
            peak=float(value[starts[i]]),
            peak_at=(int(rows[starts[i]]), int(columns[starts[i]])),
            mean=float(means[i]),
        )
        for i in ranked.tolist()
        if areas[i] >= min_area
    ]
