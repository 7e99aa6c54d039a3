"""Writes the anomalous regions of new images: a table, and annotations in the form of COCO."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.evaluation.regions import Region, find_regions
from vtadl_jax.report.names import cell
from vtadl_jax.runtime.files import write_json

COLUMNS = (
    *("name", "region", "top", "left", "bottom", "right", "area", "share"),
    *("peak", "peak_row", "peak_column", "mean"),
)
MILLIMETRES = ("height_mm", "width_mm", "area_mm2")
MOST = 100  # regions of an image that are written


@dataclasses.dataclass
class Regions:
    """The regions of images so far, as rows of a table and as annotations of COCO.

    threshold: a pixel is anomalous if its map is this or more. mm_per_pixel: side of a pixel of the
    image; 0 if it is not known. min_area: regions of fewer pixels are left out. left_out: regions
    beyond the `MOST` with the highest peaks of their image.
    """

    threshold: float
    mm_per_pixel: float = 0.0
    min_area: int = 1
    left_out: int = 0
    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    annotations: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of the table."""
        return COLUMNS + MILLIMETRES if self.mm_per_pixel else COLUMNS

    def add(self, name: str, anomaly_map: np.ndarray) -> list[tuple[Any, ...]]:
        """Adds an image's regions, those with the highest peaks first; returns rows of the table.

        anomaly_map: float32 [h, w] at the image's own size. Areas are in pixels of it.
        """
        found = find_regions(anomaly_map, self.threshold, self.min_area)
        self.left_out += len(found[MOST:])
        height, width = anomaly_map.shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        self.annotations += [
            self._annotation(len(self.annotations) + i, number, region)
            for i, region in enumerate(found[:MOST], 1)
        ]
        return [
            (cell(name), i, *self._row(region, height * width))
            for i, region in enumerate(found[:MOST], 1)
        ]

    def _row(self, region: Region, pixels: int) -> tuple[Any, ...]:
        values = (f"{v:.6g}" for v in (region.area / pixels, region.peak))
        row = (*region.box, region.area, *values, *region.peak_at, f"{region.mean:.6g}")
        if not self.mm_per_pixel:
            return row
        top, left, bottom, right = region.box
        side = self.mm_per_pixel
        sizes = ((bottom - top) * side, (right - left) * side, region.area * side**2)
        return (*row, *(f"{size:.6g}" for size in sizes))

    def _annotation(self, number: int, image: int, region: Region) -> dict[str, Any]:
        top, left, bottom, right = region.box
        found = {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": region.area,
            "iscrowd": 0,
            "score": region.peak,
        }
        if self.mm_per_pixel:
            found["area_mm2"] = region.area * self.mm_per_pixel**2
        return found

    def save(self, path: Path) -> None:
        """Writes all regions as a file of COCO annotations, whole or not at all."""
        categories = [{"id": 1, "name": "anomaly", "supercategory": "defect"}]
        write_json(
            path,
            {
                "info": {"description": "regions found by vtadl_jax", "threshold": self.threshold},
                "images": self.images,
                "annotations": self.annotations,
                "categories": categories,
            },
            indent=None,
        )
