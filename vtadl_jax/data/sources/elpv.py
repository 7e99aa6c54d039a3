"""ELPV: 2,624 electroluminescence images of solar cells, each with the probability of a defect.

Read from the package elpv-dataset (extra `elpv`), without importing it, or from a checkout of it.
There are no masks: pixel metrics are undefined.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from vtadl_jax.data.manifest import stays_inside
from vtadl_jax.data.records import Record, Splits, split_holdout
from vtadl_jax.errors import UserError

SITE = "https://github.com/zae-bayern/elpv-dataset"
DEFECTS = ("good", "p33", "p67", "p100")  # by thirds of the probability
CELL_TYPES = ("mono", "poly")


@dataclass(frozen=True)
class Cell:
    """Line of labels.csv: file, probability of a defect in thirds, cell type."""

    name: str
    thirds: int
    cell_type: str


def elpv_splits(
    root: str | Path = "", category: str = "", test_fraction: float = 0.2, seed: int = 0
) -> Splits:
    """Returns cells of probability 0 to train on; `test_fraction` of them, by `seed`, and all other
    cells to test on.

    category: 'mono', 'poly' or '' for both. Defects are 'p33', 'p67' and 'p100' by probability.
    `root` '' is the installed package, else a folder with labels.csv. Raises UserError for a
    missing package or file, an unknown category and an invalid line.
    """
    if category not in ("", *CELL_TYPES):
        raise UserError(
            f"data.category '{category}': ELPV has the cell types {', '.join(CELL_TYPES)}, or "
            "leave it empty for both"
        )
    labels = _labels_file(root)
    cells = [c for c in read_labels(labels) if category in ("", c.cell_type)]
    records = [
        Record(labels.parent / c.name, None, int(c.thirds > 0), DEFECTS[c.thirds], c.name)
        for c in cells
    ]
    good = [record for record in records if not record.label]
    if not good:
        raise UserError(
            f"{labels} lists no {category} cell of probability 0: restore it from {SITE}"
        )
    train, kept = split_holdout(good, test_fraction, seed, "data.test_fraction", 2)
    return Splits(train, (*kept, *(r for r in records if r.label)), category or "elpv")


def read_labels(path: Path) -> list[Cell]:
    """Reads lines as 'images/cell0001.png  1.0  mono'."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): restore it from {SITE}") from error
    cells: dict[str, Cell] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            cell = _cell(line.split(), f"{path} line {number}")
            if cell.name in cells:
                raise UserError(f"{path} line {number}: {cell.name} is listed twice: remove a line")
            cells[cell.name] = cell
    return list(cells.values())


def _cell(words: list[str], where: str) -> Cell:
    if len(words) != 3:
        raise UserError(f"{where} is not 'file probability type' but has {len(words)} columns")
    name, probability, cell_type = words
    try:
        thirds = round(float(probability) * 3)
        known = 0 <= thirds <= 3 and abs(float(probability) - thirds / 3) < 0.01
    except (ValueError, OverflowError):
        known = False
    if not known:
        raise UserError(f"{where}: probability {probability} is not 0, 1/3, 2/3 or 1: fix the line")
    if cell_type not in CELL_TYPES:
        raise UserError(
            f"{where}: type '{cell_type}' is not {' or '.join(CELL_TYPES)}: fix the line"
        )
    if not stays_inside(name):
        raise UserError(f"{where}: {name!r} leads out of the folder: it is refused, fix the line")
    return Cell(name, thirds, cell_type)


def _labels_file(root: str | Path) -> Path:
    if str(root).strip():
        path = Path(root).expanduser() / "labels.csv"
        if not path.is_file():
            raise UserError(
                f"no {path}: set --config.data.root=DIR to the folder of ELPV's labels.csv and "
                "images, or leave it empty to use the package of `pip install 'vtadl_jax[elpv]'`"
            )
        return path
    # Does not import the package: that is slower, as it imports numpy and PIL.
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the images of ELPV are not installed: run `pip install 'vtadl_jax[elpv]'`, or set "
            "--config.data.root=DIR to a folder with its labels.csv and images"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "labels.csv"
    if not path.is_file():
        raise UserError(f"no {path}: install ELPV again with `pip install 'vtadl_jax[elpv]'`")
    return path
