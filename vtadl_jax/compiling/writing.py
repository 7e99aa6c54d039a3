"""Writes sections as text for a terminal and as Markdown, and the files of a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtadl_jax.compiling import page
from vtadl_jax.compiling.sections import Section
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import write_json, write_text

WIDEST = 44  # characters per cell on a terminal


def write_study(
    stem: Path,
    data: Any,
    title: str,
    subtitle: str,
    tables: Sequence[Section],
    parts: Sequence[str] = (),
    html: str = "",
) -> None:
    """Prints tables; writes them with their data to stem.json, .md and .html, and says where.

    parts: HTML before the tables of the page; html: the whole page instead.
    """
    print(terminal(title, subtitle, tables))
    write_json(_named(stem, "json"), data)
    write_text(_named(stem, "md"), markdown(title, subtitle, tables))
    made = [*parts, *(page.table(table) for table in tables)]
    write_text(_named(stem, "html"), html or page.page(title, subtitle, made))
    say(f"see {stem}.html, .md and .json")


def _named(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}")  # a name may hold dots, as that of a version


def terminal(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    parts = [title, subtitle]
    for section in sections:
        parts += ["", section.title, *_columns(section)]
        if section.note:
            parts.append(section.note)
    return "\n".join(parts)


def _columns(section: Section) -> list[str]:
    rows = [[_short(cell) for cell in row] for row in (section.names, *section.rows)]
    rows = rows if any(rows[0]) else rows[1:]
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(section.header))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, section.right, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}", "", subtitle]
    for section in sections:
        parts += ["", f"## {section.title}", ""]
        parts.append(_row(section.names))
        parts.append(_row(["--:" if right else "---" for right in section.right]))
        parts += [_row(row) for row in section.rows]
        if section.note:
            parts += ["", section.note]
    return "\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
