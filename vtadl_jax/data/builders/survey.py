"""Surveys a raw data set before anything is written: its root, its images and masks with checksums
and sizes, and whether they are grey.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from PIL import Image

from vtadl_jax.data.decode import image_size
from vtadl_jax.data.files import list_entries
from vtadl_jax.data.formats import FORMATS
from vtadl_jax.data.records import Record, Splits, check_images, missing_masks, natural_key
from vtadl_jax.data.sources.layouts import Layout, read_layout
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError, printable

DEPTH = 3  # largest nesting depth of a data set in an archive or below --source
Progress = Callable[[Iterable, int, str], Iterable]


def silent(items: Iterable, total: int, what: str) -> Iterable:
    return items


class NoDataSet(UserError):
    """Error: a folder holds no data set in a known layout."""


@dataclass(frozen=True)
class Root:
    """Root folder of a data set, and its categories; [''] for a root that is one category."""

    path: Path
    layout: Layout
    categories: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(category or self.path.resolve().name for category in self.categories)

    def folder(self, category: str) -> Path:
        return self.path if self.categories == ("",) else self.path / category


@dataclass(frozen=True)
class Survey:
    """Survey of a category: its records, sha256 of each file (by name relative to it), (height,
    width) of each image by record name, 1 channel if all are grey else 3, bytes of the files, and
    lines for the user on what was read otherwise than it may seem."""

    splits: Splits
    files: dict[str, str]
    sizes: dict[str, tuple[int, int]]
    channels: int
    num_bytes: int
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """The numbers of images by split and defect, in the order of the records."""
        found: dict[str, dict[str, int]] = {}
        for name, records in (("train", self.splits.train), ("test", self.splits.test)):
            for record in records:
                kinds = found.setdefault(name, {})
                kinds[record.defect] = kinds.get(record.defect, 0) + 1
        return found


def find_root(folder: Path, layouts: Sequence[Layout]) -> Root:
    """Finds the data set in `folder` or at most DEPTH folders below it; the least deep one.

    Raises NoDataSet if there is none, and UserError if there are several at that depth.
    """
    level = [folder]
    for _ in range(DEPTH + 1):
        found = [root for path in level for root in _roots(path, layouts)]
        if len(found) > 1:
            several = " and ".join(str(root.path) for root in found[:2])
            raise UserError(f"{folder} holds several data sets, {several}: give one as --source")
        if found:
            return found[0]
        level = [sub for path in level for sub in list_entries(path) if sub.is_dir()]
    wanted = " or ".join(f"train/{layout.good}" for layout in layouts)
    raise NoDataSet(f"no folder {wanted} with images in {folder}: give the data set's as --source")


def _roots(path: Path, layouts: Sequence[Layout]) -> list[Root]:
    for layout in layouts:
        if (path / "train" / layout.good).is_dir():
            return [Root(path, layout, ("",))]
    for layout in layouts:
        named = [e.name for e in list_entries(path) if (e / "train" / layout.good).is_dir()]
        if named:
            return [Root(path, layout, tuple(sorted(named, key=natural_key)))]
    return []


def survey(
    root: Root,
    category: str,
    progress: Progress = silent,
    workers: int = 4,
    size: tuple[int, int] | None = None,
) -> Survey:
    """Reads every file of a category once. size: of the records, if not the original one. Raises
    UserError for faults in folders and files."""
    base = root.folder(category)
    splits = _printable(read_layout(root.layout, base))
    splits = replace(splits, category=category)  # base may be a link
    lines = check_images(splits, geometry=Geometry(size) if size else None)
    records = splits.train + splits.test
    files: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    grey, num_bytes = True, 0
    with ThreadPoolExecutor(workers) as pool:
        seen = pool.map(_look, records)
        for record, looked in zip(
            records, progress(seen, len(records), f"read {splits.category}"), strict=True
        ):
            sizes[record.name], record_grey, contents = looked
            grey = grey and record_grey
            for path, digest, length in contents:
                files[printable(path.relative_to(base).as_posix())] = digest
                num_bytes += length
    notes = (*splits.notes, *missing_masks(splits), *lines)
    return Survey(splits, files, sizes, 1 if grey else 3, num_bytes, notes)


def _printable(splits: Splits) -> Splits:
    """Returns records whose names a manifest can hold, whatever bytes those of the files have."""

    def named(records: Sequence[Record]) -> tuple[Record, ...]:
        return tuple(
            replace(r, name=printable(r.name), defect=printable(r.defect)) for r in records
        )

    return replace(splits, train=named(splits.train), test=named(splits.test))


def file_of(record: Record) -> Path:
    """Returns the image's path: a layout's records are files."""
    assert isinstance(record.image, Path)
    return record.image


def _look(record: Record) -> tuple[tuple[int, int], bool, list[tuple[Path, str, int]]]:
    """Returns the image's size, whether it is grey, and path, checksum and length of its files."""
    contents, grey = [], True
    for path in (record.image, record.mask):
        if not isinstance(path, Path):
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        contents.append((path, sha256(content).hexdigest(), len(content)))
        if path is record.image:
            grey = _is_grey(content)
    return image_size(file_of(record)), grey, contents


def _is_grey(content: bytes) -> bool:
    """Returns whether `load_image` gives one channel: no colours, palette or transparency."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        plain = image.mode in ("1", "L") or image.mode.startswith(("I", "F"))
        return plain and not image.has_transparency_data
