"""Score scales and thresholds of a trained detector, calibrated on normal images only.

The terms of an image score differ by orders of magnitude; each is standardised by its mean and
standard deviation over held-out normal training images before they are added. Thresholds and the
colour scale of the heat maps come from the same images: no defective image is needed, and all heat
maps of a data set share one scale.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import read_json, write_json


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scales and thresholds that turn a detector's terms into a score and a decision.

    step: of the checkpoint. mean, spread: mean and standard deviation of each score term; weights:
    of the sum of the standardised terms. An image is defective if its score is image_threshold or
    more, a pixel if the map is pixel_threshold or more (None for a detector without maps).
    *_false_alarm_rate: target rates of the thresholds. map_low, map_high: ends of the colour scale.
    num_images: number of calibration images.
    """

    step: int
    terms: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    image_threshold: float
    pixel_threshold: float | None
    image_false_alarm_rate: float
    pixel_false_alarm_rate: float
    map_low: float
    map_high: float
    num_images: int

    def standardise(self, terms: np.ndarray) -> np.ndarray:
        """Standardises raw terms, [N, T] → [N, T] float64."""
        return (np.asarray(terms, np.float64) - np.array(self.mean)) / np.array(self.spread)

    def image_scores(self, terms: np.ndarray) -> np.ndarray:
        """Returns the weighted sum of the standardised terms, [N, T] → [N] float64."""
        return self.standardise(terms) @ np.asarray(self.weights, np.float64)

    def by_name(self, terms: np.ndarray) -> dict[str, float]:
        """Returns the raw terms of one image, [T], by name."""
        return dict(zip(self.terms, map(float, terms), strict=True))

    def save(self, path: Path) -> None:
        """Writes the calibration as JSON, whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Reads a file of `save`. Raises UserError for a file that is not a calibration."""
        try:
            return cls.from_dict(read_json(path))
        except (OSError, ValueError) as e:
            raise UserError(f"{path} is not a calibration ({e}): evaluate the run again") from e

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Calibration":
        """Returns the calibration from a dict of `dataclasses.asdict`, also after JSON.

        Raises ValueError, with the field, for values that no calibration has.
        """
        values: dict[str, Any] = {}
        values |= {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        try:
            found = cls(**values)
        except TypeError as e:  # fields that are missing or unknown
            raise ValueError(str(e).partition("() ")[2] or str(e)) from e
        if fault := found.fault():
            raise ValueError(fault)
        return found

    def fault(self) -> str | None:
        """Returns which field has a value that gives no score or no decision; None if none has."""
        if not (isinstance(self.terms, tuple) and self.terms):
            return f"terms is {self.terms!r}"
        if not all(isinstance(name, str) for name in self.terms):
            return f"terms is {self.terms!r}"
        for name in ("mean", "spread", "weights"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != len(self.terms):
                return f"{name} is {values!r}, for the terms {', '.join(self.terms)}"
            if not all(map(_is_finite, values)) or (name == "spread" and min(values) <= 0):
                return f"{name} is {values!r}"
        for name in ("step", "num_images"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                return f"{name} is {getattr(self, name)!r}"
        numbers = ["image_threshold", "image_false_alarm_rate", "pixel_false_alarm_rate"]
        numbers += ["map_low", "map_high"] + ["pixel_threshold"] * (
            self.pixel_threshold is not None
        )
        for name in numbers:
            if not _is_finite(getattr(self, name)):
                return f"{name} is {getattr(self, name)!r}"
        if self.map_low >= self.map_high:
            return f"map_low is {self.map_low!r} and map_high {self.map_high!r}"
        return None


def _is_finite(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max  # False for NaN


def threshold_for(values: np.ndarray, false_alarm_rate: float) -> float:
    """Returns the threshold that a new normal value reaches at most at this rate.

    Split conformal prediction: just above the k-th smallest of n values, k = ⌈(n + 1)(1 - rate)⌉.
    If n is too small for the rate, just above the largest value; a new value then exceeds it with
    probability 1 / (n + 1).
    """
    values = np.asarray(values).ravel()
    rank = min(math.ceil((values.size + 1) * (1 - false_alarm_rate)), values.size)
    reached = np.partition(values, rank - 1)[rank - 1]
    return float(np.nextafter(reached, np.asarray(np.inf, values.dtype)))


def calibrate(
    names: Sequence[str],
    terms: np.ndarray,
    maps: np.ndarray | None,
    *,
    weights: Sequence[float],
    step: int = 0,
    image_false_alarm_rate: float = 0.05,
    pixel_false_alarm_rate: float = 0.01,
) -> Calibration:
    """Returns the calibration from held-out normal images.

    terms: [N, T]. maps: all values of their anomaly maps, any shape; None for a detector without
    maps.
    """
    terms = np.asarray(terms, np.float64)
    mean, spread = terms.mean(0), terms.std(0, ddof=min(1, len(terms) - 1))
    # The spread is 0 for one image or identical images: fall back to the mean's magnitude.
    spread = np.where(spread > 0, spread, np.maximum(np.abs(mean), 1.0))
    low, top = (0.0, 0.0) if maps is None else np.quantile(maps, (0.5, 0.999))
    scores = (terms - mean) / spread @ np.asarray(weights, np.float64)
    return Calibration(
        step=step,
        terms=tuple(names),
        mean=tuple(mean.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(map(float, weights)),
        image_threshold=threshold_for(scores, image_false_alarm_rate),
        pixel_threshold=None if maps is None else threshold_for(maps, pixel_false_alarm_rate),
        image_false_alarm_rate=image_false_alarm_rate,
        pixel_false_alarm_rate=pixel_false_alarm_rate,
        map_low=float(low),
        map_high=float(low + max(2 * (top - low), 1e-6)),  # normal pixels fill the lower half
        num_images=len(terms),
    )
