"""The regions of a run (`data.regions`): read and checked at its start, and kept beside its config.

regions.npz in the workdir holds them, so that the file that they came from may move or change.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.decode import load_image, size_of
from vtadl_jax.data.pipeline import area_of
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.data.regions.area import read_area, same_aspect
from vtadl_jax.data.regions.per_image import is_per_image
from vtadl_jax.data.regions.region import Regions
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.training.stored import CONFIG, make_geometry
from vtadl_jax.weights.npz import read_npz

REGIONS = "regions.npz"
LOOKED_AT = 16  # training images that give the colour


def read_regions(config: Config, splits: Splits, workdir: Path) -> tuple[Regions | None, list[str]]:
    """Returns the regions of a run and lines about them; None if everything is inspected.

    A run that was started before keeps its own. config: with its number of channels. Raises
    UserError for a file that can't be read or does not fit the images, and for a run that was
    started with other regions.
    """
    stored = load_regions(workdir)
    started, place = (workdir / CONFIG).is_file(), Path(config.data.regions).expanduser()
    if stored is not None and config.data.regions and not place.exists():
        if stored.area is None:
            raise UserError(
                f"data.regions {config.data.regions}: this folder, with a file for each image, is "
                f"not there: give where it is now"
            )
        return stored, [f"note: data.regions {place} is not there: the run goes on with its own"]
    found: Regions | None = None
    lines: list[str] = []
    if config.data.regions:
        found, lines = _read(config, splits, stored)
    if started and (stored is not None or found is not None):
        if found is None or not found.same(stored):
            there = "other regions" if stored is not None else "none"
            raise UserError(
                f"data.regions {config.data.regions!r}: workdir {workdir} holds a run with "
                f"{there}: give another --workdir, or the regions that it was started with"
            )
        return stored, lines
    return found, lines


def check_regions(config: Config, workdir: Path) -> None:
    """Raises UserError for a file of a new run that can't be read, before any image is."""
    regions = config.data.regions
    if regions and not is_per_image(regions) and load_regions(workdir) is None:
        read_area(Path(regions).expanduser())


def _read(config: Config, splits: Splits, stored: Regions | None) -> tuple[Regions, list[str]]:
    good = [r for r in splits.train if not r.label] or list(splits.train)
    lines: list[str] = []
    few = [good[i] for i in np.linspace(0, len(good) - 1, min(LOOKED_AT, len(good))).astype(int)]
    if is_per_image(config.data.regions):
        regions = Regions((0,) * config.data.channels)
    else:
        path = Path(config.data.regions).expanduser()
        area = read_area(path)
        regions = Regions((0,) * config.data.channels, area.pixels)
        lines = [*area.notes, *_check_sizes(path, area.pixels, [*splits.train, *splits.test])]
        lines.append(f"data.regions: {area.pixels.mean():.1%} of each image are inspected ({path})")
    colour = stored.colour if stored else colour_of(few, make_geometry(config, regions), config)
    return Regions(colour, regions.area), lines


def _check_sizes(path: Path, area: np.ndarray, records: Sequence[Record]) -> list[str]:
    """Returns a line if the region is scaled to images. Raises UserError for other aspects."""
    stored = [r for r in records if not isinstance(r.image, Path)]  # decoded to know their size
    records = [r for r in records if isinstance(r.image, Path)]
    records += stored[:: max(len(stored) // LOOKED_AT, 1)]
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda r: size_of(r.image), records))
    for record, size in zip(records, sizes, strict=True):
        if not same_aspect(area.shape, size):
            raise UserError(
                f"data.regions {path} is {area.shape[1]}×{area.shape[0]}, but image {record.name} "
                f"is {size[1]}×{size[0]} (width×height), not of the same aspect: draw the regions "
                f"on one of the images, or give a folder with a file for each"
            )
    other = sum(size != area.shape for size in sizes)
    if not other:
        return []
    return [
        f"note: data.regions is {area.shape[1]}×{area.shape[0]} and scaled to the size of "
        f"{other} of {len(sizes)} images"
    ]


def colour_of(records: Sequence[Record], geometry: Geometry, config: Config) -> tuple[int, ...]:
    """Returns the median of each channel over the inspected pixels of images."""
    found = []
    for record in records:
        pixels = load_image(record.image, config.data.channels, config.data.bits)
        area, size = area_of(record, geometry), (pixels.shape[0], pixels.shape[1])
        image = geometry.image(pixels, config.data.channels, area)
        found.append(image[geometry.inside(size, area)])
    return tuple(int(v) for v in np.median(np.concatenate(found), axis=0))


def load_regions(workdir: Path) -> Regions | None:
    """Returns the regions of a run, None if it inspects everything. Raises UserError if damaged."""
    path = workdir / REGIONS
    return Regions.of_arrays(read_npz(path), path) if path.is_file() else None


def run_geometry(workdir: Path, config: Config) -> Geometry:
    """Returns the geometry of a run. Raises UserError if its regions are missing or damaged."""
    regions = load_regions(workdir)
    if regions is None and config.data.regions:
        raise UserError(
            f"{workdir / REGIONS}, where the run inspects images, is missing: put it back, or "
            f"train again"
        )
    return make_geometry(config, regions)
