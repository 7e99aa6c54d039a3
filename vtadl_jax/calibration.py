"""Making score terms comparable, from normal images only.

The terms of an image score differ by orders of magnitude; each is standardised by its mean and
spread over held-out normal training images before they are added. The colour scale of the heat
maps comes from the same images, so a picture means the same for every image of a data set.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vtadl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Calibration:
    """mean, spread: of each score term; map_low, map_high: ends of the colour scale."""

    terms: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    map_low: float
    map_high: float
    num_images: int

    def standardise(self, terms: np.ndarray) -> np.ndarray:
        """[N, T] raw terms → [N, T] in units of normal spread."""
        return (np.asarray(terms, np.float64) - np.array(self.mean)) / np.array(self.spread)

    def image_scores(self, terms: np.ndarray, weights: Sequence[float]) -> np.ndarray:
        """Weighted sum of the standardised terms, [N, T] → [N] float64."""
        check_weights(weights, self.terms)
        return self.standardise(terms) @ np.asarray(weights, np.float64)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def check_weights(weights: Sequence[float], terms: Sequence[str]) -> None:
    """Raise UserError unless there is a weight for every term."""
    if len(weights) != len(terms):
        raise UserError(
            f"eval.term_weights {tuple(weights)}: give {len(terms)} numbers, for {', '.join(terms)}"
        )


def calibrate(names: Sequence[str], terms: np.ndarray, maps: np.ndarray) -> Calibration:
    """Measure the held-out normal images. terms: [N, T], maps: [N, H, W]."""
    terms = np.asarray(terms, np.float64)
    mean, spread = terms.mean(0), terms.std(0, ddof=min(1, len(terms) - 1))
    # One image, or identical ones, have no spread: fall back to the size of the term itself.
    spread = np.where(spread > 0, spread, np.maximum(np.abs(mean), 1.0))
    low, top = np.quantile(maps, (0.5, 0.999))
    return Calibration(
        terms=tuple(names),
        mean=tuple(mean.tolist()),
        spread=tuple(spread.tolist()),
        map_low=float(low),
        map_high=float(low + max(2 * (top - low), 1e-6)),  # normal pixels fill the lower half
        num_images=len(terms),
    )
