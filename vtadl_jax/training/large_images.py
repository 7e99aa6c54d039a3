"""What windows of large images ask of a detector and of the images, checked and said at the start.

The windows themselves are of `data/windows.py`, `data/crops.py` and `evaluation/windowed.py`.
"""

import itertools
from collections.abc import Sequence

from vtadl_jax.config import Config, check_windows
from vtadl_jax.data.crops import TILE, tiles_of
from vtadl_jax.data.decode import size_of
from vtadl_jax.data.pipeline import EXTENT
from vtadl_jax.data.records import Record
from vtadl_jax.data.regions.region import Regions
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.windows import MOST_WINDOWS, count_windows
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.text_table import plural
from vtadl_jax.training.stored import make_geometry

LOOKED_AT = 16  # images whose sizes are told


def check_detector(config: Config, detector: Detector) -> list[str]:
    """Returns lines on what windows mean to a detector; none without windows.

    Raises UserError for options that do not fit together, and for a detector to which windows from
    anywhere in an image mean nothing.
    """
    check_windows(config)
    side = config.data.windows.side
    if not side:
        return []
    where = f"data.windows.side {side}: detector {config.detector!r}"
    if detector.only_positions:
        raise UserError(
            f"{where} models each place of an aligned image by itself, and windows are cut from "
            f"anywhere: use configs/baseline_filters.py or configs/patch_memory.py, or side 0"
        )
    if "label" in detector.needs:
        raise UserError(
            f"{where} learns from the labels of whole images, which windows do not have: use one "
            f"that learns from masks or from good images, or side 0"
        )
    if detector.positions:
        names = ", ".join(detector.positions)
        return [f"note: {names}: with data.windows, positions are those within a window"]
    return []


def describe_windows(config: Config, records: Sequence[Record]) -> list[str]:
    """Returns lines on the windows of a few images; none without windows.

    Raises UserError for images with too many of them.
    """
    windows = config.data.windows
    if not windows.side or not records:
        return []
    step = -(-len(records) // LOOKED_AT)
    some = [(record, size_of(record.image)) for record in records[::step]]
    sizes = dict.fromkeys(size for _, size in some)
    counts = {size: count_windows(size, windows) for size in sizes}
    largest = max(counts, key=lambda size: counts[size])
    if counts[largest] > MOST_WINDOWS:
        raise UserError(
            f"data.windows: an image of {_size(largest)} has {counts[largest]:,} windows: use a "
            f"larger side or a smaller overlap"
        )
    scales = ", ".join(f"{factor:g}" for factor in windows.scales)
    line = (
        f"windows of {windows.side}×{windows.side} pixels at scale {scales}: {counts[largest]} in "
        f"an image of {_size(largest)} (width×height); maps have a value per {windows.map_stride} "
        f"pixels"
    )
    small = [size for _, size in some if min(size) * max(windows.scales) < windows.side]
    lines = [line]
    if small:
        lines.append(
            f"note: {len(small)} of {plural(len(some), 'image')} looked at are smaller than a "
            f"window (as {_size(small[0])}): their edges are repeated to fill it"
        )
    return lines


def crops_to_train(config: Config, records: Sequence[Record]) -> Sequence[Record]:
    """Returns what the train feed reads: the images, or large crops of them with windows."""
    return tiles_of(records, config.data.windows, config.data.bits)


def say_crops(config: Config, crops: Sequence[Record]) -> list[str]:
    """Returns a line on the crops that training reads; none without windows."""
    if not config.data.windows.side:
        return []
    side = TILE * config.data.windows.side
    images = sum(1 for _ in itertools.groupby(record.name.rpartition(" (")[0] for record in crops))
    return [
        f"training reads {plural(len(crops), 'crop')} of {side}×{side} pixels of {images} images, "
        f"an epoch; a step takes a random window of each"
    ]


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"


def make_feed_geometry(config: Config, regions: Regions | None = None) -> Geometry:
    """Returns the geometry of the images that a train step takes: those of `make_geometry`, or the
    larger crops that the step takes windows of."""
    if not config.data.windows.side:
        return make_geometry(config, regions)
    height, width = config.image_size
    return Geometry((TILE * height, TILE * width), None, "stretch", config.data.bits)


def needs_of(config: Config, detector: Detector) -> frozenset[str]:
    """Returns what a train step reads of a batch beside the images."""
    return detector.needs | ({EXTENT} if config.data.windows.side else set())
