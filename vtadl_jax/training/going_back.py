"""Goes back to an earlier run of a line of updates: copies its folder, bit for bit."""

import shutil
from pathlib import Path

from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.files import temporary_name, writing
from vtadl_jax.runtime.lock import LOCK
from vtadl_jax.training.known_images import load_marks
from vtadl_jax.training.stored import has_checkpoint
from vtadl_jax.training.updates import Update, load_updates


def go_back(workdir: Path, number: int, output: Path) -> str:
    """Copies the run after update `number`, 0 for the one before the first; returns a line on it.

    Raises UserError if the run has fewer updates, if the folder of that time is gone or holds other
    images now, and if `output` is not free.
    """
    updates = load_updates(workdir)
    if number > len(updates) or not updates:
        raise UserError(
            f"--back {number}: {workdir} has {len(updates)} updates: see them with --history"
        )
    source = workdir if number == len(updates) else folder_after(updates, number)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not an empty folder: give another")
    if not has_checkpoint(source):
        raise UserError(
            f"--back {number}: the run of that time, {printable(source)}, is gone: update "
            f"{workdir} with --remove instead, by the names that --history shows"
        )
    expected = images_after(workdir, updates, number)
    if (load_marks(source) or {}).get("train") != expected:
        raise UserError(
            f"--back {number}: {printable(source)} holds a run of other images than at that time: "
            f"update {workdir} with --remove instead, by the names that --history shows"
        )
    temporary = temporary_name(output)
    try:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, temporary, symlinks=True, ignore=shutil.ignore_patterns(LOCK))
            if output.is_dir():
                output.rmdir()
            temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    what = f"after update {number}" if number else "before the first update"
    return f"{output} is a copy of the run {what}, {printable(source)}, of {len(expected)} images"


def folder_after(updates: list[Update], number: int) -> Path:
    """Returns the folder of the run after an update, as it was named then."""
    return Path(updates[number - 1].workdir if number else updates[0].source)


def images_after(workdir: Path, updates: list[Update], number: int) -> dict[str, str]:
    """Returns the marks of the training images of that time, from those of now and the history."""
    found = dict((load_marks(workdir) or {"train": {}})["train"])
    for update in reversed(updates[number:]):
        found = {name: mark for name, mark in found.items() if name not in update.added}
        found |= update.removed
    return found
