"""Writes sections as text for a terminal and as Markdown."""

from collections.abc import Sequence

from vtadl_jax.compiling.sections import Section

WIDEST = 44  # characters per cell on a terminal


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
