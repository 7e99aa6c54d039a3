"""Makes one table of results over categories, with means and optionally published results.

Takes the results of evaluations and measures nothing. Published results have columns of their own;
the titles name the paper and the metric.
"""

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtadl_jax.data.records import natural_key
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.metric_table import SHOWN
from vtadl_jax.evaluation.metric_table import TITLES as METRIC_TITLES
from vtadl_jax.evaluation.results import Results
from vtadl_jax.report.names import cell
from vtadl_jax.report.published import PUBLISHED, PublishedTable
from vtadl_jax.runtime.files import replacing, writing

TITLES = {
    **METRIC_TITLES,
    "seconds": "seconds",
    "step": "step",
    "num_test_images": "test images",
}
METRICS = tuple(metric.name for metric in SHOWN if metric.name != "aupro")  # that goes by its limit
RARE = tuple(metric.name for metric in SHOWN if metric.kind == "region")  # of some data sets only
COUNTS = ("step", "num_test_images")

Value = float | int | None


@dataclass(frozen=True)
class Column:
    """Column of a table. key: its name in CSV and JSON; title: its name in Markdown; source: the
    paper, '' for our results."""

    key: str
    title: str
    source: str = ""

    @property
    def averaged(self) -> bool:
        """Whether a mean is meaningful; not for steps and numbers of images."""
        return self.key not in COUNTS


@dataclass(frozen=True)
class Table:
    """Table of results. rows: category → values in the order of `columns`, None if undefined."""

    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Value, ...]]
    notes: tuple[str, ...] = ()

    def means(self) -> list[tuple[float | None, int]]:
        """Returns (mean, number of averaged categories) per column; (None, 0) without values."""
        found: list[tuple[float | None, int]] = []
        for i, column in enumerate(self.columns):
            values = [row[i] for row in self.rows.values()] if column.averaged else []
            known = [value for value in values if value is not None]
            found.append((math.fsum(known) / len(known) if known else None, len(known)))
        return found


def category_table(
    results: Mapping[str, Results],
    published: str | None = None,
    methods: Sequence[str] = ("VT-ADL",),
) -> Table:
    """Makes a table from category → its results; None and NaN are undefined.

    published: a name of `PUBLISHED` adds published results of `methods` on that data set
    and our value of the same metric, orders the categories as the paper does, and averages the
    published values over the categories in the table; without it the order is natural. AU-PRO has
    one column per false-positive-rate limit. Raises UserError for no categories, an unknown data
    set or method, and a value that is not a number.
    """
    if not results:
        raise UserError("no results to make a table of: evaluate at least one category")
    sources = _published_tables(published, methods)
    names = _ordered(results, published)
    found = {name: _values(name, results[name]) for name in names}
    columns = [Column(key, _title(key)) for key in _metric_keys(found.values(), sources)]
    for table in sources:
        for method in dict.fromkeys(methods):
            if method in table.methods:
                title = f"published: {method}, {table.metric}"
                columns.append(Column(title, title, table.source))
                for name in names:
                    found[name][title] = table.value(name, method)
    columns += [Column(key, TITLES[key]) for key in (*COUNTS, "seconds")]
    rows = {name: tuple(found[name].get(c.key) for c in columns) for name in names}
    notes = [f"{t.metric}: {t.source}" + (f"; {t.note}" if t.note else "") for t in sources]
    return Table(tuple(columns), rows, tuple(notes))


def to_markdown(table: Table) -> str:
    """Returns Markdown: three decimals, '-' if undefined; marks means over some categories only."""
    lines = [_line(["category", *(column.title for column in table.columns)])]
    lines.append("|---|" + "---:|" * len(table.columns))
    for name, row in table.rows.items():
        lines.append(_line([name, *map(_shown, row)]))
    means = []
    for mean, count in table.means():
        part = f" ({count} of {len(table.rows)})" if 0 < count < len(table.rows) else ""
        means.append(_shown(mean) + part)
    lines.append(_line(["mean", *means]))
    if table.notes:
        lines += ["", *(f"Published {note}." for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Returns CSV: full precision, empty if undefined; the last rows are means and their counts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("category", *(cell(column.key) for column in table.columns)))
    writer.writerows((cell(name), *row) for name, row in table.rows.items())
    means = table.means()
    writer.writerow(("mean", *(mean for mean, _ in means)))
    writer.writerow(("mean_over", *(count for _, count in means)))
    return text.getvalue()


def to_json(table: Table) -> str:
    """Returns JSON {columns, categories, mean, mean_over, notes}, null if undefined."""
    keys = [column.key for column in table.columns]
    means = table.means()
    content = {
        "columns": [{"key": c.key, "title": c.title, "source": c.source} for c in table.columns],
        "categories": [
            {"category": name, **dict(zip(keys, row, strict=True))}
            for name, row in table.rows.items()
        ],
        "mean": dict(zip(keys, (mean for mean, _ in means), strict=True)),
        "mean_over": dict(zip(keys, (count for _, count in means), strict=True)),
        "notes": table.notes,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_tables(folder: Path, table: Table) -> list[Path]:
    """Writes summary.md, summary.csv and summary.json to `folder`, which is created if missing.

    Each is written whole or not at all. Raises UserError if the folder can't be written.
    """
    texts = {"md": to_markdown(table), "csv": to_csv(table), "json": to_json(table)}
    paths = [folder / f"summary.{suffix}" for suffix in texts]
    with writing(folder), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts.values(), strict=True):
            stack.enter_context(replacing(path, "w", newline="")).write(text)
    return paths


def _published_tables(data_set: str | None, methods: Sequence[str]) -> list[PublishedTable]:
    if data_set is None:
        return []
    if data_set not in PUBLISHED:
        sets = ", ".join(PUBLISHED)
        raise UserError(f"no published figures of '{data_set}': choose one of {sets}, or none")
    tables = PUBLISHED[data_set]
    known = ", ".join(dict.fromkeys(method for table in tables for method in table.methods))
    for method in methods:
        if not any(method in table.methods for table in tables):
            raise UserError(f"no published figures of '{method}' on {data_set}: choose of {known}")
    return [table for table in tables if set(methods) & set(table.methods)]


def _ordered(names: Iterable[str], data_set: str | None) -> list[str]:
    printed = list(PUBLISHED[data_set][0].rows) if data_set is not None else []
    rank = {name: i for i, name in enumerate(printed)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), natural_key(name)))


def _values(name: str, results: Results) -> dict[str, Value]:
    """Returns the numbers of one category by column key, AU-PRO as aupro_<limit>."""
    columns = {**results.metrics, **{key: getattr(results, key) for key in (*COUNTS, "seconds")}}
    values = {key: _number(name, key, value) for key, value in columns.items()}
    at = {
        f"aupro_{_number(name, 'limit of aupro_at', limit):g}": _number(name, "aupro_at", value)
        for limit, value in (results.aupro_at or {}).items()
    }
    aupro = values.pop("aupro", None)
    limit = _number(name, "fpr_limit", results.fpr_limit)
    if limit is not None:
        at.setdefault(f"aupro_{limit:g}", aupro)
    elif aupro is not None and aupro not in at.values():
        at["aupro"] = aupro
    return values | at


def _number(category: str, key: str, value: object) -> Value:
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as e:
        raise UserError(
            f"{key} of {category} is {value!r}, not a number: evaluate the category again"
        ) from e
    if not math.isfinite(number):
        return None
    return int(number) if key in COUNTS else number


def _metric_keys(
    found: Iterable[Mapping[str, Value]], sources: Sequence[PublishedTable]
) -> list[str]:
    """Returns the metrics of every table, those of the papers, and AU-PRO, largest limit first."""
    found = list(found)
    measured = [key for key in METRICS if key not in RARE or any(key in v for v in found)]
    keys = list(dict.fromkeys((*measured, *(table.key for table in sources))))
    regions = {key for values in found for key in values if key.startswith("aupro")}
    regions |= {key for key in keys if key.startswith("aupro")}
    limits = sorted(regions - {"aupro"}, key=lambda key: -float(key.removeprefix("aupro_")))
    # Without any limit keep one empty column, to show that AU-PRO is undefined.
    last = ["aupro"] if "aupro" in regions or not limits else []
    return [key for key in keys if key not in regions] + limits + last


def _title(key: str) -> str:
    return TITLES.get(key) or f"AU-PRO (FPR {key.removeprefix('aupro_')})"


def _shown(value: Value) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
