"""Writes the files of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from vtadl_jax.comparing.cells import Cell
from vtadl_jax.runtime.files import write_json


def write_all(workdir: Path, cells: Sequence[Cell]) -> str:
    write_json(workdir / "comparison.json", {"cells": list(cells)})
    return ""
