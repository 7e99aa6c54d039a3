"""Draws defects onto photographs of good parts, with exact masks.

`draw_defect` changes an area of a random kind, size, strength and place of an image of any size,
grey or RGB. It works on a window around the area, so large images cost no more. These defects are
not those of a product: they show what a detector can see. `defects.py` has those of rendered parts,
`drawn_set.py` writes files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtadl_jax.data.masks import regions_of
from vtadl_jax.data.synthetic.dataset import VISIBLE
from vtadl_jax.errors import UserError

LEVELS = round(VISIBLE * 255)  # smaller changes of a pixel are not visible, and not in the mask
SMALLEST, USUAL, LARGEST = 0.03, 0.25, 0.8  # diameter of an area, as a share of the shorter side
LARGE_SHARE = 0.2  # of the areas are above the usual size, in kinds that may be large
LEAST_PIXELS = 12  # visibly changed ones
LEAST_SHARE = 0.25  # of the area, visibly changed
SPECK = 4  # pixels; smaller separate regions are undone
ATTEMPTS = 60

Array = NDArray[np.float32]
Image = NDArray[np.uint8]
Others = Callable[[np.random.Generator], Image]


@dataclass(frozen=True)
class Window:
    """Part of an image around an area to change, in float32.

    pixels: [h, w, C] of 0 … 255. u, v: coordinates along and across the area, in pixels from its
    centre, [h, w]. size: diameter of the area in pixels. cloud: smooth noise of unit variance,
    [h, w]. other: a window of equal shape from another image.
    """

    pixels: Array
    u: Array
    v: Array
    size: float
    cloud: Array
    other: Array

    def blob(self, rng: np.random.Generator, softness: float) -> Array:
        """Returns the cover, 0 … 1, of an irregular oval. softness: width of its edge, 0 … 1."""
        oval = np.hypot(self.u, self.v * rng.uniform(1.0, 1.8)) / (self.size / 2)
        distance = (1 - oval - 0.25 * self.cloud) * self.size / 2  # pixels, positive inside
        width = max(softness * self.size / 2, 1.0)
        return np.clip(distance / width + 0.5 * (softness == 0), 0, 1).astype(np.float32)


Drawn = tuple[NDArray[Any], NDArray[Any]]  # cover [h, w] of 0 … 1, and what it shows [h, w, C]


def _shift(rng: np.random.Generator, channels: int, tint: float) -> NDArray[np.float64]:
    """Returns grey levels to add to each channel, 8 to 80. tint: how much channels differ."""
    level = rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(8), np.log(80)))
    return level * (1 + tint * rng.uniform(-1, 1, channels))


def _scratch(window: Window, rng: np.random.Generator) -> Drawn:
    half = window.size / 2
    width = max(0.7, rng.uniform(0.01, 0.06) * window.size)
    bend = rng.uniform(-0.5, 0.5) / half
    along, across = window.u / half, window.v - bend * (window.u**2 - half**2 / 3)
    ends = np.clip((1 - np.abs(along)) * 4, 0, 1)
    cover = (np.clip(width / 2 + 0.5 - np.abs(across), 0, 1) * ends).astype(np.float32)
    return cover, window.pixels + _shift(rng, window.pixels.shape[2], 0.2)


def _spot(window: Window, rng: np.random.Generator) -> Drawn:
    return window.blob(rng, 0.0), window.pixels + _shift(rng, window.pixels.shape[2], 0.4)


def _pasted(window: Window, rng: np.random.Generator) -> Drawn:
    return window.blob(rng, 0.0), window.other


def _piece(window: Window, rng: np.random.Generator) -> Drawn:
    """A piece of the neighbourhood once more, or missing: filled in from around."""
    from scipy import ndimage  # imports slowly, and only drawing needs it

    cover = window.blob(rng, 0.0)
    if rng.random() < 0.5:
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2) * window.size
        shift = (far * np.sin(angle), far * np.cos(angle), 0)
        return cover, ndimage.shift(window.pixels, shift, order=1, mode="mirror")
    kept, wide = (cover == 0).astype(np.float32), max(window.size / 4, 1.0)
    weight = ndimage.gaussian_filter(kept, wide) + 1e-3
    sums = ndimage.gaussian_filter(window.pixels * kept[..., None], (wide, wide, 0))
    around = sums / weight[..., None] + 1e-3 * window.pixels.mean((0, 1))
    return cover, around


def _displaced(window: Window, rng: np.random.Generator) -> Drawn:
    """The surface pushed along a direction, most in the middle."""
    from scipy import ndimage

    strength = rng.uniform(0.15, 0.45) * window.size
    push = strength * np.exp(-4 * (window.u**2 + window.v**2) / window.size**2)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[: push.shape[0], : push.shape[1]].astype(np.float32)
    places = [rows + push * np.sin(angle), columns + push * np.cos(angle)]
    channels = np.moveaxis(window.pixels, -1, 0)
    moved = [ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in channels]
    cover = np.clip(2 - np.hypot(window.u, window.v) / (window.size / 2), 0, 1)
    return cover.astype(np.float32), np.stack(moved, -1)


def _smooth(window: Window, rng: np.random.Generator) -> Drawn:
    from scipy import ndimage

    sigma = rng.uniform(0.1, 0.3) * window.size
    return window.blob(rng, 0.2), ndimage.gaussian_filter(window.pixels, (sigma, sigma, 0))


def _tone(window: Window, rng: np.random.Generator) -> Drawn:
    """Another brightness, contrast or colour."""
    mean = window.pixels.mean((0, 1))
    gain = np.exp(rng.uniform(-0.6, 0.6))
    shown = mean + (window.pixels - mean) * gain + _shift(rng, window.pixels.shape[2], 0.6)
    return window.blob(rng, 0.1), shown


def _stain(window: Window, rng: np.random.Generator) -> Drawn:
    """A patchy film with soft edges, darker or lighter."""
    cover = window.blob(rng, 0.8) * np.clip(0.75 + 0.25 * np.roll(window.cloud, 7, 1), 0, 1)
    return cover, window.pixels + _shift(rng, window.pixels.shape[2], 0.5)


KINDS: dict[str, Callable[[Window, np.random.Generator], Drawn]] = {
    "scratch": _scratch,
    "spot": _spot,
    "pasted": _pasted,
    "piece": _piece,
    "displaced": _displaced,
    "smooth": _smooth,
    "tone": _tone,
    "stain": _stain,
}
MAY_BE_LARGE = ("pasted", "smooth", "tone", "stain")


def draw_defect(
    image: Image, kind: str, rng: np.random.Generator, other: Others
) -> tuple[Image, NDArray[np.bool_]]:
    """Returns a copy of an image with a defect, and its mask: uint8 as `image`, bool [h, w].

    image: uint8 [h, w] or [h, w, 3]. other: draws another image of the set, for pasted areas. The
    mask holds every pixel that changed by LEVELS or more in a channel, and the gaps between them. A
    defect is drawn again, elsewhere and of another size, if fewer than LEAST_PIXELS pixels change
    so, or less than LEAST_SHARE of its area. Raises UserError if none of ATTEMPTS is visible.
    """
    pixels = image[..., None] if image.ndim == 2 else image
    for _ in range(ATTEMPTS):
        found = _attempt(pixels, kind, rng, other)
        if found is not None:
            changed, mask = found
            return changed.reshape(image.shape), mask
    raise UserError(
        f"a defect of kind {kind!r} is not visible in any of {ATTEMPTS} places of an image of "
        f"{image.shape[1]}×{image.shape[0]} (width×height): give larger images, or images that "
        f"are not of one color"
    )


def _attempt(
    pixels: Image, kind: str, rng: np.random.Generator, other: Others
) -> tuple[Image, NDArray[np.bool_]] | None:
    side = min(pixels.shape[:2])
    share = np.exp(rng.uniform(np.log(SMALLEST), np.log(USUAL)))
    if kind in MAY_BE_LARGE and rng.random() < LARGE_SHARE:
        share = rng.uniform(USUAL, LARGEST)
    if kind == "scratch":
        share *= 2
    size = max(share * side, 3.0)
    row, column = _place(pixels, rng)
    reach = round(1.2 * size) + 4
    rows = slice(max(row - reach, 0), row + reach + 1)
    columns = slice(max(column - reach, 0), column + reach + 1)
    clean = pixels[rows, columns]
    window = _window(clean, (row - rows.start, column - columns.start), size, rng, other)
    cover, shown = KINDS[kind](window, rng)
    mixed = window.pixels + cover[..., None] * (shown - window.pixels)
    after = np.rint(mixed.clip(0, 255)).astype(np.uint8)
    after, mask, visible = _marked(clean, after, cover > 0.05, round(size / 24))
    if visible < max(LEAST_PIXELS, LEAST_SHARE * (cover > 0.5).sum()):
        return None
    changed, whole = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    changed[rows, columns], whole[rows, columns] = after, mask
    return changed, whole


def _marked(
    clean: Image, after: Image, area: NDArray[np.bool_], gap: int
) -> tuple[Image, NDArray[np.bool_], int]:
    """Returns the changed pixels without specks, their mask, and how many are visible.

    gap: half the width, in pixels, of gaps within `area` that the mask closes.
    """
    from scipy import ndimage

    change = np.abs(after.astype(np.int16) - clean).max(-1)
    visible = change >= LEVELS
    gap = max(gap, 1)
    padded = np.pad(visible, gap)  # closing shrinks at the border
    closed = ndimage.binary_closing(padded, np.ones((3, 3)), gap)[gap:-gap, gap:-gap]
    mask = visible | (ndimage.binary_fill_holes(closed) & area)
    regions = regions_of(mask)
    specks = mask & (np.bincount(regions.ravel())[regions] < SPECK)
    after = np.where(specks[..., None], clean, after)
    return after, mask & ~specks, int((visible & ~specks).sum())


def _place(pixels: Image, rng: np.random.Generator) -> tuple[int, int]:
    """Returns (row, column) of a defect: of a few places, sooner one where the image has structure.

    A part on a plain background is so hit more often than the background.
    """
    height, width = pixels.shape[:2]
    rows = rng.integers(round(0.05 * height), max(round(0.95 * height), 1), 4)
    columns = rng.integers(round(0.05 * width), max(round(0.95 * width), 1), 4)
    reach = max(min(height, width) // 16, 2)
    spread = [
        pixels[max(r - reach, 0) : r + reach, max(c - reach, 0) : c + reach].std() + 1.0
        for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    chosen = int(rng.choice(4, p=np.array(spread) / sum(spread)))
    return int(rows[chosen]), int(columns[chosen])


def _window(
    clean: Image, centre: tuple[int, int], size: float, rng: np.random.Generator, other: Others
) -> Window:
    from scipy import ndimage

    height, width = clean.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = rows - centre[0], columns - centre[1]
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    noise = rng.standard_normal((height, width)).astype(np.float32)
    cloud = ndimage.gaussian_filter(noise, max(size / 6, 1.0))
    return Window(
        clean.astype(np.float32),
        cos * columns + sin * rows,
        cos * rows - sin * columns,
        size,
        cloud / (cloud.std() + 1e-6),
        _cut(other(rng), clean.shape, rng),
    )


def _cut(image: Image, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Returns a window of [h, w, C] from a random place of an image, mirrored if it is smaller."""
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.shape[2] != shape[2]:
        pixels = pixels[..., :1].repeat(shape[2], 2) if shape[2] > 1 else pixels.mean(-1)[..., None]
    short = [max(need - have, 0) for need, have in zip(shape[:2], pixels.shape[:2], strict=True)]
    if any(short):
        pixels = np.pad(pixels, [(0, short[0]), (0, short[1]), (0, 0)], mode="symmetric")
    top, left = (
        int(rng.integers(have - need + 1))
        for need, have in zip(shape[:2], pixels.shape[:2], strict=True)
    )
    return pixels[top : top + shape[0], left : left + shape[1]].astype(np.float32)
