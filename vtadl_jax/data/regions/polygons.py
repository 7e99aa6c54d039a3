"""Reads polygons of what to inspect or to ignore from JSON in the forms of LabelMe and COCO.

Reads text and numbers only: which pixels the polygons hold is for `area.py`.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.files import read_json

INSPECT, IGNORE = "inspect", "ignore"
FORMS = (
    "give LabelMe's form ('shapes', 'imageHeight', 'imageWidth') or COCO's ('images', "
    "'annotations', 'categories')"
)
LARGEST_SIDE = 2**16  # px
Points = list[tuple[float, float]]  # (x, y) in pixels; a pixel's centre is at its number + 0.5


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Polygons in a file. size: (height, width) of their image. inspect, ignore: their points.

    notes: lines on what was read otherwise than it may seem.
    """

    size: tuple[int, int]
    inspect: tuple[Points, ...]
    ignore: tuple[Points, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape of a file: the name of its category and its outlines."""

    label: str
    outlines: tuple[Points, ...]


def read_polygons(path: Path) -> Drawn:
    """Reads a JSON file. Raises UserError, with the place in the file, for anything else."""
    try:
        found = read_json(path)
    except OSError as error:
        raise UserError(f"data.regions {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"data.regions {path} can't be read ({error}): {FORMS}") from error
    return of_json(path, found)


def of_json(path: Path, found: Mapping[str, Any]) -> Drawn:
    """Returns the polygons in the content of a JSON file. Raises UserError as `read_polygons`."""
    if "shapes" in found:
        size, shapes = _labelme(path, found)
    elif "annotations" in found and "images" in found:
        size, shapes = _coco(path, found)
    else:
        keys = ", ".join(map(printable, list(found)[:6])) or "nothing"
        raise UserError(f"data.regions {path} has {keys}: {FORMS}")
    if not shapes:
        raise UserError(
            f"data.regions {path} has no polygon: draw one, or leave data.regions empty"
        )
    return _sorted(path, size, shapes)


def _sorted(path: Path, size: tuple[int, int], shapes: Sequence[Shape]) -> Drawn:
    """Returns shapes by what is to be done with them. A file with one other category than
    'inspect' and 'ignore' is one of what to inspect."""
    labels = list(dict.fromkeys(shape.label for shape in shapes))
    others = [label for label in labels if label not in (INSPECT, IGNORE)]
    notes: list[str] = []
    if others and len(labels) > 1:
        names = ", ".join(repr(printable(label)) for label in labels)
        raise UserError(
            f"data.regions {path} has the categories {names}: which are inspected? Call them "
            f"'{INSPECT}' and '{IGNORE}'"
        )
    if others:
        notes.append(
            f"note: data.regions {path}: the shapes of category {printable(others[0])!r} are what "
            f"is inspected ('{IGNORE}' would ignore them)"
        )
    chosen: dict[bool, list[Points]] = {True: [], False: []}
    for shape in shapes:
        chosen[shape.label == IGNORE] += shape.outlines
    for number, points in enumerate((*chosen[False], *chosen[True]), 1):
        notes += _outside(path, size, number, points)
    return Drawn(size, tuple(chosen[False]), tuple(chosen[True]), tuple(notes))


def _outside(path: Path, size: tuple[int, int], number: int, points: Points) -> Iterator[str]:
    """Yields a line on a polygon that leaves its image. Raises UserError for one beside it."""
    low, high = np.min(points, 0), np.max(points, 0)
    sides = np.array(size[::-1])
    where = f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}"
    image = f"its image of {size[1]}×{size[0]} (width×height)"
    if (high <= 0).any() or (low >= sides).any():
        raise UserError(f"data.regions {path}: polygon {number} ({where}) is beside {image}")
    if (low < -1).any() or (high > sides + 1).any():
        yield f"note: data.regions {path}: polygon {number} ({where}) is cut by {image}"


def _labelme(path: Path, found: Mapping[str, Any]) -> tuple[tuple[int, int], list[Shape]]:
    size = _size(path, found.get("imageHeight"), found.get("imageWidth"), "imageHeight, imageWidth")
    shapes = []
    for number, shape in enumerate(_list(path, found, "shapes")):
        place = f"shapes[{number}]"
        if not isinstance(shape, Mapping):
            raise UserError(f"data.regions {path}: {place} is {shape!r:.40}, no shape")
        kind = shape.get("shape_type") or "polygon"
        points = _points(path, f"{place}.points", shape.get("points"))
        if kind == "rectangle" and len(points) == 2:
            (left, top), (right, bottom) = points
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        elif kind == "circle" and len(points) == 2:
            points = _circle(*points)
        elif kind != "polygon":
            raise UserError(
                f"data.regions {path}: {place} is a {printable(str(kind))!r}: use polygons, "
                f"rectangles or circles"
            )
        shapes.append(
            Shape(_label(path, place, shape.get("label")), (_closed(path, place, points),))
        )
    return size, shapes


def _circle(centre: tuple[float, float], edge: tuple[float, float]) -> Points:
    radius = math.dist(centre, edge)
    angles = (2 * math.pi * i / 90 for i in range(90))
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _coco(path: Path, found: Mapping[str, Any]) -> tuple[tuple[int, int], list[Shape]]:
    images = _list(path, found, "images")
    if len(images) != 1 or not isinstance(images[0], Mapping):
        raise UserError(
            f"data.regions {path} has {len(images)} images: give a file of one image for the whole "
            f"set, or a folder with a file for each, named like it"
        )
    size = _size(path, images[0].get("height"), images[0].get("width"), "images[0].height, width")
    names: dict[Any, str] = {}
    for number, category in enumerate(_list(path, found, "categories")):
        place = f"categories[{number}]"
        if not isinstance(category, Mapping) or not isinstance(category.get("id"), int):
            raise UserError(f"data.regions {path}: {place} has no id")
        names[category["id"]] = _label(path, place, category.get("name"))
    shapes = []
    for number, shape in enumerate(_list(path, found, "annotations")):
        place = f"annotations[{number}]"
        if not isinstance(shape, Mapping) or shape.get("category_id") not in names:
            raise UserError(f"data.regions {path}: {place} has no category_id of 'categories'")
        outlines = shape.get("segmentation")
        if not isinstance(outlines, list) or not outlines:
            raise UserError(
                f"data.regions {path}: {place}.segmentation is no list of polygons: save polygons, "
                f"or the mask as an image"
            )
        flat = [_pairs(path, f"{place}.segmentation[{i}]", x) for i, x in enumerate(outlines)]
        closed = tuple(_closed(path, place, points) for points in flat)
        shapes.append(Shape(names[shape["category_id"]], closed))
    return size, shapes


def _pairs(path: Path, place: str, values: Any) -> Points:
    """Returns x, y, x, y … as points."""
    if not isinstance(values, list) or len(values) % 2:
        raise UserError(f"data.regions {path}: {place} is no list x, y, x, y, …")
    return _points(
        path, place, [list(pair) for pair in zip(values[::2], values[1::2], strict=True)]
    )


def _points(path: Path, place: str, values: Any) -> Points:
    if not isinstance(values, list):
        raise UserError(f"data.regions {path}: {place} is {values!r:.40}: give [[x, y], …]")
    for i, point in enumerate(values):
        numbers = isinstance(point, list) and len(point) == 2
        if not numbers or not all(type(x) in (int, float) and abs(x) < 1e9 for x in point):
            raise UserError(
                f"data.regions {path}: {place}[{i}] is {point!r:.60}: give two finite numbers x, y"
            )
    return [(float(x), float(y)) for x, y in values]


def _closed(path: Path, place: str, points: Points) -> Points:
    if len(set(points)) < 3:
        raise UserError(
            f"data.regions {path}: {place} has {len(set(points))} different points: a polygon has "
            f"3 or more"
        )
    return points


def _label(path: Path, place: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"data.regions {path}: {place} has no name: give '{INSPECT}' or '{IGNORE}'")
    known = value.strip().lower()
    return known if known in (INSPECT, IGNORE) else value.strip()


def _list(path: Path, found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    if not isinstance(value, list):
        raise UserError(f"data.regions {path}: {name} is no list: {FORMS}")
    return value


def _size(path: Path, height: Any, width: Any, names: str) -> tuple[int, int]:
    for side in (height, width):
        if type(side) is not int or not 0 < side <= LARGEST_SIDE:
            raise UserError(
                f"data.regions {path}: {names} are {height!r}, {width!r}: give the sides of the "
                f"image in pixels"
            )
    return height, width


def to_labelme(
    size: tuple[int, int], shapes: Sequence[tuple[str, Sequence[Sequence[float]]]], image: str
) -> dict[str, Any]:
    """Returns the file of drawn polygons in LabelMe's form. shapes: (label, points); image: its
    file's name."""
    return {
        "version": "5.0.0",
        "flags": {},
        "shapes": [
            {
                "label": label,
                "points": [[float(x), float(y)] for x, y in points],
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for label, points in shapes
        ],
        "imagePath": image,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
