"""Overlapping square windows of large images: their grid, their pixels, and one map of their maps.

Each window's map has the weights of a smooth bump, largest in the middle, and the weights of all
windows add up to 1 everywhere: a map has no seams, and places near the border of one window count
by the other windows that hold them. No network here.
"""

import dataclasses
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.transforms import scale as resize

MOST_WINDOWS = 10**6  # of one image at one scale


def scaled_side(side: Any, factor: float) -> Any:
    """Returns the side of an image that is scaled: side · factor, rounded up.

    An int, or a symbolic dimension of `jax.export` for a symbolic side.
    """
    ratio = Fraction(factor).limit_denominator(10**4)
    return -(-side * ratio.numerator // ratio.denominator)


def scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Resizes an image uint8 [h, w] or [h, w, C] by a factor, as `Geometry` does."""
    height, width = (scaled_side(side, factor) for side in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    small = np.asarray(resize(flat, (height, width), Image.Resampling.BILINEAR))
    return small.reshape(height, width, *pixels.shape[2:])


def cut(pixels: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Returns the window [side, side, …] of an image; beyond its border its edge is repeated."""
    height, width = pixels.shape[:2]
    inside = pixels[top : top + side, left : left + side]
    if inside.shape[:2] == (side, side):
        return inside
    rows, columns = (np.clip(np.arange(at, at + side), 0, n - 1)
                     for at, n in ((top, height), (left, width)))  # fmt: skip
    return pixels[rows[:, None], columns]


def step_of(options: WindowOptions) -> int:
    """Returns how far apart windows are at most, in pixels of the scaled image."""
    return max(round(options.side * (1 - options.overlap)), options.map_stride)


def count_along(length: Any, side: int, step: int, cell: int, most: Callable = max) -> Any:
    """Returns (number of windows along an axis, pixels from the first one to the last).

    length: of the axis, an int, or a traced scalar with `most` its maximum.
    """
    room = most(-(-length // cell) * cell - side, 0)
    return -(-room // step) + 1, room


def start_of(number: Any, count: Any, room: Any, cell: int, most: Callable = max) -> Any:
    """Returns where windows start along an axis, for what `count_along` returns: evenly spread
    multiples of `cell`, from 0; the last window ends at the end of the last cell."""
    whole = most(count - 1, 1) * cell
    return (2 * number * room + whole) // (2 * whole) * cell


def starts(length: int, side: int, step: int, cell: int = 1) -> np.ndarray:
    """Returns where windows start along an axis of `length`, int [n]: at most `step` and a cell
    apart. One window for a shorter axis."""
    count, room = count_along(length, side, step, cell)
    return start_of(np.arange(count), count, room, cell)


def taper(side: int) -> np.ndarray:
    """Returns the weights of a window before they are normalized, [side] float64, all positive."""
    return np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2


def weights(first: np.ndarray, side: int, length: int) -> np.ndarray:
    """Returns the weights of windows along an axis, [n, side] float32: at each place those of the
    windows that hold it add up to 1.

    first: where the windows start, int [n]; each place of `length` is in at least one of them.
    """
    whole, bump = np.zeros(length), taper(side)
    for start in first.tolist():
        whole[start : start + side] += bump
    return np.stack([bump / whole[s : s + side] for s in first.tolist()]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The windows of one image at one scale, row by row, and the cells of their maps.

    height, width: of the scaled image. side: of the windows; cell: of a value of the map, a divisor
    of the side. rows, columns: where windows start, in pixels.
    """

    height: int
    width: int
    side: int
    cell: int
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, size: tuple[int, int], options: WindowOptions, factor: float) -> "Grid":
        """Returns the grid of an image of size (h, w) before it is scaled by the factor."""
        side, cell = options.side, options.map_stride
        height, width = (scaled_side(length, factor) for length in size)
        first = (starts(length, side, step_of(options), cell) for length in (height, width))
        return cls(height, width, side, cell, *first)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def place(self, number: int) -> tuple[int, int]:
        """Returns (top, left) of a window, in pixels of the scaled image."""
        row, column = divmod(number, len(self.columns))
        return int(self.rows[row]), int(self.columns[column])

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the map over all windows, in cells."""
        return (
            int(self.rows[-1] + self.side) // self.cell,
            int(self.columns[-1] + self.side) // self.cell,
        )

    @functools.cached_property
    def map_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of window rows and of window columns along the map's sides, [n, side / cell]."""
        inside, (height, width) = self.side // self.cell, self.map_size
        return (
            weights(self.rows // self.cell, inside, height),
            weights(self.columns // self.cell, inside, width),
        )

    def add(self, whole: np.ndarray, maps: np.ndarray, first: int) -> None:
        """Adds weighted maps [n, side / cell, side / cell] of the windows from `first` on to the
        map over all windows, float32 `map_size`, in place."""
        along, across = self.map_weights
        for number, values in enumerate(maps, first):
            row, column = divmod(number, len(self.columns))
            top, left = (at // self.cell for at in self.place(number))
            part = whole[top : top + values.shape[0], left : left + values.shape[1]]
            part += along[row][:, None] * across[column] * values


def stitch(maps: np.ndarray, grid: Grid) -> np.ndarray:
    """Joins the maps of all windows, float32 [n, side / cell, side / cell], to `grid.map_size`."""
    whole = np.zeros(grid.map_size, np.float32)
    grid.add(whole, maps, 0)
    return whole


def stitch_slowly(maps: np.ndarray, grid: Grid) -> np.ndarray:
    """Computes `stitch` place by place from its definition, in float64: the mean of the values of
    all windows that hold a place, by the products of their tapers there."""
    inside = grid.side // grid.cell
    bump, whole = taper(inside), np.zeros(grid.map_size)
    for row, column in np.ndindex(*grid.map_size):
        values, shares = [], []
        for number in range(len(grid)):
            top, left = (at // grid.cell for at in grid.place(number))
            if 0 <= row - top < inside and 0 <= column - left < inside:
                values.append(float(maps[number, row - top, column - left]))
                shares.append(bump[row - top] * bump[column - left])
        whole[row, column] = np.average(values, weights=shares)
    return whole


def map_size(size: tuple[int, int], options: WindowOptions) -> tuple[int, int]:
    """Returns (height, width) of the map of an image of size (h, w), over all scales."""
    return -(-size[0] // options.map_stride), -(-size[1] // options.map_stride)


def to_image(found: np.ndarray, grid: Grid, size: tuple[int, int], stride: int) -> np.ndarray:
    """Returns a map over the windows of one scale at the places of the map of the image.

    found: float32 `grid.map_size`. size: (h, w) of the image; stride: its pixels per value. Linear
    between values; the same values at scale 1.
    """
    for axis, (length, scaled_length) in enumerate(
        zip(size, (grid.height, grid.width), strict=True)
    ):
        at = (np.arange(-(-length // stride)) + 0.5) * stride * scaled_length / length
        at = np.clip(at / grid.cell - 0.5, 0, found.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(found.shape[axis] - 2, 0))
        part = (at - low).astype(np.float32)
        if not part.any() and len(low) == found.shape[axis]:
            continue
        part = part[:, None] if axis == 0 else part
        below = np.take(found, low, axis)
        high = np.take(found, np.minimum(low + 1, found.shape[axis] - 1), axis)
        found = below + part * (high - below)
    return found


def count_windows(size: tuple[int, int], options: WindowOptions) -> int:
    """Returns the number of windows of an image of size (h, w), over all scales."""
    return sum(len(Grid.of(size, options, factor)) for factor in options.scales)
