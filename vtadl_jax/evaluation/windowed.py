"""Scores large images by their windows: batches of windows through one compiled step, one map.

Memory beyond the image and its map is that of a batch of windows, whatever the image's size.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.decode import load_mask_of, loaded
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.windows import Grid, cut, map_size, scaled, to_image
from vtadl_jax.detectors.contract import Detector, Scores, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.scorer import Scorer
from vtadl_jax.evaluation.window_scales import Seen, whole_map, whole_terms
from vtadl_jax.ops.pillow_resize import Resampling, resize_maps

Item = TypeVar("Item")
Made = TypeVar("Made")


def cells_detector(detector: Detector, options: WindowOptions) -> Detector:
    """Returns the detector with maps in cells, [B, n, n] with n = side / map_stride, and without
    reconstructions and the maps of single experts."""
    cells = options.side // options.map_stride

    def score(variables: Variables, images: jax.Array) -> Scores:
        found = detector.score(variables, images)
        if found.anomaly_map is None:
            return Scores(found.terms)
        height, width = found.anomaly_map.shape[1:]
        along, across = (Resampling(n, cells, 0, cells) for n in (height, width))
        maps = found.anomaly_map
        same = (height, width) == (cells, cells)
        return Scores(found.terms, maps if same else resize_maps(maps, along, across))

    return dataclasses.replace(detector, score=score, experts=None)


def look(
    scorer: Scorer,
    variables: Variables,
    pixels: np.ndarray,
    options: WindowOptions,
    geometry: Geometry,
    channels: int,
) -> Seen:
    """Scores all windows of an image at each scale. Every process calls it with the same image.

    scorer: of `cells_detector`. pixels: uint8 [h, w] or [h, w, C]. geometry: of the network's size.
    """
    terms, maps = [], []
    size = (pixels.shape[0], pixels.shape[1])
    for factor in options.scales:
        grid, whole = Grid.of(size, options, factor), None
        image, found = scaled(pixels, factor), []
        batches = range(0, len(grid), scorer.batch_size)

        def windows(first: int, image: np.ndarray = image, grid: Grid = grid) -> np.ndarray:
            rows = scorer.batch_size // jax.process_count()
            first += jax.process_index() * rows
            places = [grid.place(i) for i in range(first, min(first + rows, len(grid)))]
            taken = [geometry.image(cut(image, *at, grid.side), channels) for at in places]
            blank = np.zeros((*geometry.size, channels), np.uint8)
            return np.stack(taken + [blank] * (rows - len(taken)))

        for first, batch in zip(batches, ahead(windows, batches), strict=True):
            scores = scorer(variables, batch)
            count = min(scorer.batch_size, len(grid) - first)
            found.append(scores.terms[:count])
            if scores.anomaly_map is not None:
                whole = np.zeros(grid.map_size, np.float32) if whole is None else whole
                grid.add(whole, scores.anomaly_map[:count], first)
        terms.append(np.concatenate(found))
        if whole is not None:
            maps.append(to_image(whole, grid, size, options.map_stride))
    return Seen(tuple(terms), tuple(maps))


def whole_scores(seen: Seen, calibration: Calibration | None) -> Scores:
    """Returns terms [1, T] and map [1, h, w] of an image from what was seen in its windows.

    calibration: None before it is known; only `seen` counts then.
    """
    scales = calibration.windows if calibration else ()
    weights, limit = (calibration.weights, calibration.credit_limit) if calibration else ((), None)
    found = whole_map(scales, seen)
    terms = whole_terms(scales, seen, weights, limit)
    return Scores(terms[None], None if found is None else found[None])


def check_calibration(calibration: Calibration, options: WindowOptions) -> None:
    """Raises UserError unless a calibration is of windows at these scales."""
    if tuple(scale.factor for scale in calibration.windows) != options.scales:
        raise UserError(
            "the calibration is not of windows at the scales of data.windows.scales: evaluate the "
            "run again"
        )


def batches(
    scorer: Scorer,
    variables: Variables,
    records: Sequence[Record],
    options: WindowOptions,
    geometry: Geometry,
    channels: int,
    calibration: Calibration | None,
) -> Iterator[tuple[dict[str, Any], Scores, Seen]]:
    """Yields (batch, scores, what was seen) of each image, as `Evaluator.batches`, in batches of
    one. The image and its mask have the size of its map."""

    def read(index: int) -> tuple[np.ndarray, dict[str, Any]]:
        record = records[index]
        with loaded(record.image, channels, geometry.bits) as pixels:
            return pixels, _example(record, index, pixels, options, geometry, channels)

    for pixels, batch in ahead(read, range(len(records))):
        seen = look(scorer, variables, pixels, options, geometry, channels)
        yield batch, whole_scores(seen, calibration), seen


def _example(
    record: Record,
    index: int,
    pixels: np.ndarray,
    options: WindowOptions,
    geometry: Geometry,
    channels: int,
) -> dict[str, Any]:
    """Returns a batch of one image at the size of its map. Raises UserError for its mask."""
    size = (pixels.shape[0], pixels.shape[1])
    small = Geometry(map_size(size, options))
    mask, thin = np.zeros(small.size, np.uint8), 0
    if record.label and record.mask is not None:
        mask, thin = small.mask_and_thin(load_mask_of(record.image, record.mask, size))
    one = {
        "image": small.image(pixels, channels),
        "mask": mask,
        "label": np.int32(record.label),
        "has_mask": np.bool_(record.label == 0 or record.mask is not None),
        "num_thin": np.int32(thin),
        "index": np.int32(index),
        "valid": np.bool_(True),
        "description": describe(geometry.image(pixels, channels)[None])[0],
    }
    return {name: np.asarray(value)[None] for name, value in one.items()}


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yields make(item) of each item; a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in items:
            following = pool.submit(make, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
