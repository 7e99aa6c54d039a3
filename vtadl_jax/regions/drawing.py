"""An image and the polygons drawn on it: opened, checked and written. Serves nothing."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.regions.area import JSON, rasterized
from vtadl_jax.data.regions.polygons import (
    IGNORE,
    INSPECT,
    of_json,
    read_polygons,
    to_labelme,
)
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import write_json, writing

SHOWN_SIDE = 4096  # px; larger images are shown reduced
Shape = tuple[str, list[list[float]]]


@dataclasses.dataclass
class Drawing:
    """image: its file. output: where polygons are written. size: (height, width) of the image.
    picture: what the page shows, JPEG. shapes: (label, points), those saved last. saved: whether
    any were."""

    image: Path
    output: Path
    size: tuple[int, int]
    picture: bytes
    shapes: list[Shape]
    saved: bool = False

    def state(self) -> dict[str, Any]:
        """Returns what the page starts from."""
        return {
            "name": self.image.name,
            "output": str(self.output),
            "height": self.size[0],
            "width": self.size[1],
            "shapes": [{"label": label, "points": points} for label, points in self.shapes],
        }

    def save(self, posted: Any) -> dict[str, Any]:
        """Writes the polygons that the page sent, whole or not at all; returns what it shows.

        Raises UserError for polygons that `data.regions` would refuse, and if it can't be written.
        """
        shapes = posted.get("shapes") if isinstance(posted, dict) else None
        if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
            raise UserError("no list of shapes was sent")
        form = {
            "shapes": [
                {"label": shape.get("label"), "points": shape.get("points")} for shape in shapes
            ],
            "imageHeight": self.size[0],
            "imageWidth": self.size[1],
        }
        drawn = of_json(self.output, form)
        pixels = rasterized(drawn)
        if not pixels.any():
            raise UserError("the polygons ignore every pixel: draw where to inspect")
        pairs = [(INSPECT, points) for points in drawn.inspect]
        pairs += [(IGNORE, points) for points in drawn.ignore]
        write_json(self.output, to_labelme(self.size, pairs, self.image.name))
        self.shapes = [(label, [list(point) for point in points]) for label, points in pairs]
        self.saved = True
        return {"output": str(self.output), "share": float(pixels.mean()), "notes": drawn.notes}


def open_drawing(image: Path, output: Path) -> Drawing:
    """Returns the drawing of an image, with the polygons of `output` if that is there.

    Raises UserError for an image or a file that can't be read, a file of another image's size or
    form, and a place that can't be written.
    """
    pixels = load_image(image, 3)
    size = (pixels.shape[0], pixels.shape[1])
    if output.suffix.lower() != JSON:
        raise UserError(f"--output {output}: name a file that ends in {JSON}")
    with writing(output):
        if not output.resolve().parent.is_dir():
            raise UserError(f"--output {output}: {output.parent} is not a folder: create it first")
    shapes: list[Shape] = []
    if output.exists():
        drawn = read_polygons(output)
        if drawn.size != size:
            raise UserError(
                f"--output {output} is of an image of {drawn.size[1]}×{drawn.size[0]}, and {image} "
                f"is {size[1]}×{size[0]} (width×height): give another --output"
            )
        shapes = [(INSPECT, [list(p) for p in points]) for points in drawn.inspect]
        shapes += [(IGNORE, [list(p) for p in points]) for points in drawn.ignore]
    return Drawing(image, output, size, _picture(pixels), shapes)


def _picture(pixels: np.ndarray) -> bytes:
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92)
    return stream.getvalue()
