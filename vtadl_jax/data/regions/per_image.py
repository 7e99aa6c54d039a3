"""Finds the file of `data.regions` of each image, where they are a folder of files."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from vtadl_jax.data.decode import size_of
from vtadl_jax.data.files import list_entries
from vtadl_jax.data.formats import EXTENSIONS
from vtadl_jax.data.records import MOST_NAMED, Record, Splits
from vtadl_jax.data.regions.area import JSON, at_size, read_area
from vtadl_jax.errors import UserError, printable


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files of a folder of `data.regions`, by the names of their images without ending.

    root: the folder. files: its files by path below it, in lower case; by_stem: by the name alone,
    those that only one file has.
    """

    root: Path
    files: dict[str, Path]
    by_stem: dict[str, Path]

    @classmethod
    def of(cls, root: Path) -> "Folder":
        """Lists a folder and its sub-folders. Raises UserError for two files of one image."""
        found: dict[str, Path] = {}
        stems: dict[str, list[Path]] = {}
        for path in _files(root):
            key = path.relative_to(root).with_suffix("").as_posix().lower()
            if key in found:
                raise UserError(
                    f"data.regions {root}: {found[key].name} and {path.name} are of one image: "
                    f"remove one of them"
                )
            found[key] = path
            stems.setdefault(path.stem.lower(), []).append(path)
        if not found:
            raise UserError(f"data.regions {root}: no mask or JSON file in this folder")
        return cls(root, found, {stem: paths[0] for stem, paths in stems.items() if not paths[1:]})

    def file_of(self, name: str) -> Path | None:
        """Returns the file of the image of this name, a path as records have it; None without.

        The end of the path that most of its folders share with a file wins; then the file's name
        alone, if one file only has it.
        """
        parts = PurePosixPath(name.lower()).with_suffix("").parts
        for start in range(len(parts)):
            if (path := self.files.get("/".join(parts[start:]))) is not None:
                return path
        return self.by_stem.get(parts[-1]) if parts else None


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for entry in list_entries(folder):
        if entry.is_dir():
            found += _files(entry)
        elif entry.suffix.lower() in EXTENSIONS or entry.suffix.lower() == JSON:
            found.append(entry)
    return found


def is_per_image(regions: str) -> bool:
    """Returns whether a value of `data.regions` is a folder of files."""
    return bool(regions) and Path(regions).expanduser().is_dir()


def add_regions(splits: Splits, regions: str) -> Splits:
    """Returns the splits with each image's file of `data.regions`, a folder; a note says how many.

    Raises UserError if an image has none, for a file that can't be read and for one that is not of
    its image's aspect.
    """
    folder = Folder.of(Path(regions).expanduser())
    parts, used = [], set[Path]()
    for records in (splits.train, splits.test):
        found = [dataclasses.replace(r, region=folder.file_of(r.name)) for r in records]
        parts.append(tuple(found))
        used |= {record.region for record in found if isinstance(record.region, Path)}
    missing = [r.name for part in parts for r in part if r.region is None]
    if missing:
        names = ", ".join(map(printable, missing[:MOST_NAMED]))
        more = f" and {len(missing) - MOST_NAMED} more" if missing[MOST_NAMED:] else ""
        total = sum(map(len, parts))
        raise UserError(
            f"data.regions {regions}: {len(missing)} of {total} images have no file there "
            f"({names}{more}): add one for each, white where all is inspected"
        )
    notes = [f"data.regions: a file for each of {sum(map(len, parts))} images in {regions}"]
    left = sorted(set(folder.files.values()) - used)
    if left:
        notes.append(
            f"note: {len(left)} files of data.regions are of no image (for example {left[0]})"
        )
    notes += check_files([record for part in parts for record in part])
    return dataclasses.replace(splits, train=parts[0], test=parts[1], notes=(*splits.notes, *notes))


def check_files(records: Sequence[Record], workers: int = 8) -> list[str]:
    """Reads every file once; returns lines on what was read otherwise than it may seem."""

    def look(record: Record) -> tuple[str | None, tuple[str, ...], bool]:
        assert isinstance(record.region, Path), "the missing ones were refused"
        try:
            area, size = read_area(record.region), size_of(record.image)
            at_size(area.pixels, size)
        except UserError as error:
            text = str(error)
            named = text if str(record.region) in text else f"{record.region}: {text}"
            return named, (), False
        return None, area.notes, area.pixels.shape != size

    with ThreadPoolExecutor(workers) as pool:
        looks = list(pool.map(look, records))
    faults = [text for text, _, _ in looks if text]
    if faults:
        more = f" (and {len(faults) - 1} more files with faults)" if faults[1:] else ""
        raise UserError(faults[0] + more)
    notes = list(dict.fromkeys(line for _, lines, _ in looks for line in lines))
    scaled = sum(other for _, _, other in looks)
    shown = notes[:MOST_NAMED]
    if notes[MOST_NAMED:]:
        shown.append(f"note: {len(notes) - MOST_NAMED} more lines of this kind on data.regions")
    if scaled:
        shown.append(f"note: {scaled} files of data.regions are scaled to their images' size")
    return shown
