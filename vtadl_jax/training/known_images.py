"""Remembers which images a run was trained and tested on, and compares them with those of now.

images.json in the workdir holds each image's name and a mark of its content. The folders' places
are not in it: data that moved are the same images.
"""

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.decode import ImageRef
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import read_json, write_json

IMAGES = "images.json"
SAMPLE = 4096  # bytes in the middle of a file; files without compression are all of one size
PLACES = ("root", "bad", "masks")  # fields of `data` that say where the images are

Marks = Mapping[str, Mapping[str, str]]


def marks_of(splits: Splits, workers: int = 8) -> dict[str, dict[str, str]]:
    """Returns {'train': {name: mark}, 'test': …}; reads a few kilobytes of each file."""
    with ThreadPoolExecutor(workers) as pool:

        def marked(records: Sequence[Record]) -> dict[str, str]:
            return dict(zip((r.name for r in records), pool.map(_mark, records), strict=True))

        return {"train": marked(splits.train), "test": marked(splits.test)}


def _mark(record: Record) -> str:
    mask = "" if record.mask is None else f"+{_mark_of(record.mask)}"
    region = "" if record.region is None else f"@{_mark_of(record.region)}"
    return f"{_mark_of(record.image)}{mask}{region}"


def _mark_of(ref: ImageRef) -> str:
    """Returns a short text that differs for other content."""
    if isinstance(ref, Path):
        try:
            with ref.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max((size - SAMPLE) // 2, 0))
                return f"{size}-{zlib.crc32(file.read(SAMPLE)):08x}"
        except OSError as error:
            raise UserError(f"cannot read {ref}: {error.strerror}, check permissions") from error
    if isinstance(ref, np.ndarray):
        return f"{zlib.crc32(ref.tobytes()):08x}"
    return ref.mark


def save_marks(workdir: Path, marks: Marks) -> None:
    """Writes images.json, atomically."""
    write_json(workdir / IMAGES, {"format": 1, **marks})


def load_marks(workdir: Path) -> Marks | None:
    """Returns the marks of a run, None for a run of an earlier version and a damaged file."""
    try:
        stored = read_json(workdir / IMAGES)
        return {split: dict(stored[split]) for split in ("train", "test")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclasses.dataclass(frozen=True)
class Difference:
    """Names of images that are new, gone, or of other content; and the number of equal ones."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    same: int

    @classmethod
    def between(cls, before: Mapping[str, str], now: Mapping[str, str]) -> "Difference":
        both = [name for name in now if name in before]
        changed = tuple(name for name in both if now[name] != before[name])
        return cls(
            tuple(name for name in now if name not in before),
            tuple(name for name in before if name not in now),
            changed,
            len(both) - len(changed),
        )

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = []
        for what in ("added", "removed", "changed"):
            names = getattr(self, what)
            if names:
                parts.append(f"{len(names)} {what} (for example {names[0]})")
        return ", ".join(parts)


def differences(before: Marks, now: Marks) -> dict[str, Difference]:
    """Returns the difference of the training and of the test images."""
    return {name: Difference.between(before[name], now[name]) for name in ("train", "test")}


def trained_and_tested(before: Marks, now: Marks) -> list[str]:
    """Returns the test images of now that were training or calibration images of the run."""
    return [name for name in now["test"] if name in before["train"]]


def describe(found: Mapping[str, Difference]) -> str:
    """Returns the differences in words, '' if there are none."""
    names = {"train": "training images", "test": "test images"}
    return "; ".join(f"{names[split]}: {found[split]}" for split in names if found[split])


def check_images_of_run(workdir: Path, config: Config, stored: Config, now: Marks) -> list[str]:
    """Compares a run's images with those of now, before it continues; returns lines for the user.

    stored: the run's config. Raises UserError if the run was trained on another data set: its
    folders were changed in the config and images differ, or less than half of them are the same.
    """
    before = load_marks(workdir)
    if before is None:
        return [
            f"note: {workdir} has no readable {IMAGES} (runs of earlier versions have none), so it "
            f"is not checked whether its images are still the same"
        ]
    found = differences(before, now)
    text = describe(found)
    if not text:
        return []
    moved = [n for n in PLACES if _place(config, n) != _place(stored, n)]
    train, test = found["train"], found["test"]
    other = train.same * 2 < len(before["train"]) or (moved and train)
    if other or (test and {"bad", "masks"} & set(moved)):
        there = ", ".join(f"data.{n}={getattr(stored.data, n)!r}" for n in moved)
        masks = (
            ""
            if moved != ["masks"] or train or test.added or test.removed
            else (
                f"; only the masks differ: to evaluate with them, run python -m vtadl_jax.evaluate "
                f"--workdir {workdir} --data_masks={config.data.masks or 'DIR'}"
            )
        )
        raise UserError(
            f"workdir {workdir} holds a run of other images{f' ({there})' if there else ''}: "
            f"{text}: give another --workdir, or remove that one{masks}"
        )
    return [f"warning: since this run was started, images have changed: {text}"]


def _place(config: Config, name: str) -> str:
    value = getattr(config.data, name)
    return str(Path(value).expanduser().resolve()) if value else ""
