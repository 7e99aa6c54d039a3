"""Tells whether an image is unlike all training images, whatever the detector makes of it.

A detector is trained on good images only, and what it says of an image far from all of them means
nothing: a black frame has no defect. A few statistics of the pixels are compared with their range
over good images, and a coarse picture with the most similar of them. The limits are wide: new light
or another batch of material stays inside, a failed lamp, a covered camera or another product does
not. Finds no defects.
"""

import base64
import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CELLS = 8  # rows and columns of the coarse picture
MAX_IMAGES = 512  # number of good images that are compared with
DARK, BRIGHT = 4, 251  # grey values from which a pixel counts as black or white
# An image may be outside the range of good images by this share of the range, and by more if there
# are few good images, whose range is too narrow.
RANGE_SHARE, FEW = 0.5, 5.0
# The coarse picture may be this much farther from the most similar good image than good images are.
DISTANCE_FACTOR, DISTANCE_SLACK = 1.5, 0.03


class Statistic(NamedTuple):
    """A statistic of an image, in percent or as the logarithm of it.

    slack: what it may be outside the range of good images, in addition to a share of the range.
    below, above: what an image is if it is too low or too high.
    """

    name: str
    slack: float
    below: str
    above: str
    is_log: bool = False

    def shown(self, value: float) -> str:
        """Returns the value as it is printed."""
        return f"{100 * (math.exp(value) if self.is_log else value):.3g}"


STATISTICS = (
    Statistic("mean brightness", 0.1, "darker than the darkest", "brighter than the brightest"),
    Statistic("contrast", 0.6, "flatter than the flattest", "more contrast than any", True),
    Statistic("black pixels", 0.15, "fewer black pixels than any", "more black pixels than any"),
    Statistic("white pixels", 0.15, "fewer white pixels than any", "over-exposed, more than any"),
    Statistic(
        "fine detail", 0.6, "more blurred than any", "noisier or more detailed than any", True
    ),
    Statistic("red minus green", 0.08, "greener than the greenest", "redder than the reddest"),
    Statistic("yellow minus blue", 0.08, "bluer than the bluest", "yellower than the yellowest"),
)
LAYOUT = "coarse picture unlike that of any"


def describe(images: np.ndarray) -> np.ndarray:
    """Describes images by a few numbers: uint8 [B, H, W, 1 or 3] → [B, S + cells] float32.

    First the values of `STATISTICS`, in [0, 1] or as logarithms; then the mean brightness of the
    cells of a coarse picture, row by row, less that of the image. Sums of integers: equal images
    have equal descriptions whatever the batch.
    """
    images = np.asarray(images)
    wide = images.astype(np.int32)
    if images.shape[-1] == 3:
        red, green, blue = (wide[..., i] for i in range(3))
        grey = (77 * red + 150 * green + 29 * blue) >> 8
        tints = [(red - green).mean((1, 2)), ((red + green) / 2 - blue).mean((1, 2))]
    else:
        grey = wide[..., 0]
        tints = [np.zeros(len(images))] * 2
    mean = grey.mean((1, 2))
    # Second differences: blur takes more from them than from edges, noise adds more.
    bends = [np.abs(np.diff(grey, 2, axis)).sum((1, 2)) / grey[0].size for axis in (1, 2)]
    columns = [
        mean / 255,
        np.log((grey.std((1, 2)) + 1) / 255),
        (grey <= DARK).mean((1, 2)),
        (grey >= BRIGHT).mean((1, 2)),
        np.log((sum(bends) + 0.5) / 255),
        tints[0] / 255,
        tints[1] / 255,
    ]
    cells = _cell_means(grey) - mean[:, None]
    return np.concatenate([np.stack(columns, -1), cells / 255], -1).astype(np.float32)


def _cell_means(grey: np.ndarray) -> np.ndarray:
    """Returns means of the cells: [B, H, W] → [B, cells]; fewer for sides of fewer pixels."""
    for axis in (1, 2):
        side = grey.shape[axis]
        starts = np.linspace(0, side, min(CELLS, side), endpoint=False).astype(int)
        sums = np.add.reduceat(grey, starts, axis)
        counts = np.diff(np.append(starts, side))
        grey = sums / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
    return grey.reshape(len(grey), -1)


@dataclasses.dataclass(frozen=True)
class Novelty:
    """Range of the descriptions of good images.

    low, high: [S] of each statistic. cells: the coarse pictures of `num_images`, a byte a cell, in
    steps of 1 / 127 from -1. distance: the largest root mean square difference of a good image from
    the most similar other one. num_copies: of the images that are copies of others.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    cells: bytes
    num_images: int
    distance: float
    num_copies: int = 0

    @property
    def num_originals(self) -> int:
        """How many images say how much good images differ."""
        return self.num_images - self.num_copies

    @property
    def pictures(self) -> np.ndarray:
        """The coarse pictures, float64 [N, cells]."""
        return _unpack(np.frombuffer(self.cells, np.uint8).reshape(self.num_images, -1))

    def amounts(self, descriptions: np.ndarray) -> np.ndarray:
        """Returns how far images are outside, [B, S + 1]: 0 inside the range, 1 at the limit.

        The last column is that of the coarse picture; 0 if there are not two good images.
        """
        values, cells = np.split(np.asarray(descriptions, np.float64), [len(STATISTICS)], -1)
        low, high = np.array(self.low), np.array(self.high)
        allowed, limit = self.limits()
        outside = np.maximum(np.maximum(low - values, values - high), 0) / allowed
        layout = np.maximum(self.nearest(cells) - self.distance, 0) / limit
        return np.concatenate([outside, layout[:, None]], -1)

    def limits(self) -> tuple[np.ndarray, float]:
        """Returns how far the statistics [S] and the coarse picture may be outside the range.

        Infinite for the coarse picture if there are not two good images.
        """
        few = FEW / self.num_originals
        width = np.array(self.high) - np.array(self.low)
        allowed = (RANGE_SHARE + few) * width + np.array([s.slack for s in STATISTICS])
        farther = (DISTANCE_FACTOR - 1 + few) * self.distance + DISTANCE_SLACK
        return allowed, farther if self.num_originals > 1 else math.inf

    def nearest(self, cells: np.ndarray) -> np.ndarray:
        """Returns the distance of coarse pictures [B, cells] from the most similar good image."""
        pictures = self.pictures
        return np.array([np.sqrt(((pictures - x) ** 2).mean(-1).min()) for x in cells])

    def reason(self, description: np.ndarray) -> str | None:
        """Returns what is unlike all good images; None if nothing is.

        The statistic that is farthest outside comes first, the coarse picture last.
        """
        amounts = self.amounts(description[None])[0]
        order = [*np.argsort(-amounts[:-1]), len(STATISTICS)]
        found = [i for i in order if amounts[i] > 1]
        return "; ".join(self._sentence(i, description) for i in found) or None

    def _sentence(self, number: int, description: np.ndarray) -> str:
        if number == len(STATISTICS):
            away = self.nearest(description[None, len(STATISTICS) :])[0]
            return (
                f"{LAYOUT} training image ({100 * away:.3g} % from the most similar, training "
                f"images at most {100 * self.distance:.3g} %)"
            )
        statistic, value = STATISTICS[number], float(description[number])
        low, high = self.low[number], self.high[number]
        what = statistic.below if value < low else statistic.above
        values = [statistic.shown(x) for x in (value, low, high)]
        return (
            f"{what} training image ({statistic.name} {values[0]} %, training {values[1]} to "
            f"{values[2]} %)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads, ready for JSON."""
        return {
            "low": list(self.low),
            "high": list(self.high),
            "cells": base64.b64encode(self.cells).decode(),
            "num_images": self.num_images,
            "distance": self.distance,
            "num_copies": self.num_copies,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Novelty":
        """Reads a dict of `to_dict`. Raises ValueError for anything else."""
        try:
            low, high = (tuple(map(float, stored[name])) for name in ("low", "high"))
            numbers = np.array([*low, *high, stored["distance"]], float)
            cells = base64.b64decode(stored["cells"], validate=True)
            count = operator.index(stored["num_images"])
            num_copies = operator.index(stored.get("num_copies", 0))
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"novelty is not as it was written ({error})") from error
        if (
            not (len(low) == len(high) == len(STATISTICS) and np.isfinite(numbers).all())
            or not (0 < count <= len(cells) <= count * CELLS**2 and len(cells) % count == 0)
            or numbers[-1] < 0
            or not 0 <= num_copies < count
        ):
            raise ValueError("novelty has values that were not written by this version")
        return cls(low, high, cells, count, float(numbers[-1]), num_copies)


def fit_novelty(descriptions: np.ndarray, copies: np.ndarray | None = None) -> Novelty:
    """Returns the range of good images from their `describe` values, [N, S + cells].

    copies: values of copies, which are in the range, too,
    but say nothing of how much good images differ: a copy may be very near its original.
    """
    given = np.asarray(descriptions, np.float64)
    originals = len(given)
    if copies is not None:
        chosen = spread_over(len(copies), max(MAX_IMAGES - originals, 0))
        given = np.concatenate([given, np.asarray(copies, np.float64)[list(chosen)]])
    values, cells = np.split(given, [len(STATISTICS)], -1)
    packed = np.clip(np.rint(127 * (cells + 1)), 0, 254).astype(np.uint8)
    return Novelty(
        low=tuple(values.min(0).tolist()),
        high=tuple(values.max(0).tolist()),
        cells=packed.tobytes(),
        num_images=len(packed),
        distance=_largest_distance(_unpack(packed[:originals])),
        num_copies=len(packed) - originals,
    )


def spread_over(count: int, limit: int = MAX_IMAGES) -> Sequence[int]:
    """Returns the indices of at most `limit` of `count` images, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int)).tolist()


def _unpack(cells: np.ndarray) -> np.ndarray:
    return cells / 127.0 - 1


def _largest_distance(cells: np.ndarray) -> float:
    """Returns the largest distance of a coarse picture from the most similar other one."""
    if len(cells) < 2:
        return 0.0
    squared = np.array([((cells - x) ** 2).mean(-1) for x in cells])
    np.fill_diagonal(squared, np.inf)
    return float(np.sqrt(squared.min(-1).max()))
