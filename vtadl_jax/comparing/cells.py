"""The cells of a comparison, one method on one category each: which are run, kept, tried again.

A cell is a folder with its runs and `cell.json`. One that is complete is not run again; the runs of
one that was interrupted continue.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vtadl_jax.comparing import measures
from vtadl_jax.comparing.arguments import arguments_of
from vtadl_jax.comparing.budget import Budget, load_budget
from vtadl_jax.comparing.exporting import onnx_size
from vtadl_jax.comparing.making import COMPLETE, Cell, Protocol, estimate, make_cell, measure
from vtadl_jax.comparing.methods import METHODS, Method
from vtadl_jax.errors import TrainingDiverged, UserError, disk_trouble
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json, write_json
from vtadl_jax.runtime.text_table import plural
from vtadl_jax.selection.sets import ImageSet

CELL = "cell.json"
FAILED, SKIPPED = "failed", "skipped"


def run_cell(method: Method, image_set: ImageSet, protocol: Protocol) -> Cell:
    """Returns a complete cell: stored, continued or new; or one with the reason why it is not.

    Lets SIGTERM, Ctrl-C and a full disk through, which end all cells.
    """
    folder = protocol.folder(method, image_set)
    about: Cell = {"method": method.name, "category": image_set.name}
    try:
        arguments = arguments_of(
            method, image_set, protocol.weights, protocol.gaps.get(image_set.name, 0)
        )
    except UserError as error:
        return _store(folder, about | {"status": SKIPPED, "reason": str(error)})
    settings = {
        "arguments": arguments,
        "minutes": protocol.minutes,
        "num_folds": protocol.num_folds,
    }
    stored = load_cell(folder)
    if stored and stored["status"] == COMPLETE:
        check_settings(folder, stored, settings)
        return stored
    about |= settings
    try:
        cell = about | make_cell(method, arguments, folder, protocol)
    except Exception as error:
        if disk_trouble(error) is not None or not isolated(error):
            raise
        cell = about | {"status": FAILED, "reason": measures.one_line(error)}
    finally:
        jax.clear_caches()  # the programs of this method; the next has its own
    return _store(folder, cell)


def isolated(error: Exception) -> bool:
    """Returns whether an error is of one cell, and the others can go on."""
    return isinstance(
        error,
        UserError
        | TrainingDiverged
        | jax.errors.JaxRuntimeError
        | MemoryError
        | ArithmeticError
        | LookupError
        | TypeError
        | ValueError,
    )


def refresh_latency(method: Method, image_set: ImageSet, protocol: Protocol) -> Cell | None:
    """Measures memory, latency and ONNX of a complete cell again, without training."""
    folder = protocol.folder(method, image_set)
    cell = load_cell(folder)
    if cell is None or cell["status"] != COMPLETE:
        return None
    place = folder / cell["folds"][0]["run"]
    cell |= measure(place, load_budget(folder) or Budget())
    if protocol.tpu:
        cell["latency"] |= estimate(place, method, protocol)
    cell["onnx"] = onnx_size(place)
    jax.clear_caches()
    return _store(folder, cell)


def load_cell(folder: Path) -> Cell | None:
    """Returns a stored cell, None if there is none. Raises UserError for one that is damaged."""
    path = folder / CELL
    try:
        cell = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{path} can't be read ({error}): remove it to run again") from error
    if cell.get("status") not in (COMPLETE, FAILED, SKIPPED):
        raise UserError(f"{path} is not a cell of a comparison: remove it to run again")
    return cell


def stored_cells(workdir: Path, categories: Iterable[str]) -> list[Cell]:
    """Returns all cells of a workdir: of these categories first, in order, then of the others."""
    others = sorted(path.parent.parent.name for path in workdir.glob(f"*/*/{CELL}"))
    places = [
        workdir / category / method
        for category in dict.fromkeys((*categories, *others))
        for method in METHODS
    ]
    return [cell for place in places if (cell := load_cell(place)) is not None]


def check_settings(folder: Path, stored: Cell, settings: Mapping[str, Any]) -> None:
    """Raises UserError if a stored cell is that of other settings."""
    for name, value in settings.items():
        if stored.get(name) != value:
            raise UserError(
                f"{folder} holds a cell with {name} {stored.get(name)!r}, not {value!r}: give "
                f"another --workdir, or remove that folder"
            )


def _store(folder: Path, cell: Cell) -> Cell:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CELL, cell)
    if cell["status"] != COMPLETE:
        say(f"{cell['category']}, {cell['method']}: {cell['status']}: {cell['reason']}")
    return cell


def counted(cells: Sequence[Cell]) -> str:
    """Returns the numbers of cells by status, in words."""
    numbers = {status: sum(c["status"] == status for c in cells) for status in (FAILED, SKIPPED)}
    complete = len(cells) - sum(numbers.values())
    more = "".join(f", {number} {status}" for status, number in numbers.items() if number)
    return f"{plural(complete, 'complete cell')}{more}"
