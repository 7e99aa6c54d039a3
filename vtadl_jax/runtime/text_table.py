"""Tables of plain text for a terminal: aligned columns, long cells wrapped."""

import textwrap
from collections.abc import Sequence

WIDTH = 100  # characters of a line


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[bool] = (),
    wrap: int | None = None,
    indent: str = "  ",
) -> list[str]:
    """Returns the lines of a table: header, then rows, two spaces between columns.

    right: which columns are aligned right; () for none. wrap: the column whose cells are wrapped so
    that no line is wider than `WIDTH`. indent: before each line.
    """
    lines = [header, *rows] if any(header) else list(rows)
    widths = [max(len(row[i]) for row in lines) for i in range(len(header))]
    if wrap is not None:
        others = sum(widths) - widths[wrap] + 2 * (len(widths) - 1) + len(indent)
        widths[wrap] = max(min(widths[wrap], WIDTH - others), 10)
    found = []
    for row in lines:
        pieces = [_wrapped(cell, widths[i]) if i == wrap else [cell] for i, cell in enumerate(row)]
        for number in range(max(map(len, pieces))):
            cells = [piece[number] if number < len(piece) else "" for piece in pieces]
            found.append((indent + "  ".join(_aligned(cells, widths, right))).rstrip())
    return found


def _wrapped(text: str, width: int) -> list[str]:
    """Returns a text in lines; a word that is too long, as a path, stays whole."""
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text) or [""]


def _aligned(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    sides = right or [False] * len(cells)
    return [
        cell.rjust(width) if side else cell.ljust(width)
        for cell, width, side in zip(cells, widths, sides, strict=True)
    ]


def paragraph(text: str, indent: str = "") -> list[str]:
    """Returns the lines of a text wrapped to `WIDTH`; continued lines are indented."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Returns '1 image' or '2 images'."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
