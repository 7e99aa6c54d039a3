"""Puts the files of a report into the workdir: all of them together, when all are complete.

They are written into a hidden folder beside their places. An evaluation that fails or is stopped
leaves thresholds, results and pictures as they were. Pictures in overlays/ that the program did not
draw stay.
"""

import contextlib
import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.results import RESULTS_FILE
from vtadl_jax.evaluation.trained_run import CALIBRATION
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import (
    check_places,
    not_written,
    read_json,
    temporary_name,
    write_json,
    writing,
)
from vtadl_jax.runtime.preemption import uninterrupted

OVERLAYS, OVERVIEW, SCORES, PAGE = "overlays", "overview.png", "scores.csv", "report.html"
# In the order in which they take their places: results.json marks a complete report.
FILES = (OVERVIEW, SCORES, PAGE, CALIBRATION, RESULTS_FILE)
DRAWN = ".overlays.json"  # the names of the pictures in overlays/ that the program drew


def overlay_name(record_name: str) -> str:
    """Returns the file name of an image's overlay."""
    return f"{Path(record_name.removeprefix('test/').replace('/', '_')).stem}.png"


def check_place(out: Path) -> None:
    """Raises UserError if something else is in the place of a report's files."""
    check_places(out, (*FILES, DRAWN), (OVERLAYS,))


@contextlib.contextmanager
def draft(out: Path) -> Iterator[Path]:
    """Makes a folder for the files of a report, and moves them to `out` at the end of the context.

    The folder holds overlays/. If anything is raised inside the context, it is removed, and `out`
    stays as it was. Raises UserError if a file can't be written.
    """
    check_place(out)
    folder = temporary_name(out / "report")
    try:
        (folder / OVERLAYS).mkdir(parents=True)
        yield folder
        check_place(out)
        with uninterrupted():
            _publish(folder, out)
    except UserError as error:  # names the file where the user looks for it
        raise UserError(str(error).replace(str(folder), str(out))) from error
    except OSError as error:
        place = Path(os.fsdecode(error.filename)) if error.filename else out / OVERLAYS
        told = not_written(place, error)
        raise UserError(str(told).replace(str(folder), str(out))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Path) -> None:
    _publish_overlays(folder / OVERLAYS, out)
    for name in FILES:
        with writing(out / name):
            if (folder / name).exists():
                (folder / name).replace(out / name)
            else:  # as overview.png, where there is nothing to show
                (out / name).unlink(missing_ok=True)


def _publish_overlays(folder: Path, out: Path) -> None:
    """Replaces the pictures that the program drew before by those in `folder`."""
    place, new = out / OVERLAYS, {path.name for path in folder.iterdir()}
    old = {name for name in drawn_before(out) if (place / name).is_file()}
    taken = {name for name in new - old if os.path.lexists(place / name)}
    if taken:
        say(
            f"note: {len(taken)} pictures in {place} were not drawn by the program and stay, for "
            f"example {min(taken)}: remove them and evaluate again for those of the same names"
        )
    with writing(place):
        place.mkdir(exist_ok=True)
        write_json(out / DRAWN, {"drawn": sorted(old | new - taken)})  # also if this is cut short
        for name in sorted(new - taken):
            (folder / name).replace(place / name)
        for name in sorted(old - new):
            (place / name).unlink(missing_ok=True)
        write_json(out / DRAWN, {"drawn": sorted(new - taken)})


def drawn_before(out: Path) -> set[str]:
    """Returns the names of the overlays of the evaluation before; never names elsewhere."""
    try:
        names = read_json(out / DRAWN).get("drawn")
    except FileNotFoundError:
        names = _scored_before(out)
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list):
        return set()
    plain = (name for name in names if isinstance(name, str) and name.endswith(".png"))
    return {name for name in plain if Path(name).name == name}


def _scored_before(out: Path) -> list[str]:
    """Returns the names that version 0.1 gave to the pictures of the images in scores.csv."""
    try:
        with (out / SCORES).open(newline="", encoding="utf-8") as file:
            return [overlay_name(row["name"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return []
