"""CIFAR-10: its binary batches, its Python batches, or the set as prepared by tfds.

Python batches are pickles, which may run any code when loaded: `plain_pickle` reads only what these
files need. Downloads nothing.
"""

from pathlib import Path

import numpy as np

from vtadl_jax.data.sources.one_class import ClassSet, Part, array_part, root_folder
from vtadl_jax.data.sources.plain_pickle import (
    PlainUnpickler,
    Refused,
    plain_array,
    plain_numbers,
)
from vtadl_jax.data.sources.tfds_classes import find_tfds, read_tfds
from vtadl_jax.errors import UserError

TITLE = "CIFAR-10"
SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
STEMS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
SIDE = 32
NUM_VALUES = 3 * SIDE * SIDE  # bytes of an image: red, green and blue planes, row by row
AGAIN = f"get {TITLE} again from {SITE}"

Batch = tuple[np.ndarray, np.ndarray]  # values uint8 [N, 3072], labels [N]


def read_cifar10(root: str | Path) -> ClassSet:
    """Reads CIFAR-10 from `root` or the archive's folder in it; images uint8 [N, 32, 32, 3].

    Raises UserError naming a batch that is missing, truncated, another file or unsafe.
    """
    folder = root_folder(root, TITLE, SITE)
    prepared = find_tfds(folder, "cifar10")
    if prepared is not None:
        return read_tfds(prepared, "cifar10", TITLE, CLASSES)
    files, binary = _find_files(folder)
    batches = [(read_binary if binary else read_pickle)(path) for path in files]
    sizes = [len(labels) for _, labels in batches]
    for path, size in zip(files[:5], sizes[:5], strict=True):
        if size != max(sizes[:5]):
            raise UserError(
                f"{path} holds {size} images, but other batches {max(sizes[:5])}: {AGAIN}"
            )
    return ClassSet(TITLE, CLASSES, _part("train", batches[:5]), _part("test", batches[5:]))


def _find_files(root: Path) -> tuple[list[Path], bool]:
    """Returns the six batches and whether they are binary."""
    kinds = (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", ""))
    for name, suffix in kinds:
        for folder in (root, root / name):
            files = [folder / f"{stem}{suffix}" for stem in STEMS]
            there = [path.name for path in files if path.is_file()]
            if len(there) == len(files):
                return files, suffix == ".bin"
            if there:
                missing = ", ".join(path.name for path in files if path.name not in there)
                raise UserError(
                    f"{folder} lacks {missing} of {TITLE} (there: {', '.join(there)}): {AGAIN}"
                )
    raise UserError(
        f"{root} holds neither data_batch_1.bin and so on nor data_batch_1: get {TITLE}'s binary "
        f"or Python version from {SITE} and unpack it there"
    )


def read_binary(path: Path) -> Batch:
    """Reads records of one label byte and 3072 pixel bytes."""
    content = _content(path)
    length = 1 + NUM_VALUES
    if not content or len(content) % length:
        raise UserError(
            f"{path} holds {len(content)} bytes, not a multiple of {length} (it is cut short, or "
            f"not of {TITLE}): {AGAIN}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, length)
    return rows[:, 1:], _checked_labels(path, rows[:, 0])


def read_pickle(path: Path) -> Batch:
    """Reads a dict with 'data', uint8 [N, 3072], and 'labels', a list of N numbers."""
    content = _content(path)
    try:
        loaded = PlainUnpickler(content).load()
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in loaded.items()}
        values, labels = plain_array(batch["data"]), plain_numbers(batch["labels"])
    except Refused as error:
        raise UserError(f"{path} asks for {error}, which {TITLE} never does: {AGAIN}") from error
    except Exception as error:  # a damaged pickle may raise any exception
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or no batch of {TITLE} ({why}): {AGAIN}") from error
    if values.dtype != np.uint8 or values.shape != (len(labels), NUM_VALUES) or not len(labels):
        raise UserError(
            f"{path} holds data {values.dtype} {values.shape} and {len(labels)} labels, not uint8 "
            f"(N, {NUM_VALUES}) and N numbers: {AGAIN}"
        )
    return values, _checked_labels(path, labels)


def _checked_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise UserError(
            f"{path} has labels from {labels.min()} to {labels.max()}, {TITLE} from 0 to "
            f"{len(CLASSES) - 1}: {AGAIN}"
        )
    return labels


def _part(split: str, batches: list[Batch]) -> Part:
    labels = np.concatenate([labels for _, labels in batches])
    images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    start = 0
    for values, _ in batches:
        planes = values.reshape(-1, 3, SIDE, SIDE)
        images[start : start + len(planes)] = planes.transpose(0, 2, 3, 1)
        start += len(planes)
    return array_part(split, images, labels)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}, check permissions") from error
