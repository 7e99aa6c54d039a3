"""Tiny image trees for the tests of this folder; holds no tests."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError


def write(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    """Write an array or a PIL image, with the folders it needs; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def grey(value: int, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    return np.full(size, value, np.uint8)


def tree(root: Path, train: int = 3, good: int = 2, scratch: int = 2) -> Path:
    """train/good, test/good, test/scratch and masks; image i of a folder is grey with value i."""
    for i in range(train):
        write(root / "train" / "good" / f"{i}.png", grey(i))
    for i in range(good):
        write(root / "test" / "good" / f"{i}.png", grey(i))
    for i in range(scratch):
        write(root / "test" / "scratch" / f"{i}.png", grey(i))
        write(root / "ground_truth" / "scratch" / f"{i}_mask.png", grey(255))
    return root


def records(folder: Path, count: int, size: tuple[int, int] = (8, 6)) -> tuple[Record, ...]:
    """`count` normal records; the pixels of image i all have the value i."""
    paths = [write(folder / f"{i}.png", grey(i, size)) for i in range(count)]
    return tuple(Record(path, None, 0, "good", f"train/good/{path.name}") for path in paths)


def truncate(path: Path, keep: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def noise(size: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@contextmanager
def fails(*parts: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a UserError whose text is one line that contains the parts in this order."""
    with pytest.raises(UserError) as caught:
        yield caught
    # Not pytest's `match`: it also reads the notes that grain hangs on exceptions.
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(".*".join(re.escape(str(part)) for part in parts), text), text
