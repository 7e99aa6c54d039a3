"""Makes the windows of an image comparable over all scales, calibrated on held-out good images.

An image's terms are those of its highest-scoring window, so the threshold, which comes from the
highest windows of held-out good images, bounds the false alarms per image, however many windows it
has. Maps of several scales have different values; their tails on good images give them one unit.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtadl_jax.networks.tails import fit_table, tail


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a detector finds in the windows of one image.

    terms: of each scale, [windows, T] float32. maps: of each scale, float32 [h, w], at one size;
    empty for a detector without maps.
    """

    terms: tuple[np.ndarray, ...]
    maps: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class WindowScale:
    """How windows of one scale score on good images.

    factor: of the scale. mean, spread: of each score term over the windows. knots, rate: the tail
    of the map's values (`networks/tails.py`); empty and 0 where there is one scale, or no map.
    """

    factor: float
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    knots: tuple[float, ...] = ()
    rate: float = 0.0

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "WindowScale":
        """Returns the scale from a dict, also after JSON. Raises ValueError for other values."""
        try:
            values: dict[str, Any] = {}
            values |= {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
            found = cls(**values)
            numbers = [found.factor, found.rate, *found.mean, *found.spread, *found.knots]
            if not np.isfinite(np.array(numbers, np.float64)).all() or min(found.spread) <= 0:
                raise ValueError
            if len(found.mean) != len(found.spread):
                raise ValueError
        except (AttributeError, TypeError, ValueError) as e:
            raise ValueError(f"windows holds {stored!r:.60}") from e
        return found


def fit_scales(factors: Sequence[float], seen: Sequence[Seen]) -> tuple[WindowScale, ...]:
    """Returns the scales by all windows of good images."""
    found = []
    for number, factor in enumerate(factors):
        terms = np.concatenate([one.terms[number] for one in seen]).astype(np.float64)
        mean, spread = terms.mean(0), terms.std(0, ddof=min(1, len(terms) - 1))
        spread = np.where(spread > 0, spread, np.maximum(np.abs(mean), 1.0))
        scale = WindowScale(float(factor), tuple(mean.tolist()), tuple(spread.tolist()))
        if len(factors) > 1 and seen[0].maps:
            table = fit_table(np.concatenate([one.maps[number].ravel() for one in seen]))
            knots, rate = tuple(table["knots"].tolist()), float(table["rate"])
            scale = dataclasses.replace(scale, knots=knots, rate=rate)
        found.append(scale)
    return tuple(found)


def whole_terms(
    scales: Sequence[WindowScale], seen: Seen, weights: Sequence[float], limit: float | None
) -> np.ndarray:
    """Returns the terms [T] float32 of the window with the highest score, in the unit of the first
    scale.

    weights, limit: of the sum of standardized terms, as in `Calibration`. Without scales (before
    the calibration) the terms of the first window.
    """
    if not scales:
        return seen.terms[0][0]
    standard = np.concatenate(
        [
            (np.asarray(terms, np.float64) - np.array(scale.mean)) / np.array(scale.spread)
            for scale, terms in zip(scales, seen.terms, strict=True)
        ]
    )
    signs = np.asarray(weights, np.float64)
    limited = standard
    if limit is not None:
        limited = np.where(signs < 0, np.minimum(standard, limit), standard)
    highest = standard[int(np.argmax(limited @ signs))]
    return (highest * np.array(scales[0].spread) + np.array(scales[0].mean)).astype(np.float32)


def whole_map(scales: Sequence[WindowScale], seen: Seen) -> np.ndarray | None:
    """Returns the map of an image: that of its one scale, or the mean over scales of -log of the
    tail probability on good images. None for a detector without maps."""
    if not seen.maps:
        return None
    if len(seen.maps) == 1 or not scales:
        return seen.maps[0]
    whole = np.zeros_like(seen.maps[0])
    for scale, found in zip(scales, seen.maps, strict=True):
        table = {"knots": np.array(scale.knots, np.float32), "rate": np.float32(scale.rate)}
        whole += np.asarray(tail(table, found)) / len(scales)
    return whole
