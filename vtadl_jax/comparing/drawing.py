"""Draws the charts of a comparison as SVG: bars, radars, a scatter plot. Colours are the page's."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

from vtadl_jax.report.charts import nice_ticks

CHARACTER = 6.6  # px, the mean width of one in a label of 12 px
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar. value: None has none; shown: the number as text; kind: a class of the page's style;
    mark: another value to mark on its line, as a published one."""

    name: str
    value: float | None
    shown: str
    kind: str
    mark: float | None = None


def text(x: float, y: float, words: str, kind: str = "tick", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'


def figure(width: float, height: float, name: str, parts: Sequence[str], kind: str = "") -> str:
    return (
        f'<svg class="drawn {kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )


@dataclasses.dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end], logarithmically if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(max(value, 1e-300))
        part = (here - low) / (high - low) if high != low else 1.0
        return self.start + (self.end - self.start) * min(max(part, 0.0), 1.0)

    def ticks(self) -> list[float]:
        if not self.log:
            return nice_ticks(self.low, self.high)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def scale_of(values: Sequence[float], start: float, end: float) -> Scale:
    """Returns a logarithmic scale around positive values, from a power of ten to another."""
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)) + 1e-9)
    return Scale(low, high if high > low else low * 10, start, end, log=True)


def bars(
    title: str, rows: Sequence[Bar], scale: Scale | None = None, shown: Callable = "{:.1f}".format
) -> str:
    """Returns a chart of horizontal bars. scale: by default logarithmic around the values.

    shown: formats the ticks.
    """
    known = [v for row in rows for v in (row.value, row.mark) if v]
    if not known:
        return ""
    left, right, step = 8 + CHARACTER * max(len(row.name) for row in rows), 520.0, 22
    if scale is None:
        scale = scale_of(known, left, right)
    scale = dataclasses.replace(scale, start=left, end=right)
    bottom = 6 + step * len(rows)
    parts = []
    for tick in scale.ticks():
        at = scale.at(tick)
        parts += [
            line("grid", at, 2, at, bottom),
            text(at, bottom + 16, shown(tick), "tick", "middle"),
        ]
    for number, row in enumerate(rows):
        top = 6 + step * number
        parts.append(text(left - 8, top + 13, row.name, "label", "end"))
        if row.value is None or (scale.log and row.value <= 0):
            parts.append(text(left + 6, top + 13, row.shown))
            continue
        end = scale.at(row.value)
        parts.append(
            f'<rect class="{row.kind}" x="{left:.1f}" y="{top + 2}" '
            f'width="{max(end - left, 1):.1f}" height="14" rx="2"/>'
        )
        parts.append(text(right + 10, top + 13, row.shown, "value"))
        if row.mark is not None:
            x, y = scale.at(row.mark), top + 9
            parts.append(f'<path class="mark" d="M{x:.1f} {y - 6}l5 6 -5 6 -5 -6z"/>')
    parts.append(line("axis", left, 2, left, bottom))
    return figure(610, bottom + 22, title, parts, "bar-chart")


def radar(
    title: str, axes: Sequence[str], values: Sequence[float | None], kind: str,
    behind: Sequence[float | None] = (),
) -> str:  # fmt: skip
    """Returns a radar chart of values in [0, 1], None at the centre and marked by a ring.

    behind: values of a second outline, such as the median of all methods.
    """
    width, radius, x0, y0 = 300, 76, 150, 104

    def point(number: int, part: float) -> tuple[float, float]:
        angle = 2 * math.pi * number / len(axes) - math.pi / 2
        return x0 + radius * part * math.cos(angle), y0 + radius * part * math.sin(angle)

    def outline(parts: Sequence[float | None], kind: str) -> str:
        corners = (point(i, part or 0.0) for i, part in enumerate(parts))
        return (
            f'<polygon class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>'
        )

    parts = [outline([share] * len(axes), "web") for share in (0.25, 0.5, 0.75, 1.0)]
    for number, (name, value) in enumerate(zip(axes, values, strict=True)):
        x, y = point(number, 1.0)
        parts.append(line("grid", x0, y0, x, y))
        lx, ly = point(number, 1.13)
        side = "middle" if abs(lx - x0) < 12 else ("start" if lx > x0 else "end")
        parts.append(text(lx, ly + (9 if ly > y0 + 30 else 3), name, "tick", side))
        if value is None:
            parts.append(text(*point(number, 0.55), "none", "tick", "middle"))
    if behind:
        parts.append(outline(behind, "behind"))
    parts.append(outline(values, f"shape {kind}"))
    for number, value in enumerate(values):
        if value is not None:
            x, y = point(number, value)
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return figure(width, 206, title, parts, "radar")


@dataclasses.dataclass(frozen=True)
class Point:
    name: str
    x: float
    y: float
    kind: str


def scatter(
    title: str, points: Sequence[Point], x_name: str, y_name: str, shown: Callable
) -> str:  # fmt: skip
    """Returns a scatter plot with a name at each point; x is logarithmic, y ends at 1."""
    if not points:
        return ""
    width, height, left, bottom = 720, 400, 56, 348
    across = scale_of([p.x for p in points], left, width - 24)
    low = min(0.9, math.floor(min(p.y for p in points) * 10) / 10)
    up = Scale(low, 1.0, bottom, 16)
    parts = []
    for tick in across.ticks():
        x = across.at(tick)
        parts += [
            line("grid", x, 16, x, bottom),
            text(x, bottom + 18, shown(tick), "tick", "middle"),
        ]
    for tick in up.ticks():
        y = up.at(tick)
        parts += [
            line("grid", left, y, width - 24, y),
            text(left - 8, y + 4, f"{tick:.2f}", "tick", "end"),
        ]
    parts.append(line("axis", left, bottom, width - 24, bottom))
    parts.append(text((left + width) / 2, height - 8, x_name, "label", "middle"))
    turned = f'transform="rotate(-90 14 {bottom / 2:.0f})"'
    parts.append(
        f'<text class="label" x="14" y="{bottom / 2:.0f}" text-anchor="middle" {turned}>'
        f"{escape(y_name)}</text>"
    )
    places = [(across.at(p.x), up.at(p.y)) for p in points]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    names = []
    for point, (x, y) in zip(points, places, strict=True):
        lx, ly, anchor = place_label(point.name, x, y, taken, (left, 8, width - 4, bottom - 4))
        parts.append(f'<circle class="{point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        if math.hypot(lx - x, ly - 4 - y) > 16:
            parts.append(line("leader", x, y, lx, ly - 4))
        names.append(text(lx, ly, point.name, "label halo", anchor))
    return figure(width, height, title, [*parts, *names], "scatter")


def place_label(
    name: str, x: float, y: float, taken: list[Box], inside: Box
) -> tuple[float, float, str]:
    """Returns a place (x, y of the base line, anchor) for a name near a point, and takes it.

    The first free one of some around the point; the last if all are taken.
    """
    size = CHARACTER * len(name)
    offsets = [(d, 4.0 + rise) for rise in (0, -12, 12, -24, 24, -38, 38, -54, 54) for d in (9, -9)]
    best, found = math.inf, (x + 9, y + 4, "start")
    for dx, dy in offsets:
        start = x + dx if dx > 0 else x + dx - size
        box = (start, y + dy - 11, start + size, y + dy + 3)
        if box[0] < inside[0] or box[2] > inside[2] or box[1] < inside[1] or box[3] > inside[3]:
            continue
        hidden = sum(_overlap(box, other) for other in taken)
        if hidden < best:
            best, found, kept = hidden, (x + dx, y + dy, "start" if dx > 0 else "end"), box
        if not hidden:
            break
    if best < math.inf:
        taken.append(kept)
    return found


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)
