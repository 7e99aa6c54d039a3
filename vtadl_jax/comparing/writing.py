"""Writes the files of a comparison: comparison.json, .csv, .md and .html."""

from collections.abc import Sequence
from pathlib import Path

from vtadl_jax.comparing.making import Cell
from vtadl_jax.comparing.page import comparison_page
from vtadl_jax.comparing.rows import categories_of, complete, row_of, to_csv
from vtadl_jax.comparing.tables import tables_of
from vtadl_jax.compiling.writing import markdown
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import write_json, write_text
from vtadl_jax.runtime.text_table import plural

TITLE = "Comparison of methods"
BEGIN, END = "<!-- comparison:begin -->", "<!-- comparison:end -->"  # around tables in a document


def write_all(workdir: Path, cells: Sequence[Cell]) -> str:
    """Writes the four files of cells, in the order given, and returns the Markdown."""
    rows = [row_of(cell) for cell in cells]
    subtitle = subtitle_of(cells)
    text = markdown(TITLE, subtitle, tables_of(rows))
    write_json(workdir / "comparison.json", {"cells": list(cells)})
    write_text(workdir / "comparison.csv", to_csv(rows))
    write_text(workdir / "comparison.md", text)
    write_text(workdir / "comparison.html", comparison_page(TITLE, subtitle, rows))
    return text


def subtitle_of(cells: Sequence[Cell]) -> str:
    """Returns in a line what was compared."""
    rows = [row_of(cell) for cell in cells]
    done = complete(rows)
    if not done:
        return "No cell has results yet."
    names = ", ".join(categories_of(rows))
    minutes = [cell["minutes"] for cell in cells if "minutes" in cell]
    ends = dict.fromkeys((min(minutes), max(minutes)))
    length = " to ".join(f"{m:g}" for m in ends)
    return (
        f"{plural(len(done), 'cell')} with results, on {names}; at most {length} minutes of "
        f"training steps for each: see the epochs"
    )


def write_into(path: Path, cells: Sequence[Cell]) -> None:
    """Replaces the tables in a Markdown document, between the lines `BEGIN` and `END`.

    Raises UserError for a document without these lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--markdown {path} can't be read ({reason}): give a document") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"--markdown {path}: it has no lines {BEGIN} and {END}: add them")
    tables = markdown("", "", tables_of([row_of(cell) for cell in cells])).lstrip("# \n")
    tables = f"## {tables}" if tables else ""
    write_text(path, f"{before}{BEGIN}\n{tables}{END}{after}")
