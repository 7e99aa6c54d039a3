"""What normal images look like to a trained detector: scales and thresholds, from them alone.

The terms of an image score differ by orders of magnitude; each is standardised by its mean and
spread over held-out normal training images before they are added. Thresholds and the colour scale
of the heat maps come from the same images, so that no defect is needed to set them, and a picture
means the same for every image of a data set.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Of one checkpoint.

    mean, spread: of each score term; weights: with which standardised terms are added. An image
    is called defective if its score is image_threshold or more, a pixel if the map is
    pixel_threshold or more. map_low, map_high: ends of the colour scale.
    """

    step: int
    terms: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    image_threshold: float
    pixel_threshold: float
    image_false_alarm_rate: float  # that the thresholds were set for
    pixel_false_alarm_rate: float
    map_low: float
    map_high: float
    num_images: int

    def standardise(self, terms: np.ndarray) -> np.ndarray:
        """[N, T] raw terms → [N, T] in units of normal spread."""
        return (np.asarray(terms, np.float64) - np.array(self.mean)) / np.array(self.spread)

    def image_scores(self, terms: np.ndarray) -> np.ndarray:
        """Weighted sum of the standardised terms, [N, T] → [N] float64."""
        return self.standardise(terms) @ np.asarray(self.weights, np.float64)

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Raises UserError if the file is not a calibration of this version."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise UserError(f"{path} is not a calibration ({e}): evaluate the run again") from e

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Calibration":
        """Of `dataclasses.asdict`, also after a passage through JSON."""
        values: dict[str, Any] = {}
        values |= {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**values)


def check_weights(weights: Sequence[float], terms: Sequence[str]) -> None:
    """Raise UserError unless there is a weight for every term."""
    if len(weights) != len(terms):
        raise UserError(
            f"eval.term_weights {tuple(weights)}: give {len(terms)} numbers, for {', '.join(terms)}"
        )


def threshold_for(values: np.ndarray, false_alarm_rate: float) -> float:
    """Which of `values` and above a new normal value reaches with at most that probability.

    By ranks, of n values: just above the k-th smallest, k = ⌈(n + 1)(1 - rate)⌉ (split conformal
    prediction). Where n is too small to promise the rate, just above the largest: a new value then
    exceeds it with probability 1 / (n + 1).
    """
    values = np.asarray(values).ravel()
    rank = min(math.ceil((values.size + 1) * (1 - false_alarm_rate)), values.size)
    reached = np.partition(values, rank - 1)[rank - 1]
    return float(np.nextafter(reached, np.asarray(np.inf, values.dtype)))


def calibrate(
    names: Sequence[str],
    terms: np.ndarray,
    maps: np.ndarray,
    *,
    weights: Sequence[float],
    step: int = 0,
    image_false_alarm_rate: float = 0.05,
    pixel_false_alarm_rate: float = 0.01,
) -> Calibration:
    """Measure the held-out normal images. terms: [N, T], maps: all their values, any shape."""
    check_weights(weights, names)
    terms = np.asarray(terms, np.float64)
    mean, spread = terms.mean(0), terms.std(0, ddof=min(1, len(terms) - 1))
    # One image, or identical ones, have no spread: fall back to the size of the term itself.
    spread = np.where(spread > 0, spread, np.maximum(np.abs(mean), 1.0))
    low, top = np.quantile(maps, (0.5, 0.999))
    scores = (terms - mean) / spread @ np.asarray(weights, np.float64)
    return Calibration(
        step=step,
        terms=tuple(names),
        mean=tuple(mean.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(map(float, weights)),
        image_threshold=threshold_for(scores, image_false_alarm_rate),
        pixel_threshold=threshold_for(maps, pixel_false_alarm_rate),
        image_false_alarm_rate=image_false_alarm_rate,
        pixel_false_alarm_rate=pixel_false_alarm_rate,
        map_low=float(low),
        map_high=float(low + max(2 * (top - low), 1e-6)),  # normal pixels fill the lower half
        num_images=len(terms),
    )
