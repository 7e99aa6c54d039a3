"""Writes what a choice without answers is based on: a picture of drawn defects, and tables.

Computes nothing; `evaluation/selection.py` does.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import load_image, load_mask
from vtadl_jax.data.records import Record
from vtadl_jax.evaluation.selection import (
    COLUMNS,
    MEAN,
    Agreement,
    Part,
    best_shares,
    column,
    interval,
    ranks,
    resampled,
)
from vtadl_jax.report.pictures import contact_sheet, overlay_row
from vtadl_jax.runtime.files import replacing, write_json, write_text

SIDE = 220  # pixels of an image in the picture, about
ACROSS = 4  # images beside each other
EACH = 8  # of a kind

By = Mapping[str, Agreement | None]  # metric → agreement


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant on a set. order: what it is ranked by, larger is better. figures: metric → (value,
    low, high) on drawn defects; best: share of resamples in which it is the best."""

    image_set: str
    variant: str
    command: str
    rank: float
    order: float
    figures: Mapping[str, tuple[float, float | None, float | None] | None]
    best: float | None


def write_sheet(path: Path, records: Sequence[Record]) -> None:
    """Writes a picture of drawn defects, some of each kind, beside their outlines."""
    rows = []
    for kind in dict.fromkeys(record.defect for record in records):
        of_kind = [record for record in records if record.defect == kind][:EACH]
        for start in range(0, len(of_kind), ACROSS):
            rows.append(_beside([_panels(record) for record in of_kind[start : start + ACROSS]]))
    sheet = contact_sheet(rows, low=0.0, high=1.0, has_maps=False)
    with replacing(path) as file:
        sheet.save(file, format="PNG")


def _panels(record: Record) -> Image.Image:
    assert record.mask is not None
    pixels, mask = load_image(record.image, 3), load_mask(record.mask)
    times = max(round(max(mask.shape) / SIDE), 1)
    small = np.asarray(Image.fromarray(pixels).reduce(times))
    if small.ndim == 2:
        small = np.repeat(small[..., None], 3, -1)
    marked = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).reduce(times)) > 0
    return overlay_row(small, None, low=0.0, high=1.0, mask=marked, title=record.name)


def _beside(rows: Sequence[Image.Image]) -> Image.Image:
    size = sum(row.width for row in rows), max(row.height for row in rows)
    joined = Image.new("RGB", size, (255, 255, 255))
    left = 0
    for row in rows:
        joined.paste(row, (left, 0))
        left += row.width
    return joined


def rows_by_drawn(
    image_set: str, variants: Sequence[tuple[str, str]], parts: Sequence[Part]
) -> list[Row]:
    """Returns rows of variants (name, command), best first by the mean on drawn defects."""
    order = column(parts, MEAN)
    assert order is not None, "drawn defects are images with labels"
    values = resampled(parts, MEAN)
    best = None if values is None else best_shares(values)
    places = ranks(order)
    rows = []
    for i, (name, command) in enumerate(variants):
        figures = {metric: _figure(parts, metric, i) for metric in COLUMNS}
        share = None if best is None else float(best[i])
        rows.append(
            Row(image_set, name, command, float(places[i]), float(order[i]), figures, share)
        )
    return sorted(rows, key=lambda row: row.rank)


def _figure(
    parts: Sequence[Part], metric: str, i: int
) -> tuple[float, float | None, float | None] | None:
    found, values = column(parts, metric), resampled(parts, metric)
    if found is None:
        own = parts[i].metrics.get(metric)  # others may have none
        return None if own is None else (own, None, None)
    return (float(found[i]), *((None, None) if values is None else interval(values[i])))


def rows_by_sets(
    image_set: str, variants: Sequence[tuple[str, str]], order: np.ndarray
) -> list[Row]:
    """Returns rows, best first by the mean rank on other sets. order: negative mean ranks, [V]."""
    places = ranks(order)
    rows = [
        Row(image_set, name, command, float(places[i]), float(order[i]), {}, None)
        for i, (name, command) in enumerate(variants)
    ]
    return sorted(rows, key=lambda row: row.rank)


def to_markdown(
    tables: Mapping[str, Sequence[Row]],
    notes: Mapping[str, str],
    agreed: Mapping[str, Mapping[str, By]],
) -> str:
    """Returns the tables: set → its rows; set → a line above; rule → set → metric → agreement."""
    lines: list[str] = []
    for name, rows in tables.items():
        lines += [f"## {name}", "", notes.get(name, ""), "", *_table(rows), ""]
        lines += [f"Chosen: {rows[0].variant}: `{rows[0].command}`", ""]
    if agreed:
        lines += ["## Agreement with the test images", "", *_agreement_table(agreed), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows[0].figures:
        lines = [_line(("rank", "variant", "mean rank on other sets")), "|--:|---|--:|"]
        return lines + [_line((f"{r.rank:g}", r.variant, f"{-r.order:.2f}")) for r in rows]
    lines = [_line(("rank", "variant", *COLUMNS.values(), "best in"))]
    lines.append("|--:|---|" + "--:|" * (len(COLUMNS) + 1))
    for row in rows:
        best = "-" if row.best is None else f"{row.best:.0%}"
        figures = (_shown(row.figures[name]) for name in COLUMNS)
        lines.append(_line((f"{row.rank:g}", row.variant, *figures, best)))
    return lines


def _agreement_table(agreed: Mapping[str, Mapping[str, By]]) -> list[str]:
    titles = ("set", "chosen by", *(f"{title}: ρ / regret" for title in COLUMNS.values()))
    lines = [_line(titles), "|---|---|" + "--:|" * len(COLUMNS)]
    for name in dict.fromkeys(name for sets in agreed.values() for name in sets):
        for rule, sets in agreed.items():
            cells = (_agreed(sets[name].get(metric)) for metric in COLUMNS)
            lines.append(_line((name, rule, *cells)))
        some = next(iter(agreed.values()))[name]
        means = (_regrets(some.get(metric)) for metric in COLUMNS)
        lines.append(_line((name, "chance; the worst", *means)))
    return lines


def _agreed(found: Agreement | None) -> str:
    if found is None:
        return "-"
    rho = "-" if found.correlation is None else f"{found.correlation:.2f}".replace("-", "−")
    return f"{rho} / {found.regret:.3f}"


def _regrets(found: Agreement | None) -> str:
    return "-" if found is None else f"{found.of_mean:.3f}; {found.of_worst:.3f}"


def _shown(figure: tuple[float, float | None, float | None] | None) -> str:
    if figure is None:
        return "-"
    value, low, high = figure
    return f"{value:.3f}" + ("" if low is None else f" ({low:.3f}–{high:.3f})")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_csv(tables: Mapping[str, Sequence[Row]]) -> str:
    """Returns all rows: set, variant, rank, order, value, low and high of each metric, command."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in COLUMNS for end in ("", "_low", "_high")]
    writer.writerow(("set", "variant", "rank", "order", *ends, "best_share", "command"))
    for row in (row for rows in tables.values() for row in rows):
        figures = [row.figures.get(name) or (None, None, None) for name in COLUMNS]
        numbers = [row.rank, row.order, *(v for figure in figures for v in figure), row.best]
        cells = ["" if number is None else f"{number:.6g}" for number in numbers]
        writer.writerow((row.image_set, row.variant, *cells, row.command))
    return text.getvalue()


def write_tables(
    folder: Path,
    tables: Mapping[str, Sequence[Row]],
    notes: Mapping[str, str],
    agreed: Mapping[str, Mapping[str, By]],
) -> str:
    """Writes selection.md, .csv and .json to a folder, and returns the Markdown."""
    text = to_markdown(tables, notes, agreed)
    write_text(folder / "selection.md", text)
    write_text(folder / "selection.csv", to_csv(tables))
    stored: dict[str, Any] = {
        "sets": {
            name: {
                "note": notes.get(name, ""),
                "chosen": rows[0].variant,
                "command": rows[0].command,
                "variants": [dataclasses.asdict(row) for row in rows],
            }
            for name, rows in tables.items()
        },
        "agreement": {
            rule: {
                name: {metric: one and dataclasses.asdict(one) for metric, one in by.items()}
                for name, by in sets.items()
            }
            for rule, sets in agreed.items()
        },
    }
    write_json(folder / "selection.json", stored)
    return text
