"""Makes one table and one plot of many runs: mean and standard deviation over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vtadl_jax.evaluation.metric_table import TITLES
from vtadl_jax.evaluation.results import Results

METRICS = {name: TITLES[name] for name in ("image_auroc", "pixel_auroc", "aupro")}
COLOURS = ("#2b6cb0", "#c05621", "#2f855a")


@dataclass(frozen=True)
class Measured:
    """Results of one run. record: seconds, commit, seed; results: of its evaluation."""

    name: str
    command: str
    record: dict
    results: Results


@dataclass(frozen=True)
class Row:
    """Row of one experiment. values: metric → (mean, sample standard deviation or None for one
    seed), or None if a run has no such metric."""

    name: str
    command: str
    values: dict[str, tuple[float, float | None] | None]
    num_seeds: int
    steps: int
    seconds: float
    commits: tuple[str, ...]

    def as_dict(self) -> dict:
        """Returns the fields by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def summarise(runs: Sequence[Measured]) -> list[Row]:
    """Returns one row per name, in order of first appearance."""
    names = dict.fromkeys(run.name for run in runs)
    return [_row([run for run in runs if run.name == name]) for name in names]


def _row(runs: Sequence[Measured]) -> Row:
    return Row(
        name=runs[0].name,
        command=runs[0].command,
        values={
            metric: _mean([run.results.metrics.get(metric) for run in runs]) for metric in METRICS
        },
        num_seeds=len(runs),
        steps=max(run.results.step for run in runs),
        seconds=statistics.fmean(run.record["seconds"] for run in runs),
        commits=tuple(sorted({run.record["commit"] for run in runs})),
    )


def _mean(values: Sequence[float | None]) -> tuple[float, float | None] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def to_markdown(rows: Sequence[Row]) -> str:
    """Writes the table, then the command of each row."""
    titles = ("experiment", *METRICS.values(), "seeds", "steps", "seconds a run", "commit")
    lines = [_line(titles), "|---|" + "---:|" * (len(titles) - 1)]
    for row in rows:
        values = (_shown(row.values[metric]) for metric in METRICS)
        counts = (str(row.num_seeds), str(row.steps), f"{row.seconds:.0f}")
        lines.append(_line([row.name, *values, *counts, ", ".join(row.commits)]))
    lines += [
        "",
        "Mean ± standard deviation over seeds; seconds are those of the whole program.",
        "",
    ]
    lines += [f"- {row.name}: `{row.command}`" for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "-"
    mean, spread = value
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def to_svg(rows: Sequence[Row]) -> str:
    """Draws a line for each experiment, a dot for each metric on [0, 1], a bar of one deviation."""
    left, width, step, top = 190, 420, 34, 34
    height = top + step * len(rows) + 30
    x = lambda value: left + width * value  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, title in enumerate(METRICS.values()):
        parts.append(f'<circle cx="{left + 140 * i}" cy="14" r="5" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{left + 140 * i + 10}" y="18">{title}</text>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<path d="M{x(tick):.1f} {top}V{height - 24}" stroke="#ddd"/>'
            f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>'
        )
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>'
        )
        for i, metric in enumerate(METRICS):
            if (value := row.values[metric]) is not None:
                parts.append(_dot(x, y + 7 * (i - 1), *value, COLOURS[i]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _dot(x, y: float, mean: float, spread: float | None, colour: str) -> str:
    ends = (max(mean - (spread or 0), 0), min(mean + (spread or 0), 1))
    bar = f'<path d="M{x(ends[0]):.1f} {y}H{x(ends[1]):.1f}" stroke="{colour}" stroke-width="2"/>'
    return f'{bar}<circle cx="{x(mean):.1f}" cy="{y}" r="4" fill="{colour}"/>'
