"""Adds images to the training set of a source, and leaves some out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtadl_jax.data.finding import find_images
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.errors import UserError, printable

NAMED = 5  # names in a line


def add_images(splits: Splits, folders: Sequence[str]) -> Splits:
    """Returns the splits with images added to the good training images.

    folders: of images, or image files. Their names start with `more/` and the entry's number. Notes
    say how many there are, and what was not read. Raises UserError for a folder without images and
    for an entry that is gone.
    """
    records, notes, files = list(splits.train), list(splits.notes), list[str]()
    for number, folder in enumerate(folders):
        path = Path(folder).expanduser()
        if path.is_file():
            records.append(Record(path, None, 0, "good", f"more/{number}/{path.name}"))
            files.append(folder)
            continue
        if not path.is_dir():
            raise UserError(
                f"data.more {printable(folder)}: no such folder or file: put its images back, or "
                f"leave it out"
            )
        try:
            found = find_images(folder)
        except UserError as error:
            raise UserError(f"data.more {str(error).removeprefix('--input ')}") from error
        records += [
            Record(path, None, 0, "good", f"more/{number}/{found.name(path)}")
            for path in found.images
        ]
        notes.append(f"data.more: {len(found.images)} good images of {printable(folder)}")
        left = [*(name for name, _ in found.left_out), *found.passed_over]
        if left:
            notes.append(f"data.more: not read in {printable(folder)}: {_named(left)}")
    if files:
        notes.append(f"data.more: {len(files)} good image files: {_named(files)}")
    return replace(splits, train=tuple(records), notes=tuple(notes))


def leave_out(splits: Splits, names: Sequence[str]) -> Splits:
    """Returns the splits without the training images of these names; a note says which.

    Raises UserError for a name that is not in the training set, and if no good image is left.
    """
    known = {record.name for record in splits.train}
    if missing := [name for name in names if name not in known]:
        raise UserError(
            f"data.without {_named(missing)}: not among the {len(known)} training images: give "
            f"names as images.json of the run has them"
        )
    kept = tuple(record for record in splits.train if record.name not in names)
    if not any(record.label == 0 for record in kept):
        raise UserError(f"data.without leaves no good training image of {len(known)}")
    note = f"data.without: {len(splits.train) - len(kept)} left out: {_named(names)}"
    return replace(splits, train=kept, notes=(*splits.notes, note))


def leave_out_trimmed(splits: Splits, names: Sequence[str]) -> Splits:
    """Returns the splits without the good training images of these names, as far as they are there.

    Raises UserError if no good image is left.
    """
    gone = set(names)
    kept = tuple(record for record in splits.train if record.label or record.name not in gone)
    if gone and not any(record.label == 0 for record in kept):
        raise UserError(f"data.trimmed leaves no good training image of {len(splits.train)}")
    return replace(splits, train=kept)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if names[NAMED:] else ""
    return ", ".join(map(printable, names[:NAMED])) + more
