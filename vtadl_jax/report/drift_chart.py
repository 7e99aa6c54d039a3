"""Draws how a quantity of the images went along a line: its values, and the evidence of a change.

Two panels share the images' order. Above: the value of each image, and the median of the good
images that set the threshold. Below: the evidence, log10 of what a bet against "nothing changed"
has won, and the limit from which on it is an alarm. `evaluation/drift.py` computes both.
"""

from html import escape

import numpy as np

from vtadl_jax.evaluation.drift import Alarm, Trace
from vtadl_jax.report.charts import Axis, nice_ticks, padded, rule, short, text

WIDTH, HEIGHT = 340, 300
LEFT, RIGHT, TOP, MIDDLE, GAP, BOTTOM = 54, 14, 10, 150, 24, 40
MOST_POINTS = 800  # of a panel; more are thinned evenly
FEWEST = 5  # images that make a chart


def drift_chart(trace: Trace, count: int, alarm: Alarm | None) -> str:
    """Returns the SVG. count: number of images; alarm: of this quantity, if there is one."""
    across = Axis(0.0, float(max(count - 1, 1)), LEFT, WIDTH - RIGHT)
    every = np.unique(np.linspace(0, len(trace.at) - 1, MOST_POINTS).astype(int))
    at, values, evidence = (
        np.array(each, np.float64)[every] for each in (trace.at, trace.values, trace.evidence)
    )
    up = Axis(*padded(np.append(values, trace.good)), MIDDLE, TOP)
    wealth = Axis(*padded(np.append(evidence, [0.0, trace.limit])), HEIGHT - BOTTOM, MIDDLE + GAP)
    name = f"{trace.quantity} of {count} images in their order, and the evidence of a change"
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
    ]
    for axis, ticks in ((up, 4), (wealth, 3)):
        parts += _panel(across, axis, ticks)
    if alarm is not None:
        start, end = across.pixels([alarm.since, count - 1])
        size = f'width="{max(end - start, 1):.1f}" height="{HEIGHT - BOTTOM - TOP}"'
        parts.append(f'<rect class="called" x="{start:.1f}" y="{TOP}" {size}/>')
    x = across.pixels(at)
    dots = zip(x, up.pixels(values), strict=True)
    parts += [f'<circle class="point" cx="{a:.1f}" cy="{b:.1f}" r="1.4"/>' for a, b in dots]
    middle = float(up.pixels(trace.good))
    parts.append(rule("axis dashed", LEFT, middle, WIDTH - RIGHT, middle))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, wealth.pixels(evidence), strict=True))
    parts.append(f'<polyline class="line" points="{points}"/>')
    limit = float(wealth.pixels(trace.limit))
    parts.append(rule("cut dashed", LEFT, limit, WIDTH - RIGHT, limit))
    parts.append(text(WIDTH - RIGHT, limit - 4, "end", "limit", "halo label"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle", "image", "label"))
    for axis, label in ((up, trace.quantity), (wealth, "evidence")):
        at_y = (axis.start + axis.end) / 2
        turned = f'transform="rotate(-90 11 {at_y:.1f})"'
        parts.append(text(11, at_y, "middle", label, "label", turned))
    return "".join([*parts, "</svg>"])


def _panel(across: Axis, up: Axis, count: int) -> list[str]:
    """Returns grid, ticks and base of one panel."""
    left, right = across.start, across.end
    parts = []
    ticks = nice_ticks(up.low, up.high, count)
    for value, y in zip(ticks, up.pixels(ticks), strict=True):
        parts.append(rule("grid", left, y, right, y))
        parts.append(text(left - 5, y + 4, "end", short(value)))
    numbers = [n for n in nice_ticks(across.low + 1, across.high + 1) if n == int(n)]
    for value, x in zip(numbers, across.pixels(np.array(numbers) - 1), strict=True):
        parts.append(rule("grid", x, up.start, x, up.end))
        if up.start > MIDDLE:
            parts.append(text(x, up.start + 15, "middle", short(value)))
    return [*parts, rule("axis", left, up.start, right, up.start)]


def drift_figure(trace: Trace, count: int, alarm: Alarm | None, name: str) -> str:
    """Returns the chart with its caption. name: of the image with which the change began."""
    if alarm is not None:
        told = alarm.sentence(name)
    elif 0 < len(trace.values) < FEWEST:
        told = f"no change; {len(trace.values)} images that count, too few for a chart"
    elif trace.values:
        told = f"no change; median {np.median(trace.values):.3g}, good images {trace.good:.3g}"
    else:
        told = "no image to follow"
    caption = f"<b>{escape(trace.quantity)}</b> <span>{escape(told)}</span>"
    drawn = alarm is not None or len(trace.values) >= FEWEST
    chart = drift_chart(trace, count, alarm) if drawn else ""
    return f"<figure><figcaption>{caption}</figcaption>{chart}</figure>"
