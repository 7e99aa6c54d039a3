"""Trades memory against time: recomputation × batch × sharding of a train step, by compiling.

A point is on the front if no other one takes less memory and less time an image. Readings are
cached, so an interrupted study continues.
"""

import dataclasses
import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import duration, mib, percent, si, thousands
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.options import fields_of
from vtadl_jax.report.charts import line_chart

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """A compiled step. fields: what differs from the config; images: a device.

    reading: None if it was not compiled, see `trouble`. It may not fit.
    """

    fields: Fields
    images: int
    reading: Reading | None = None
    trouble: str = ""

    @property
    def memory(self) -> float | None:
        if self.reading is None or not self.reading["fits"]:
            return None
        return self.reading["memory"].get("needed")

    @property
    def seconds(self) -> float | None:
        """Returns the time of a call for each image of a device; None if it is not estimated."""
        if self.reading is None or not self.reading["fits"]:
            return None
        call = figures_lib.figures(self.reading).call
        return None if call is None else call / self.images


def parse_batches(text: str) -> list[int]:
    """Parses '4,8,16'. Raises UserError for anything but numbers from 1 on."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise UserError(f"--pareto {text!r}: give images a device, as 4,8,16")
    return found


def settings(config: Config, group: int) -> list[Fields]:
    """Returns the combinations of recomputation and sharding to compile.

    group: the devices of a slice. A config without a field for recomputation has none of it.
    """
    remat = [name for name, _, _ in fields_of(config) if name.rpartition(".")[2] == "remat"]
    recomputed: list[dict[str, Any]] = [dict.fromkeys(remat, False)]
    if remat:
        recomputed.append(dict.fromkeys(remat, True))
    shardings: list[dict[str, Any]] = [{}]
    if group > 1:
        shardings = [{"train.shard_optimizer": True}, {"train.shard_optimizer": False}]
        if config.train.parallel == "jit":
            shardings.append({"mesh.fsdp": group})
    return [{**a, **b} for a, b in itertools.product(recomputed, shardings)]


def study(
    read: Callable[[Fields, int], Reading],
    combinations: Sequence[Fields],
    batches: Sequence[int],
    progress: Callable[[str], None],
) -> list[Point]:
    """Returns a point for every combination and batch, the smallest batches compiled first.

    read: (fields, images a device) → reading, UserError for a combination that does not suit the
    config. Above a batch that does not fit, a combination is not compiled.
    """
    found: list[Point] = []
    full: set[int] = set()
    jobs = [(images, index) for images in sorted(batches) for index in range(len(combinations))]
    for number, (images, index) in enumerate(jobs, 1):
        fields = combinations[index]
        progress(f"{number} of {len(jobs)}: {images} images a device, {written(fields)}")
        if index in full:
            point = Point(fields, images, trouble="a smaller batch does not fit")
        else:
            try:
                point = Point(fields, images, read(fields, images))
            except UserError as e:
                point = Point(fields, images, trouble=str(e))
        if point.reading is not None and not point.reading["fits"]:
            full.add(index)
        progress(f"  {_told(point)}")
        found.append(point)
    return found


def written(fields: Fields) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items()) or "as the config"


def _told(point: Point) -> str:
    if point.reading is None:
        return f"not compiled: {point.trouble}"
    if point.memory is None:
        return f"does not fit: {mib(point.reading['memory']['needed'])} needed"
    return f"{mib(point.memory)}, {duration(point.seconds)} an image"


def front(points: Iterable[Point]) -> list[Point]:
    """Returns the points that no other beats in memory and in time an image, least memory first."""
    known = [p for p in points if p.memory is not None and p.seconds is not None]
    known.sort(key=lambda p: (p.memory or 0, p.seconds or 0))
    found: list[Point] = []
    for point in known:
        if not found or (point.seconds or 0) < (found[-1].seconds or 0):
            found.append(point)
    return found


HEADER = (
    "",
    "images a device>",
    "settings",
    "cycles>",
    "an image>",
    "images/s>",
    "memory needed>",
    "of the device>",
    "sent by a device>",
    "command",
)


def section(points: Sequence[Point], command: Callable[[Point], str]) -> Section:
    """Returns the table, the front first. command: what trains with a point's settings."""
    best = front(points)
    rest = [p for p in points if not any(p is one for one in best)]
    rows = [_row(p, "*", command(p)) for p in best] + [_row(p, "", command(p)) for p in rest]
    compiled = sum(p.reading is not None for p in points)
    over = sum(p.reading is not None and not p.reading["fits"] for p in points)
    note = (
        f"* no other point takes less memory and less time an image. {len(points)} combinations, "
        f"{compiled} compiled, {over} of them do not fit."
    )
    troubles = dict.fromkeys(p.trouble for p in points if p.trouble)
    if troubles:
        note += f" Not compiled: {'; '.join(troubles)}."
    return Section("Points", HEADER, rows, note)


def _row(point: Point, mark: str, command: str) -> list[str]:
    start = [mark, str(point.images), written(point.fields)]
    r = point.reading
    if r is None:
        return [*start, *"–––––", "", command]
    chip = figures_lib.chip_of(r)
    needed = r["memory"].get("needed")
    share = percent(needed / chip.hbm_bytes) if chip and needed is not None else "–"
    if not r["fits"]:
        return [*start, *"–––", f"{mib(needed)}, does not fit", share, "", command]
    wire = r["collective_totals"]["wire_bytes"]
    return [
        *start,
        thousands(r["cycles"]["total"]),
        duration(point.seconds),
        si(figures_lib.figures(r).images_per_second),
        mib(needed),
        share,
        mib(wire) if wire else "–",
        command,
    ]


def command_of(config: str, overrides: Sequence[str], devices: int) -> Callable[[Point], str]:
    """Returns a function from a point to the command that trains with its settings."""

    def command(point: Point) -> str:
        fields = {"batch_size": point.images * devices, **point.fields}
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        words = ["python", "-m", "vtadl_jax.main", "--config", config, *overrides, *flags]
        return " ".join(shlex.quote(word) for word in words)

    return command


def chart(points: Sequence[Point]) -> str:
    """Returns the HTML of a chart: every point, and a line through the front."""
    best = front(points)
    if not best:
        return ""
    dots = [
        (p.memory / 2**30, p.seconds * 1e6, f"{p.images} images a device, {written(p.fields)}")
        for p in points
        if p.memory is not None and p.seconds is not None
    ]
    drawn = line_chart(
        [(p.memory or 0) / 2**30 for p in best],
        [(p.seconds or 0) * 1e6 for p in best],
        dots,
        x_label="memory of a device, GiB",
        y_label="µs an image",
        name="Memory against time",
    )
    return f'<section><h2>Memory against time</h2><div class="charts">{drawn}</div></section>'


def as_data(points: Sequence[Point], command: Callable[[Point], str]) -> list[dict[str, Any]]:
    """Returns the points for JSON: readings without their lists of instructions."""
    best = front(points)
    return [
        {
            "fields": dict(p.fields),
            "images_per_device": p.images,
            "front": any(p is one for one in best),
            "trouble": p.trouble,
            "command": command(p),
            "reading": None
            if p.reading is None
            else {k: v for k, v in p.reading.items() if k != "instructions"},
        }
        for p in points
    ]
