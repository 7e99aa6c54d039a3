"""Compiles every method for training, scoring and prediction, and tabulates what each needs.

A method's config is the one to start with (`python -m vtadl_jax.methods`). The cheapest programs
are compiled first: predictions, then scoring, then training, each in the order of the compile times
of the step before. Readings are cached, so an interrupted study continues.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vtadl_jax import experiment
from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.largest import find_largest
from vtadl_jax.compiling.reading import Reading, read_step
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.topology import find_target
from vtadl_jax.compiling.wording import duration, mib, percent, si, thousands
from vtadl_jax.config import Config
from vtadl_jax.detectors import find_method
from vtadl_jax.detectors.descriptions import descriptions
from vtadl_jax.errors import UserError

ORDER = ("predict", "eval", "train")  # of compilation, cheapest first
SHOWN = ("train", "eval", "predict")
Row = dict[str, Any]  # method, config, topology, step; reading and largest, or trouble


def chosen(text: str) -> list[str]:
    """Returns the methods of 'all' or 'vtadl,unet'. Raises UserError for an unknown one."""
    if text == "all":
        return list(descriptions())
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        find_method(name)
    return list(dict.fromkeys(names))


def study(
    methods: Sequence[str],
    topologies: Sequence[str],
    overrides: Sequence[str],
    *,
    steps: Sequence[str] = SHOWN,
    cache: Path,
    largest: bool,
    progress: Callable[[str], None],
    xla: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Returns a row for every method, topology and step, in the order of the table.

    overrides: flags of fields, for every config. steps: of SHOWN. largest: also finds the largest
    batch of training (of scoring for methods without steps). A method that the compiler refuses, or
    whose config the overrides do not suit, has a row that says why.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    seconds: dict[tuple[str, str], float] = {}
    order = [step for step in ORDER if step in steps]
    number, count = 0, len(methods) * len(topologies) * len(order)
    for step in order:
        pairs = [(topology, method) for topology in topologies for method in methods]
        pairs.sort(key=lambda pair: seconds.get(pair, 0.0))  # stable: the first step as given
        for topology, method in pairs:
            number += 1
            progress(f"{number} of {count}: {method}, {step} on {topology}")
            row = _row(method, topology, step, overrides, cache, largest, progress, xla or {})
            progress(f"  {_told(row)}")
            rows[method, topology, step] = row
            if reading := row.get("reading"):
                seconds[topology, method] = reading["seconds"]["compile"]
    return [rows[m, t, s] for t in topologies for m in methods for s in SHOWN if s in steps]


def _row(
    method: str,
    topology: str,
    step: str,
    overrides: Sequence[str],
    cache: Path,
    largest: bool,
    progress: Callable[[str], None],
    xla: Mapping[str, Any],
) -> Row:
    text = descriptions()[method].config
    row: Row = {"method": method, "config": text, "topology": topology, "step": step}
    try:
        config, name = experiment.load(text, overrides)
        config = experiment.assume_color(config)
        trains = experiment.make_detector(config).loss is not None and _has_steps(config)
        if step == "train" and not trains:
            return {**row, "trouble": "no steps: it is fitted in one pass"}
        target = find_target(topology)

        def read(images: int) -> Reading:
            return read_step(config, name, target, step, images, cache, xla=xla)

        row["reading"] = read(0)
        if largest and step == ("train" if trains else "eval"):
            row["largest"] = find_largest(read, row["reading"], target, progress)
    except UserError as e:
        return {**row, "trouble": str(e)}
    except jax.errors.JaxRuntimeError as e:
        return {**row, "trouble": f"refused by the compiler: {str(e).splitlines()[0]}"}
    return row


def _has_steps(config: Config) -> bool:
    return bool(config.num_train_steps or config.num_epochs)


def _told(row: Row) -> str:
    if trouble := row.get("trouble"):
        return trouble
    reading = row["reading"]
    if not reading["fits"]:
        return f"does not fit: {mib(reading['memory']['needed'])} needed"
    cycles = thousands(reading["cycles"]["total"])
    return f"{cycles} cycles, compiled in {duration(reading['seconds']['compile'])}"


def sections(rows: Sequence[Row]) -> list[Section]:
    """Returns a table per topology."""
    found = []
    for topology in dict.fromkeys(row["topology"] for row in rows):
        mine = [row for row in rows if row["topology"] == topology]
        found.append(_table(topology, mine))
    return found


HEADER = (
    "method",
    "config",
    "step",
    "images a device>",
    "cycles>",
    "a call>",
    "images/s>",
    "memory needed>",
    "of the device>",
    "collectives>",
    "sent by a device>",
    "largest batch>",
)


def _table(topology: str, rows: Sequence[Row]) -> Section:
    cells, notes = [], []
    for row in rows:
        start = [row["method"], row["config"].removeprefix("configs/"), row["step"]]
        if trouble := row.get("trouble"):
            notes.append(f"{row['method']}, {row['step']}: {trouble}.")
            cells.append([*start, *"–" * (len(HEADER) - 3)])
            continue
        cells.append([*start, *_figures(row)])
    with_steps = sum(row["step"] == "train" and "reading" in row for row in rows)
    methods = len({row["method"] for row in rows})
    trained = f", {with_steps} of them with train steps" * any(r["step"] == "train" for r in rows)
    note = (
        f"{methods} methods{trained}. Cycles are those outside "
        f"collectives; a call adds what a device sends, as if nothing overlapped. "
        f"{' '.join(notes)}"
    )
    return Section(f"Methods on {topology}", HEADER, cells, note.strip())


def _figures(row: Row) -> list[str]:
    reading = row["reading"]
    images = f"{reading['program']['images_per_device']:g}"
    chip = figures_lib.chip_of(reading)
    needed = reading["memory"].get("needed")
    share = percent(needed / chip.hbm_bytes) if chip and needed is not None else "–"
    if not reading["fits"]:
        return [images, *"–––", f"{mib(needed)}, does not fit", share, *"–––"]
    f, totals = figures_lib.figures(reading), reading["collective_totals"]
    found = row.get("largest")
    return [
        images,
        thousands(reading["cycles"]["total"]),
        duration(f.call),
        si(f.images_per_second),
        mib(needed),
        share,
        thousands(totals["executed"]),
        mib(totals["wire_bytes"]) if totals["executed"] else "–",
        str(found["images"]) if found else "",
    ]


def as_data(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows for JSON: readings without their lists of instructions."""
    return [
        {**row, "reading": {k: v for k, v in row["reading"].items() if k != "instructions"}}
        if "reading" in row
        else row
        for row in rows
    ]
