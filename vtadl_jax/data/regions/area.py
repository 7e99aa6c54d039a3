"""Reads a file of `data.regions`, a mask or polygons, as the pixels that are inspected."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vtadl_jax.data.decode import load_mask
from vtadl_jax.data.formats import EXTENSIONS
from vtadl_jax.data.regions.polygons import Drawn, Points, read_polygons
from vtadl_jax.errors import UserError

JSON = ".json"
KINDS = ", ".join((JSON, *sorted(EXTENSIONS)))
ASPECT = 1.0  # px by which the sides may differ once scaled to the image's


@dataclasses.dataclass(frozen=True, eq=False)
class Area:
    """What a file of `data.regions` says. pixels: bool [h, w], true where images are inspected.

    notes: lines on what was read otherwise than it may seem.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def read_area(path: Path) -> Area:
    """Reads a mask (white is inspected, black ignored) or polygons in JSON.

    Raises UserError for a file of another kind, one that can't be read, and one that ignores all.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"data.regions {path}: no such file: give a mask or polygons ({KINDS})")
    if suffix == JSON:
        drawn = read_polygons(path)
        pixels, notes = rasterized(drawn), drawn.notes
    elif suffix in EXTENSIONS:
        try:
            pixels, notes = load_mask(path), ()
        except UserError as error:
            raise UserError(f"data.regions {path} is no mask: {error}") from error
    else:
        raise UserError(f"data.regions {path}: {suffix or 'no ending'}: use one of {KINDS}")
    if not pixels.any():
        raise UserError(
            f"data.regions {path} ignores every pixel: draw where to inspect, white in a mask"
        )
    if pixels.all():
        notes = (*notes, f"note: data.regions {path} ignores no pixel: everything is inspected")
    return Area(pixels, notes)


def rasterized(drawn: Drawn) -> np.ndarray:
    """Returns the pixels that polygons inspect, bool [h, w]: those whose centres are in a polygon
    to inspect, all pixels if there is none, and in no polygon to ignore."""
    inspected = _union(drawn.size, drawn.inspect) if drawn.inspect else np.ones(drawn.size, bool)
    return inspected & ~_union(drawn.size, drawn.ignore)


def _union(size: tuple[int, int], polygons: tuple[Points, ...]) -> np.ndarray:
    canvas = Image.new("1", size[::-1])
    pen = ImageDraw.Draw(canvas)
    for points in polygons:
        # Pillow's coordinates are those of pixels' centres.
        pen.polygon([(x - 0.5, y - 0.5) for x, y in points], fill=1)
    return np.array(canvas)


def at_size(area: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels inspected of an image of `size` (height, width), bool [h, w].

    Scaled by the nearest pixel if the image has another size of the same aspect. Raises UserError
    for another aspect.
    """
    if area.shape == tuple(size):
        return area
    check_aspect(area.shape, size)
    scaled = Image.fromarray(area).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.array(scaled)


def check_aspect(area: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Raises UserError if a region (height, width) and an image are of different aspects."""
    if not same_aspect(area, size):
        raise UserError(
            f"data.regions is {area[1]}×{area[0]} and an image {size[1]}×{size[0]} (width×height), "
            f"not of the same aspect: give regions at the images' size"
        )


def same_aspect(area: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Returns whether two sizes (height, width) are of one aspect, to a pixel of either."""
    apart = abs(area[0] * size[1] - area[1] * size[0])
    return apart <= ASPECT * max(*area, *size)
