"""Reads which part of an anomaly is enough to find it, as MVTec LOCO AD's defects_config.json says.

Each mask file of an image is one anomaly; its pixel value names the kind of defect. The metric is
`metrics.au_spro`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vtadl_jax.data.decode import load_mask
from vtadl_jax.data.modes import upright
from vtadl_jax.data.opening import opened
from vtadl_jax.errors import UserError

DEFECTS = "defects_config.json"  # in the folder of a category


@dataclasses.dataclass(frozen=True)
class Saturation:
    """How much of an anomaly is enough: pixels, or a share of its area if `relative`."""

    threshold: float
    relative: bool

    def pixels(self, area: int) -> int:
        """Returns the number of pixels of an anomaly that are enough, from 1 to its area."""
        found = int(self.threshold * area) if self.relative else min(int(self.threshold), area)
        return max(found, 1)


def read_saturations(path: Path) -> dict[int, Saturation]:
    """Returns pixel value → saturation of defects_config.json. Raises UserError."""
    try:
        found = {
            int(entry["pixel_value"]): Saturation(
                float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in json.loads(path.read_text(encoding="utf-8"))
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} can't be read as the kinds of defect of MVTec LOCO AD ({error!r}): take it "
            f"from the published archive"
        ) from error
    for value, saturation in found.items():
        if not saturation.threshold > 0 or (saturation.relative and saturation.threshold > 1):
            raise UserError(
                f"{path}: saturation_threshold {saturation.threshold:g} of pixel value {value}: "
                f"take the file from the published archive"
            )
    return found


def read_anomaly(
    path: Path, saturations: Mapping[int, Saturation]
) -> tuple[np.ndarray, int] | None:
    """Returns one anomaly's mask, bool [h, w], and the number of its pixels that are enough.

    None for a mask without a marked pixel. Raises UserError for a file that can't be read, for one
    of several values and for a value that `saturations` lacks.
    """
    mask = load_mask(path)
    if not mask.any():
        return None
    with opened(path) as image:
        values = np.unique(np.array(upright(image))[mask])
    if len(values) != 1 or int(values[0]) not in saturations:
        raise UserError(
            f"mask {path} has the values {', '.join(map(str, values[:8]))}, and {DEFECTS} knows "
            f"{', '.join(map(str, sorted(saturations)))}: take both from the published archive"
        )
    return mask, saturations[int(values[0])].pixels(int(mask.sum()))
