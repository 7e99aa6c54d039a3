"""Where a run inspects its images, and in which colour the network sees the rest."""

import base64
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import replacing


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """What `data.regions` is in a run.

    colour: uint8 value of each channel in place of pixels that are not inspected. area: bool [h, w]
    at the size of its file, true where images are inspected; None if each image has a file of its
    own, and an image without one is inspected everywhere.
    """

    colour: tuple[int, ...]
    area: np.ndarray | None = None

    def same(self, other: "Regions | None") -> bool:
        """Returns whether two say the same of which pixels are inspected."""
        if other is None or self.area is None or other.area is None:
            return other is not None and self.area is other.area
        return np.array_equal(self.area, other.area)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `of_arrays` reads."""
        found = {"colour": np.array(self.colour, np.uint8)}
        return found if self.area is None else {**found, "area": self.area}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], where: Path) -> "Regions":
        """Returns the regions of `arrays`. Raises UserError for others."""
        colour, area = arrays.get("colour"), arrays.get("area")
        usual = colour is not None and colour.dtype == np.uint8 and colour.shape in ((1,), (3,))
        if area is not None:
            usual = usual and area.dtype == bool and area.ndim == 2 and bool(area.any())
        if not usual or arrays.keys() - {"colour", "area"}:
            raise UserError(f"{where} holds no regions of a run: put the run's own file back")
        assert colour is not None, "it was looked at"
        return cls(tuple(colour.tolist()), area)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads, ready for JSON: the area as a PNG in base64."""
        if self.area is None:
            return {"colour": list(self.colour), "area": None}
        stream = io.BytesIO()
        Image.fromarray(self.area).save(stream, "PNG", optimize=True)
        area = base64.b64encode(stream.getvalue()).decode()
        return {"colour": list(self.colour), "area": area}

    @classmethod
    def from_dict(cls, stored: Any, where: Path) -> "Regions | None":
        """Returns the regions of `to_dict`, None for None. Raises UserError for anything else."""
        if stored is None:
            return None
        arrays = {}
        try:
            arrays["colour"] = np.array(stored["colour"], np.uint8)
            if stored["area"] is not None:
                with Image.open(io.BytesIO(base64.b64decode(stored["area"])), formats=["PNG"]) as i:
                    arrays["area"] = np.array(i.convert("1"))
        except Exception as error:  # of base64, of Pillow and of lookups
            raise UserError(f"{where} has no usable regions ({error}): export again") from error
        return cls.of_arrays(arrays, where)

    def save(self, path: Path) -> None:
        """Writes the regions, whole or not at all."""
        with replacing(path) as file:
            np.savez_compressed(file, allow_pickle=False, **self.arrays())


def lowest_outside(
    anomaly_map: np.ndarray, inside: np.ndarray, threshold: float | None = None
) -> np.ndarray:
    """Returns a map [h, w] with its lowest value inside, bool [h, w], in place of others.

    threshold: of the map's values; what is not inspected stays below it even if all pixels inside
    reach it.
    """
    lowest = np.float32(anomaly_map[inside].min())
    if threshold is not None:
        lowest = min(lowest, np.float32(below(threshold)))
    return np.where(inside, anomaly_map, lowest)


def below(threshold: float) -> float:
    """Returns a value below a threshold, by more than float32 rounds."""
    return threshold - 1e-5 * max(abs(threshold), 1.0)
