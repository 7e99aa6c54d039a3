"""Score scales and thresholds of a trained detector, calibrated on normal images only.

The terms of an image score differ by orders of magnitude; each is standardised by its mean and
standard deviation over held-out normal training images before they are added. Thresholds and the
colour scale of the heat maps come from the same images: no defective image is needed, and all heat
maps of a data set share one scale.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.detectors.contract import CREDIT_LIMIT
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.novelty import STATISTICS, Novelty, fit_novelty, spread_over
from vtadl_jax.evaluation.window_scales import WindowScale
from vtadl_jax.runtime.files import read_json, write_json

HELD_OUT, CROSS_FIT, COPIES = "held out", "cross-fit", "copies"  # what calibrated


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scales and thresholds that turn a detector's terms into a score and a decision.

    step: of the checkpoint. mean, spread: mean and standard deviation of each score term; weights:
    of the sum of the standardised terms. An image is defective if its score is image_threshold or
    more, a pixel if the map is pixel_threshold or more (None for a detector without maps).
    *_false_alarm_rate: target rates of the thresholds. map_low, map_high: ends of the colour scale.
    num_images: number of calibration images. credit_limit: the most that a term of negative weight
    counts, standardised; None for no limit. novelty: the range of good images; an image outside it
    is defective whatever its terms. None in runs of older versions. good_scores: of the calibration
    images, ascending; empty in runs of older versions and for a single good image. calibrated_by:
    `HELD_OUT`, `CROSS_FIT` (each good image scored by a detector fitted without it, in `num_folds`
    folds) or `COPIES` (of a single good image: num_images is 0, the thresholds guarantee nothing).
    good_statistics: the statistics of `novelty.STATISTICS` of good images, which new images are
    compared with (`evaluation/drift.py`); empty in runs of older versions.
    good_terms: raw values of some terms on the calibration images, ascending, by name; those of the
    experts of a detector that combines several.
    windows: of images that are scored by windows (docs/large-images.md), one for each scale; mean
    and spread are then those of the first one's windows, and an image's terms those of its
    highest-scoring window in their unit.
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
    credit_limit: float | None = None
    novelty: Novelty | None = None
    good_scores: tuple[float, ...] = ()
    calibrated_by: str = HELD_OUT
    num_folds: int = 0
    good_statistics: tuple[tuple[float, ...], ...] = ()
    good_terms: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    windows: tuple[WindowScale, ...] = ()

    def standardise(self, terms: np.ndarray) -> np.ndarray:
        """Standardises raw terms, [N, T] → [N, T] float64."""
        return (np.asarray(terms, np.float64) - np.array(self.mean)) / np.array(self.spread)

    def image_scores(self, terms: np.ndarray, descriptions: np.ndarray | None = None) -> np.ndarray:
        """Returns the weighted sum of the standardised terms, [N, T] → [N] float64.

        descriptions: [N, D] of `novelty.describe`. Images outside the range of good images score
        the threshold or more, the more they are outside.
        """
        terms, weights = self.standardise(terms), np.asarray(self.weights, np.float64)
        if self.credit_limit is not None:
            terms = np.where(weights < 0, np.minimum(terms, self.credit_limit), terms)
        scores = terms @ weights
        if descriptions is None or self.novelty is None:
            return scores
        amounts = self.novelty.amounts(descriptions).max(-1)
        return np.where(amounts > 1, np.maximum(scores, self.image_threshold) + amounts - 1, scores)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Returns how rarely a good image scores as high, [N] → [N] float64 in (0, 1].

        The conformal p-value: (1 + number of calibration images with this score or more) / (n + 1).
        For new good images that are like those, P(p ≤ α) ≤ α for each α if these were held out, and
        about α if each was scored by a detector fitted without it; the least is 1 / (n + 1).
        NaN for a single good image and for runs of older versions, which did not keep the scores.
        """
        return rarity(self.good_scores, scores)

    def p_value(self, score: float) -> float | None:
        """Returns the p-value of one score; None where `p_values` has NaN."""
        value = float(self.p_values(np.array([score]))[0])
        return None if math.isnan(value) else value

    def term_p_values(self, terms: np.ndarray) -> dict[str, float]:
        """Returns how rarely a good image has as high a term, for those of `good_terms`, from raw
        terms [T]."""
        values = self.by_name(terms)
        return {
            name: float(rarity(good, np.array([values[name]]))[0])
            for name, good in self.good_terms.items()
        }

    def unlike(self, descriptions: np.ndarray) -> np.ndarray:
        """Returns whether images are outside the range of good images, [N, D] → [N] bool."""
        if self.novelty is None:
            return np.zeros(len(descriptions), bool)
        return self.novelty.amounts(descriptions).max(-1) > 1

    def reason(self, description: np.ndarray) -> str:
        """Returns what is unlike all good images about an image, [D]; '' if nothing is."""
        return (self.novelty and self.novelty.reason(description)) or ""

    def by_name(self, terms: np.ndarray) -> dict[str, float]:
        """Returns the raw terms of one image, [T], by name."""
        return dict(zip(self.terms, map(float, terms), strict=True))

    def save(self, path: Path) -> None:
        """Writes the calibration as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Reads a file of `save`. Raises UserError for a file that is not a calibration."""
        try:
            return cls.from_dict(read_json(path))
        except (OSError, ValueError) as e:
            raise UserError(f"{path} is not a calibration ({e}): evaluate the run again") from e

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["windows"] = [dataclasses.asdict(scale) for scale in self.windows]
        return values | {"novelty": self.novelty and self.novelty.to_dict()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Calibration":
        """Returns the calibration from a dict of `to_dict`, also after JSON.

        Raises ValueError, with the field, for values that no calibration has.
        """
        values: dict[str, Any] = {}
        values |= {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        rows = values.get("good_statistics", ())
        if isinstance(rows, tuple):
            values["good_statistics"] = tuple(
                tuple(row) if isinstance(row, list) else row for row in rows
            )
        if isinstance(good := values.get("good_terms"), dict):
            values["good_terms"] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in good.items()
            }
        if isinstance(windows := values.get("windows"), tuple):
            values["windows"] = tuple(map(WindowScale.from_dict, windows))
        if values.get("novelty") is not None:
            values["novelty"] = Novelty.from_dict(values["novelty"])
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
        if self.calibrated_by not in (HELD_OUT, CROSS_FIT, COPIES):
            return f"calibrated_by is {self.calibrated_by!r}"
        for name in ("step", "num_images", "num_folds"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                return f"{name} is {getattr(self, name)!r}"
        numbers = ["image_threshold", "image_false_alarm_rate", "pixel_false_alarm_rate"]
        numbers += ["map_low", "map_high"] + ["pixel_threshold"] * (
            self.pixel_threshold is not None
        )
        for name in numbers:
            if not _is_finite(getattr(self, name)):
                return f"{name} is {getattr(self, name)!r}"
        if self.credit_limit is not None and not _is_finite(self.credit_limit):
            return f"credit_limit is {self.credit_limit!r}"
        if not isinstance(self.good_terms, dict) or not self.good_terms.keys() <= set(self.terms):
            return f"good_terms is {self.good_terms!r:.60}"
        kept = {f"good_terms of {name}": good for name, good in self.good_terms.items()}
        for name, good in {"good_scores": self.good_scores, **kept}.items():
            numbers_only = isinstance(good, tuple) and all(map(_is_finite, good))
            if not numbers_only or list(good) != sorted(good):
                return f"{name} is {good!r:.60}: not numbers in ascending order"
        rows = self.good_statistics
        if not isinstance(rows, tuple) or not all(
            isinstance(row, tuple) and len(row) == len(STATISTICS) and all(map(_is_finite, row))
            for row in rows
        ):
            return f"good_statistics is {rows!r:.60}: not {len(STATISTICS)} numbers a row"
        if not isinstance(self.windows, tuple) or any(
            len(scale.mean) != len(self.terms) for scale in self.windows
        ):
            return f"windows is {self.windows!r:.60}"
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


def rarity(good: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Returns the conformal p-value of each of N values, [N] float64: (1 + number of good ones that
    are as large) / (n + 1). good: [n], ascending; NaN where n is 0."""
    if not len(good):
        return np.full(len(values), np.nan)
    below = np.searchsorted(np.asarray(good, np.float64), np.asarray(values, np.float64), "left")
    return (1 + len(good) - below) / (len(good) + 1)


def _beyond_rounding(threshold: float) -> float:
    """Returns a threshold that the image just below it does not reach by float32's rounding, which
    differs between batch sizes, devices and exports."""
    return threshold + 1e-5 * max(abs(threshold), 1.0)


def expected_rate(num_images: int, false_alarm_rate: float) -> float:
    """Returns how often a new good image reaches `threshold_for` n values, on average.

    1 - k / (n + 1), just below the rate; 1 / (n + 1) if n is too small for the rate.
    """
    rank = min(math.ceil((num_images + 1) * (1 - false_alarm_rate)), num_images)
    return 1 - rank / (num_images + 1)


def largest_rate(rate: float, num_images: int, num_folds: int) -> float:
    """Returns the bound on the false-alarm rate for a threshold that is set for `rate`.

    The rate itself for held-out images (num_folds 0). For cross-fitting into k folds of n images
    2·rate + min(2(1 - 1/k) / (n/k + 1), (1 - k/n) / (k + 1)), 2·rate for leave-one-out: theorems 1
    and 4 of Barber et al., "Predictive inference with the jackknife+", 2021. These are of a new
    image that every fold's detector scores; the one fitted to all images knows more.
    """
    if num_folds == 0:
        return rate
    n, k = num_images, num_folds
    excess = min(2 * (1 - 1 / k) / (n / k + 1), (1 - k / n) / (k + 1))
    return min(2 * rate + max(excess, 0.0), 1.0)


def calibrate(
    names: Sequence[str],
    terms: np.ndarray,
    maps: np.ndarray | None,
    *,
    weights: Sequence[float],
    step: int = 0,
    image_false_alarm_rate: float = 0.05,
    pixel_false_alarm_rate: float = 0.01,
    descriptions: np.ndarray | None = None,
    copies: np.ndarray | None = None,
    calibrated_by: str = HELD_OUT,
    num_folds: int = 0,
    keep: Sequence[str] = (),
    windows: tuple[WindowScale, ...] = (),
) -> Calibration:
    """Returns the calibration from normal images, scored as if they were new.

    terms: [N, T]. maps: all values of their anomaly maps, any shape; None for a detector without
    maps. descriptions: [M, D] of `novelty.describe`, of these and of training images; copies: of
    copies of them. calibrated_by, num_folds: as in `Calibration`. keep: terms for `good_terms`.
    windows: of images scored by windows, whose mean and spread they then have.
    """
    terms = np.asarray(terms, np.float64)
    mean, spread = terms.mean(0), terms.std(0, ddof=min(1, len(terms) - 1))
    if windows:
        mean, spread = np.array(windows[0].mean), np.array(windows[0].spread)
    # The spread is 0 for one image or identical images: fall back to the mean's magnitude.
    spread = np.where(spread > 0, spread, np.maximum(np.abs(mean), 1.0))
    low, top = (0.0, 0.0) if maps is None else np.quantile(maps, (0.5, 0.999))
    standardised, weighted = (terms - mean) / spread, np.asarray(weights, np.float64)
    limited = np.where(weighted < 0, np.minimum(standardised, CREDIT_LIMIT), standardised)
    scores = limited @ weighted
    values = {} if calibrated_by == COPIES else dict(zip(names, np.sort(terms, 0).T, strict=True))
    return Calibration(
        step=step,
        terms=tuple(names),
        mean=tuple(mean.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(map(float, weights)),
        image_threshold=_beyond_rounding(threshold_for(scores, image_false_alarm_rate)),
        pixel_threshold=None if maps is None else threshold_for(maps, pixel_false_alarm_rate),
        image_false_alarm_rate=image_false_alarm_rate,
        pixel_false_alarm_rate=pixel_false_alarm_rate,
        map_low=float(low),
        map_high=float(low + max(2 * (top - low), 1e-6)),  # normal pixels fill the lower half
        num_images=0 if calibrated_by == COPIES else len(terms),
        credit_limit=CREDIT_LIMIT,
        novelty=None if descriptions is None else fit_novelty(descriptions, copies),
        good_scores=() if calibrated_by == COPIES else tuple(np.sort(scores).tolist()),
        calibrated_by=calibrated_by,
        num_folds=num_folds,
        good_statistics=_statistics_of(descriptions),
        good_terms={name: tuple(values[name].tolist()) for name in keep if name in values},
        windows=windows,
    )


def _statistics_of(descriptions: np.ndarray | None) -> tuple[tuple[float, ...], ...]:
    """Returns the statistics of good images, of at most `novelty.MAX_IMAGES`, rounded."""
    if descriptions is None:
        return ()
    rows = np.asarray(descriptions, np.float64)[list(spread_over(len(descriptions)))]
    return tuple(tuple(float(f"{v:.6g}") for v in row[: len(STATISTICS)]) for row in rows)
