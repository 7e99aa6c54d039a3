"""Finds the images that a user names, and accounts for every other file there. Reads no pixels."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vtadl_jax.data.files import LITTER
from vtadl_jax.data.formats import EXTENSIONS, looks_like_image
from vtadl_jax.data.records import natural_key
from vtadl_jax.errors import UserError, printable

KINDS = ", ".join(sorted(EXTENSIONS))


@dataclass
class Found:
    """Files below `root`, each in one list.

    images: to be read, in natural order. left_out: what looks like an image, or may hold some, and
    is not read: its name and the reason. passed_over: names of files that are no images.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Returns the name of a file: its path below the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()


def find_images(pattern: str) -> Found:
    """Finds the images in a folder and its sub-folders, one file, or the files of a glob pattern.

    In a folder, an image is known by its ending (`formats.EXTENSIONS`) and hidden files are passed
    over; of a pattern, every file counts as an image. Raises UserError if there are no images.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = _in_folder(path)
    elif os.path.lexists(path):
        found = Found(path.parent, [path])
    else:
        found = _of_pattern(path)
    found.images.sort(key=lambda image: natural_key(found.name(image)))
    found.left_out.sort(key=lambda item: natural_key(item[0]))
    found.passed_over.sort(key=natural_key)
    if not found.images:
        others = [f"{printable(name)} {reason}" for name, reason in found.left_out]
        more = f" and {len(others) - 1} more" if others[1:] else ""
        seen = f" ({others[0]}{more})" if others else ""
        raise UserError(
            f"--input {printable(pattern)}: no images there{seen}: give a folder, a file or a "
            f"pattern of images ({KINDS})"
        )
    return found


def _in_folder(root: Path) -> Found:
    found = Found(root)
    for path, unlisted in _walk(root):
        name = found.name(path)
        if unlisted:
            found.left_out.append((name, unlisted))
        elif any(part.startswith(".") for part in Path(name).parts) or path.name.lower() in LITTER:
            found.passed_over.append(name)
        elif path.suffix.lower() in EXTENSIONS:
            found.images.append(path)
        elif looks_like_image(path):
            found.left_out.append((name, f"is of a kind that is not read ({KINDS} are)"))
        else:
            found.passed_over.append(name)
    entered = {parent for image in found.images for parent in image.parents}
    found.left_out = [
        (name, reason) for name, reason in found.left_out if root / name not in entered
    ]
    return found


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Yields every file below `root`; and folders that are not entered, or are named as images,
    with the reason."""
    faults: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=faults.append):
        for name in files:
            yield Path(folder, name), ""
        for name in folders:
            path = Path(folder, name)
            if path.is_symlink():
                yield path, "is a link to a folder, which is not entered: give it as --input"
            elif path.suffix.lower() in EXTENSIONS:
                yield path, "is a folder without images"
    for fault in faults:
        yield Path(fault.filename), f"can't be listed: {fault.strerror}"


def _of_pattern(pattern: Path) -> Found:
    matches = sorted({Path(p) for p in glob.iglob(str(pattern), recursive=True)})  # noqa: PTH207
    files = [path for path in matches if not path.is_dir()]
    root = Path(os.path.commonpath([path.parent for path in files])) if files else pattern
    found = Found(root, files)
    holding = {parent for path in files for parent in path.parents}
    for folder in matches:
        if folder.is_dir() and folder not in holding:
            name = os.path.relpath(folder, root) if files else str(folder)
            found.left_out.append((name, "is a folder: give it as --input, or end with /**"))
    return found
