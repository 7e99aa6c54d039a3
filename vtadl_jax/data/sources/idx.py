"""MNIST, Fashion-MNIST and KMNIST: four idx files, compressed or not, or a set prepared by tfds.

The format: two zero bytes, the type (8: unsigned bytes), the number of dimensions, every dimension
as a big-endian 32-bit integer, then the values. Downloads nothing.
"""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtadl_jax.data.sources.one_class import ClassSet, Part, array_part, root_folder
from vtadl_jax.data.sources.tfds_classes import find_tfds, read_tfds
from vtadl_jax.errors import UserError


@dataclass(frozen=True)
class IdxSet:
    """Facts about a data set that its files do not hold."""

    title: str
    classes: tuple[str, ...]
    site: str


SETS = {
    "mnist": IdxSet("MNIST", tuple("0123456789"), "http://yann.lecun.com/exdb/mnist"),
    "fashion_mnist": IdxSet(
        "Fashion-MNIST",
        (
            "t-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle_boot",
        ),
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": IdxSet(
        "KMNIST",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        "http://codh.rois.ac.jp/kmnist",
    ),
}
LARGEST = 1 << 29  # bytes of an unpacked file; the largest of SETS has 47 million
STEMS = {"train": "train", "test": "t10k"}


def read_idx(root: str | Path, name: str) -> ClassSet:
    """Reads the set `name` of SETS from the folder `root`; images uint8 [N, 28, 28].

    File names are train-images-idx3-ubyte or train-images.idx3-ubyte, with or without '.gz', and
    so on. Raises UserError naming a file that is missing, truncated or of another format.
    """
    known = SETS[name]
    folder = root_folder(root, known.title, known.site)
    prepared = find_tfds(folder, name)
    if prepared is not None:
        return read_tfds(prepared, name, known.title, known.classes)
    files = _find_files(folder, known)
    train, test = (_read_part(files, split, known) for split in STEMS)
    return ClassSet(known.title, known.classes, train, test)


def _find_files(folder: Path, known: IdxSet) -> dict[tuple[str, int], Path]:
    """Finds the four files: (split, dimensions) → file."""
    found, missing = {}, []
    for split, stem in STEMS.items():
        for kind, ndim in (("images", 3), ("labels", 1)):
            name = f"{stem}-{kind}-idx{ndim}-ubyte"
            dotted = name.replace("-idx", ".idx")
            variants = [folder / f"{n}{end}" for n in (name, dotted) for end in ("", ".gz")]
            present = next(filter(Path.is_file, variants), None)
            if present is None:
                missing.append(name)
            else:
                found[split, ndim] = present
    if missing:
        there = ", ".join(path.name for path in found.values()) or "none of the four"
        raise UserError(
            f"{folder} lacks {', '.join(missing)} of {known.title} (there: {there}): get the "
            f"files, '.gz' or not, from {known.site}"
        )
    return found


def _read_part(files: dict[tuple[str, int], Path], split: str, known: IdxSet) -> Part:
    images = read_array(files[split, 3], 3, known.site)
    labels = read_array(files[split, 1], 1, known.site)
    if len(images) != len(labels):
        raise UserError(
            f"{files[split, 1]} has {len(labels)} labels for the {len(images)} images of "
            f"{files[split, 3].name}: get both again from {known.site}"
        )
    if labels.max(initial=0) >= len(known.classes):
        raise UserError(
            f"{files[split, 1]} has the label {labels.max()}, but {known.title} has the classes 0 "
            f"to {len(known.classes) - 1}: get it again from {known.site}"
        )
    return array_part(split, images, labels)


def read_array(path: Path, ndim: int, site: str) -> np.ndarray:
    """Reads an idx file of unsigned bytes as a read-only uint8 array of `ndim` dimensions.

    Raises UserError, with the download `site`, for other formats and for a truncated file.
    """
    again = f"get it again from {site}"
    content = _content(path, again)
    magic, start = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    if content[:4] != magic:
        raise UserError(
            f"{path} starts with '{content[:4].hex(' ')}', an idx file of {ndim} dimension(s) with "
            f"'{magic.hex(' ')}': {again}"
        )
    # A truncated header gives wrong sizes; the check of the length below finds them.
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    if len(content) != start + math.prod(sizes):
        raise UserError(
            f"{path} holds {len(content)} bytes, but by its header {start + math.prod(sizes)}: "
            f"{again}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _unpacked(path: Path, content: bytes) -> bytes:
    """Returns what a gzip file holds. Raises UserError for much more than these sets have."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise UserError(f"{path} holds more than {LARGEST} bytes, unlike any of these sets")
    return found


def _content(path: Path, remedy: str) -> bytes:
    try:
        content = path.read_bytes()
        # By content: browsers unpack files and keep the name.
        return _unpacked(path, content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut short or damaged ({error}): {remedy}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}, check permissions") from error
