"""One step on slices of growing size: cycles, bytes sent and memory of a chip on each.

Weak scaling: a fixed number of images per chip. Strong scaling: a fixed total number of images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.figures import change
from vtadl_jax.compiling.reading import Reading, read_step
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.topology import LOCAL, find_target
from vtadl_jax.compiling.wording import duration, mib, percent, si, thousands
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError

KINDS = ("weak", "strong")


def topologies(text: str) -> list[str]:
    """Parses 'v5e:1x1,2x2' into ['v5e:1x1', 'v5e:2x2']: a chip applies to the shapes after it."""
    if text == LOCAL:
        return [LOCAL]
    names: list[str] = []
    for part in text.split(","):
        chip = names[-1].partition(":")[0] if names else ""
        names.append(part.strip() if ":" in part else f"{chip}:{part.strip()}")
    if names[0].startswith(":"):
        raise UserError(f"sweep {text!r}: begin with a chip, as v5e:1x1,2x2,4x4")
    return names


def study(
    config: Config,
    name: str,
    shapes: Sequence[str],
    step: str,
    *,
    images_per_device: int,
    images_in_all: int,
    cache: Path,
    progress: Callable[[str], None],
    xla: Mapping[str, Any] | None = None,
) -> dict[str, list[Reading]]:
    """Returns readings by kind, one per topology; a program that both kinds need is compiled once.

    Strong scaling skips sizes that do not divide the total number of images.
    """
    found: dict[str, list[Reading]] = {kind: [] for kind in KINDS}
    jobs = [("weak", shape, images_per_device) for shape in shapes]
    for shape in reversed(shapes):  # many images a device take longest to compile
        size = find_target(shape).size
        if images_in_all and images_in_all % size == 0:
            jobs.append(("strong", shape, images_in_all // size))
    for number, (kind, shape, images) in enumerate(jobs, 1):
        progress(f"{number} of {len(jobs)}: {shape}, {kind}, {images} images a device")
        reading = read_step(config, name, find_target(shape), step, images, cache, xla=xla)
        found[kind].append(reading)
        progress(_told(reading))
    found["strong"].reverse()
    return found


def _told(reading: Reading) -> str:
    if not reading["fits"]:
        return f"  does not fit: {mib(reading['memory']['needed'])} needed"
    compiled = duration(reading["seconds"]["compile"])
    return f"  {thousands(reading['cycles']['total'])} cycles, compiled in {compiled}"


def sections(found: dict[str, list[Reading]], num_images: int) -> list[Section]:
    made = [_table(kind, found[kind], num_images) for kind in KINDS if found[kind]]
    return [*made, _collectives(found["weak"])] if found["weak"] else made


def _table(kind: str, readings: Sequence[Reading], num_images: int) -> Section:
    base = next((r for r in readings if r["fits"]), None)
    rows = []
    for r in readings:
        p = r["program"]
        row = [p["topology"], thousands(p["num_devices"]), f"{p['images_per_device']:g}"]
        if not r["fits"] or base is None:
            rows.append([*row, f"needs {mib(r['memory']['needed'])}", *["–"] * 6])
            continue
        f, s = figures_lib.figures(r), figures_lib.schedule(r, num_images)
        grown = change(base["cycles"]["total"], r["cycles"]["total"])
        rows.append(
            [
                *row,
                thousands(r["cycles"]["total"]),
                percent(grown, signed=True) if kind == "weak" else "",
                mib(r["collective_totals"]["wire_bytes"]),
                duration(f.call),
                si(f.images_per_second),
                mib(r["memory"]["needed"]),
                f"{duration(s.seconds)} ({thousands(s.calls)} steps)",
            ]
        )
    header = [
        "topology",
        "chips>",
        "images a chip>",
        "cycles of a chip>",
        "growth>" if kind == "weak" else ">",
        "sent by a chip>",
        "a step>",
        "images/s>",
        "memory>",
        "whole training>",
    ]
    note = (
        "Cycles are those outside collectives. A step adds what a chip sends at the rate of its "
        "links, as if nothing overlapped; the training is the same number of images on each."
    )
    return Section(f"{kind.capitalize()} scaling", header, rows, note)


def _collectives(readings: Sequence[Reading]) -> Section:
    rows = []
    for r in readings:
        if not r["fits"]:
            continue
        p, totals = r["program"], r["collective_totals"]
        found = dict.fromkeys(("gradients", "weights", "sums"), 0)
        for c in r["collectives"]:
            found["gradients" if c["carries"] == "both" else c["carries"]] += c["bytes"]
        rows.append(
            [
                p["topology"],
                thousands(totals["instructions"]),
                thousands(totals["executed"]),
                *map(mib, found.values()),
                mib(totals["wire_bytes"]),
                f"{totals['wire_bytes'] / p['parameter_bytes']:.2f}",
            ]
        )
    header = [
        "topology",
        "in the program>",
        "executed>",
        "gradients>",
        "weights>",
        "sums only>",
        "sent by a chip>",
        "sent / parameters>",
    ]
    note = "A ring that sums all gradients in float32 sends 2 (n - 1) / n of the parameters' bytes."
    return Section("Collectives, weak scaling", header, rows, note)


def curves(readings: Sequence[Reading], num_images: int) -> list[tuple]:
    """Returns curves (name, unit, x, y) over log2 of the number of devices."""
    fitting = [r for r in readings if r["fits"] and r["cycles"]["total"] is not None]
    x = [math.log2(r["program"]["num_devices"]) for r in fitting]
    found = [figures_lib.figures(r) for r in fitting]
    return [
        ("cycles of a chip", "M", x, [r["cycles"]["total"] / 1e6 for r in fitting]),
        (
            "bytes sent by a chip",
            "MiB",
            x,
            [r["collective_totals"]["wire_bytes"] / 2**20 for r in fitting],
        ),
        ("memory of a chip", "GiB", x, [r["memory"]["needed"] / 2**30 for r in fitting]),
        ("images a second", "", x, [f.images_per_second or 0 for f in found]),
        (
            "whole training",
            "s",
            x,
            [figures_lib.schedule(r, num_images).seconds or 0 for r in fitting],
        ),
    ]
