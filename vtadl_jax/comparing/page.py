"""The page of a comparison: tables and charts in one file that needs no network."""

import statistics
from collections.abc import Callable, Sequence
from html import escape

from vtadl_jax.comparing.drawing import Bar, Point, Scale, bars, radar, scatter
from vtadl_jax.comparing.rows import Row, categories_of, complete, first_of_each
from vtadl_jax.comparing.tables import OVERVIEW, in_bytes, overview, quality, tables_of
from vtadl_jax.compiling.page import page, summary, table
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import duration, si

LATENCY = "latency cpu float32"
Shown = Callable[[float], str]
STYLE = ("vtadl_jax.comparing", "page.css")
AXES = ("AU-PRO", "images", "pixels", "small", "fast")
RADAR_NOTE = (
    "AU-PRO (0.3) from 0 to 1; AUROC of images and of pixels from 0.5 (chance) to 1; small and "
    "fast: bytes of all variables and seconds of an image, on logarithmic scales from the largest "
    "to the smallest of the methods here. Dashed: the median of all methods."
)
KEY = (
    '<p class="key"><span><i class="one-class"></i>learns from good images only</span>'
    '<span><i class="supervised"></i>learns from masks or labels of defects</span>'
)


def comparison_page(title: str, subtitle: str, rows: Sequence[Row]) -> str:
    """Returns the whole file."""
    parts = [summary(_figures(rows))]
    if len(categories_of(rows)) > 1:
        parts.append(table(overview(rows)))
    for category in categories_of(rows):
        parts += _category(rows, category)
    known = {*categories_of(rows), OVERVIEW}  # have their tables beside their charts
    if first_of_each(rows):
        parts.append(_costs(first_of_each(rows)))
    parts += [table(section) for section in tables_of(rows) if section.title not in known]
    return page(title, subtitle, parts, styles=(STYLE,))


def _figures(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    done = complete(rows)
    found = [
        ("cells", f"{len(done)}", f"of {len(rows)}: a method on a category each"),
        ("methods", f"{len(first_of_each(rows))}", "with results"),
    ]
    for category in categories_of(rows):
        located = [r for r in complete(rows, category) if r["aupro"] is not None]
        plain = [r for r in located if not r["supervised"]]
        if plain:
            best = max(plain, key=lambda r: r["aupro"])
            told = f"best AU-PRO from good images only: {best['title']}"
            found.append((category, f"{best['aupro']:.3f}", told))
    return found


def _category(rows: Sequence[Row], category: str) -> list[str]:
    """Returns the sections of a category: table and bars, trade-off, radars."""
    chosen = complete(rows, category)
    ordered = sorted(chosen, key=lambda r: -(r["aupro"] or 0.0))
    made = [
        Bar(
            row["title"],
            row["aupro"],
            "no map" if row["aupro"] is None else f"{row['aupro']:.3f}",
            _kind(row),
            row["thesis_pro"],
        )
        for row in ordered
    ]
    unit = Scale(0.0, 1.0, 0, 1)
    chart = bars(f"AU-PRO up to a false-positive rate of 0.3, {category}", made, unit)
    images = [
        Bar(r["title"], r["image_auroc"], _shown(r["image_auroc"]), _kind(r)) for r in ordered
    ]
    second = bars(f"image AUROC, {category}", images, unit)
    key = (
        f'{KEY}<span><i class="thesis"></i>“PRO” in the thesis, another measure on other '
        f"splits</span></p>"
    )
    charts = (
        f'<section><h2>{escape(category)}: defects found</h2>{key}<div class="pair">'
        f"<div><h3>AU-PRO (0.3)</h3>{chart}</div><div><h3>Image AUROC</h3>{second}</div></div>"
        f"</section>"
    )
    section = quality(rows, category)
    titled = Section(f"{category}: figures", section.header, section.rows, section.note)
    return [charts, table(titled), _trade_off(chosen, category), _radars(chosen, category)]


def _trade_off(rows: Sequence[Row], category: str) -> str:
    points = [
        Point(row["title"], row[LATENCY], row["aupro"], _kind(row))
        for row in rows
        if row.get(LATENCY) and row["aupro"] is not None
    ]
    if not points:
        return ""
    drawn = scatter(
        f"AU-PRO against seconds of an image, {category}",
        points,
        "scoring one image on the CPU in float32, logarithmic",
        "AU-PRO (0.3)",
        _seconds,
    )
    return (
        f"<section><h2>{escape(category)}: what quality costs</h2>{KEY}</p>"
        f'<div class="wide" tabindex="0" role="region" aria-label="Trade-off">{drawn}</div>'
        f'<p class="faint">The best are at the top left.</p></section>'
    )


def _radars(rows: Sequence[Row], category: str) -> str:
    shapes = {row["method"]: shape(row, rows) for row in rows}
    median = [_median([found[i] for found in shapes.values()]) for i in range(len(AXES))]
    made = "".join(
        f"<figure>{radar(row['title'], AXES, shapes[row['method']], _kind(row), median)}"
        f"<figcaption><b>{escape(row['title'])}</b></figcaption></figure>"
        for row in rows
    )
    return (
        f"<section><h2>{escape(category)}: each method at a glance</h2>{KEY}"
        f'<span><i class="median"></i>median of all</span></p><div class="radars">{made}</div>'
        f'<p class="faint">{RADAR_NOTE}</p></section>'
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def shape(row: Row, rows: Sequence[Row]) -> list[float | None]:
    """Returns the values of `AXES` in [0, 1], larger is better; None where a row has none."""

    def above_chance(value: float | None) -> float | None:
        return None if value is None else max(2 * value - 1, 0.0)

    def smaller(name: str) -> float | None:
        known = [r[name] for r in rows if r.get(name)]
        if not row.get(name):
            return None
        return Scale(max(known), min(known), 0.1, 1.0, log=True).at(row[name])

    return [
        row["aupro"],
        above_chance(row["image_auroc"]),
        above_chance(row["pixel_auroc"]),
        smaller("model_bytes"),
        smaller(LATENCY),
    ]


def _costs(rows: Sequence[Row]) -> str:
    """Returns bar charts of costs on logarithmic axes, each of the methods that have the cost."""

    def chart(title: str, name: str, shown: Shown, ticks: Shown, published: str = "") -> str:
        ordered = sorted((r for r in rows if r.get(name)), key=lambda r: r[name])
        made = [
            Bar(r["title"], r[name], shown(r[name]), _kind(r), r.get(published)) for r in ordered
        ]
        drawn = bars(title, made, shown=ticks)
        return f"<div><h3>{escape(title)}</h3>{drawn}</div>" if drawn else ""

    step = "seconds_per_100_epochs"
    made = [
        chart("Bytes of all variables", "model_bytes", in_bytes, in_bytes),
        chart("Activations of one image", "forward_bytes", in_bytes, in_bytes),
        chart("Temporaries of a train step", "train_step_bytes", in_bytes, in_bytes),
        chart("Trained values", "trained_values", si, si, "thesis_parameters"),
        chart("One image on the CPU, float32", LATENCY, duration, _seconds, "thesis_latency_cpu"),
        chart("100 epochs", step, duration, _seconds, f"thesis_{step}"),
    ]
    key = f'{KEY}<span><i class="thesis"></i>in the thesis, on its machine</span></p>'
    return (
        f'<section><h2>Costs, on logarithmic axes</h2>{key}<div class="pair">{"".join(made)}</div>'
        f"</section>"
    )


def _seconds(value: float) -> str:
    return duration(value) if value < 1 else f"{value:,.0f} s"


def _kind(row: Row) -> str:
    return "supervised" if row["supervised"] else "one-class"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
