"""Draws line charts as SVG, small enough for three in a row and legible on a phone.

Colours and fonts are the page's (`page.css`, by class). This file draws curves and computes none.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 340, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 10, 40
_LOG_FROM = 100.0  # a positive range of this ratio or more is drawn on a logarithmic axis

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Axis: maps a range in data units to a range of pixels; the range is in log10 if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixels(self, values: ArrayLike) -> Array:
        at = np.asarray(values, np.float64)
        at = np.log10(at) if self.log else at
        # Halves: the difference of two huge numbers may not be finite.
        part = (at / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return self.start + (self.end - self.start) * part

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.ceil(self.low), math.floor(self.high) + 1)
            every = -(-len(decades) // 6)
            return [10.0**d for d in decades[::every]]
        return nice_ticks(self.low, self.high)


def line_chart(
    x: ArrayLike,
    y: ArrayLike,
    dots: Sequence[tuple[float, float, str]] = (),
    /,
    *,
    x_label: str,
    y_label: str,
    name: str,
    unit: bool = False,
) -> str:
    """Returns the SVG of a line through the finite points (x [N], y [N]), with axes.

    Args:
      y_label: may be empty; a logarithmic axis is always marked.
      unit: x and y are rates: y is on [0, 1], x on [0, 1] or, if it ends at 0.5 or below (a curve
        up to a limit), on [0, its end], and the area under the line is tinted.
      dots: finite (x, y, text) that are drawn as dots; the text is shown at the pointer.
    """
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    marked = np.asarray([(a, b) for a, b, _ in dots], np.float64).reshape(-1, 2)
    across, up = _axes(np.append(x, marked[:, 0]), np.append(y, marked[:, 1]), unit)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{name}: {y_label or name} over {x_label}")}">'
    ]
    parts += _frame(across, up)
    px, py = _thinned(across.pixels(x), up.pixels(y))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
    if unit and px.size:
        base = up.start
        corners = f"{px[0]:.1f},{base} {points} {px[-1]:.1f},{base}"
        parts.append(f'<polygon class="area" points="{corners}"/>')
    at = zip(across.pixels(marked[:, 0]), up.pixels(marked[:, 1]), dots, strict=True)
    for a, b, (_, _, shown) in at:
        told = f"<title>{escape(shown)}</title>"
        parts.append(f'<circle class="point" cx="{a:.1f}" cy="{b:.1f}" r="3">{told}</circle>')
    if px.size == 1:
        parts.append(f'<circle class="point" cx="{px[0]:.1f}" cy="{py[0]:.1f}" r="3"/>')
    elif px.size:
        parts.append(f'<polyline class="line" points="{points}"/>')
    else:
        parts.append(text(WIDTH / 2, HEIGHT / 2 - 12, "middle", "no finite values"))
    note = "log scale" if up.log else ""
    parts.append(text((across.start + across.end) / 2, HEIGHT - 6, "middle", x_label, "label"))
    middle = (up.start + up.end) / 2
    turned = f'transform="rotate(-90 11 {middle:.1f})"'
    parts.append(
        text(11, middle, "middle", ", ".join(filter(None, (y_label, note))), "label", turned)
    )
    return "".join([*parts, "</svg>"])


def _axes(x: Array, y: Array, unit: bool) -> tuple[Axis, Axis]:
    columns, rows = (_LEFT, WIDTH - _RIGHT), (HEIGHT - _BOTTOM, _TOP)
    if unit:
        end = float(x.max()) if x.size else 1.0
        return Axis(0.0, 1.0 if end > 0.5 or end <= 0 else end, *columns), Axis(0.0, 1.0, *rows)
    if y.size and y.min() > 0 and y.max() / y.min() >= _LOG_FROM:
        low, high = padded(np.log10(y))
        return Axis(*padded(x, 0), *columns), Axis(low, high, *rows, log=True)
    return Axis(*padded(x, 0), *columns), Axis(*padded(y), *rows)


def padded(values: Array, share: float = 0.04) -> tuple[float, float]:
    """Returns a non-empty range around the values."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if high - low <= max(1e-12 * abs(low), 1e-300):
        spread = abs(low) / 10 or 1.0
        return low - spread, high + spread
    pad = share * (high / 2 - low / 2) * 2
    return low - pad, high + pad


def _thinned(px: Array, py: Array) -> tuple[Array, Array]:
    """Keeps the first, lowest, highest and last point of each pixel column: the same picture."""
    if px.size <= 4 * WIDTH:
        return px, py
    column = np.floor(px)
    starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    stops = np.append(starts[1:], px.size)
    keep = set()
    for a, b in zip(starts, stops, strict=True):
        keep |= {a, a + int(py[a:b].argmin()), a + int(py[a:b].argmax()), b - 1}
    order = sorted(keep)
    return px[order], py[order]


def _frame(across: Axis, up: Axis) -> list[str]:
    left, right, bottom, top = across.start, across.end, up.start, up.end
    parts = []
    for value, at in zip(up.ticks(), up.pixels(up.ticks()), strict=True):
        parts.append(rule("grid", left, at, right, at))
        parts.append(text(left - 5, at + 4, "end", short(value)))
    for value, at in zip(across.ticks(), across.pixels(across.ticks()), strict=True):
        parts.append(rule("grid", at, bottom, at, top))
        parts.append(text(at, bottom + 15, "middle", short(value)))
    return [*parts, rule("axis", left, bottom, right, bottom)]


def rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Returns a line of a class of the style sheet."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'


def short(value: float) -> str:
    """Formats a number in at most 8 characters: 20k, 1.05e-4."""
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1000:.4g}k"
    small = 0 < abs(value) < 1e-3
    return re.sub(r"\.?0*e([+-])0?", r"e\1", f"{value:.2e}" if small else f"{value:.4g}")


def text(x: float, y: float, anchor: str, words: str, kind: str = "tick", more: str = "") -> str:
    """Returns a text of a class of the style sheet. more: attributes."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place} {more}>{escape(words)}</text>'


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` multiples of 1, 2 or 5 x 10^k in [low, high]; low < high, finite."""
    step = 10.0 ** math.floor(math.log10((high / 2 - low / 2) * 2 / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count + 0.5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step + 0.0 for i in range(first, last + 1)]
