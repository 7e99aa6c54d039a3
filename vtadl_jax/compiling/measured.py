"""Puts measured times beside the compiler's estimates: a profile, read by the program's names.

A trace of `jax.profiler` has an event for every instruction that a device executed, with its name
in the compiled program. The program is compiled again here, by the same compiler, so that its names
are the trace's. Times of one device overlap where it runs several instructions at once.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import duration, percent, thousands
from vtadl_jax.errors import UserError

MOST = 20  # rows of the table of instructions
LEAST_FOUND = 0.5  # of the traced time; below it, the trace is of another program
_LINE = "XLA Ops"  # where a TPU's trace has its instructions


def find_trace(folder: Path) -> Path:
    """Returns the newest trace in a folder of `jax.profiler`, or the file itself.

    Raises UserError if there is none.
    """
    if folder.is_file():
        return folder
    found = [p for p in folder.rglob("*.trace.json.gz") if "memory" not in p.name]
    if not found:
        raise UserError(
            f"--measured {folder} holds no *.trace.json.gz: give the profile/ folder of a run with "
            f"--config.profile.num_steps=3"
        )
    return max(found, key=lambda p: p.stat().st_mtime)


def read_trace(path: Path) -> dict[str, Any]:
    """Returns seconds and events of every instruction of the module that took most of the time.

    module: its name; calls: how often a device ran it; devices: their number; operations: name →
    [seconds, events], over all calls and devices. Raises UserError for a file that is no trace,
    and for a trace without instructions.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as f:
            found = json.load(f)
        events = list(_instructions(found["traceEvents"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"--measured {path} is no trace of jax.profiler ({e})") from e
    if not events:
        raise UserError(
            f"--measured {path} has no instruction of a device: trace steps, not their compilation"
        )
    time = Counter[str]()
    for event in events:
        time[event["module"]] += event["seconds"]
    module = time.most_common(1)[0][0]
    mine = [event for event in events if event["module"] == module]
    devices = {event["device"] for event in mine}
    runs = {(event["device"], event["run"]) for event in mine}
    operations: dict[str, list[float]] = {}
    for event in mine:
        row = operations.setdefault(event["name"], [0.0, 0])
        row[0] += event["seconds"]
        row[1] += 1
    return {
        "trace": path.name,
        "module": module,
        "devices": len(devices),
        "calls": len(runs) / len(devices),
        "operations": operations,
    }


def _instructions(events: Sequence[dict]) -> Iterator[dict[str, Any]]:
    threads = {
        (e.get("pid"), e.get("tid")): e["args"].get("name", "")
        for e in events
        if e.get("ph") == "M" and e.get("name") == "thread_name"
    }
    for e in events:
        args = e.get("args", {})
        line = threads.get((e.get("pid"), e.get("tid")), "")
        if e.get("ph") != "X" or not ("hlo_op" in args or line.startswith(_LINE)):
            continue
        yield {
            "name": str(args.get("hlo_op", e["name"])).lstrip("%"),
            "module": str(args.get("hlo_module", "")),
            "device": (e.get("pid"), args.get("device_ordinal", 0)),
            "run": args.get("run_id", args.get("group_id", "")),
            "seconds": float(e["dur"]) / 1e6,
        }


def beside(reading: Reading, trace: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the measured times of one device and call, for the reading's instructions.

    rows: instructions with their seconds and, where the compiler estimates cycles and the clock is
    known, the estimate. found: the part of the traced time that is of this program; missing:
    the traced names that are not, longest first.

    Raises UserError if most of the time is of another program.
    """
    calls = trace["calls"] * trace["devices"]
    chip = figures_lib.chip_of(reading)
    known = {one["name"]: one for one in reading["instructions"]}
    rows, other, total = [], [], 0.0
    loops = {"while", "call", "conditional"}
    for name, (seconds, events) in trace["operations"].items():
        one = known.get(name)
        if one is None and name.partition(".")[0] in loops:
            continue  # its instructions are in the trace too
        total += seconds
        if one is None:
            other.append((seconds, name))
            continue
        cycles = one["cycles"]
        estimate = chip.seconds(cycles) * one["times"] if chip and cycles is not None else None
        rows.append(
            {**one, "estimate": estimate, "measured": seconds / calls, "events": events / calls}
        )
    rows.sort(key=lambda row: -row["measured"])
    matched = sum(row["measured"] for row in rows) * calls
    found = matched / total if total else 0.0
    if found < LEAST_FOUND:
        raise UserError(
            f"--measured: {percent(1 - found)} of the time in {trace['trace']} is not of this "
            f"program: give the config, batch and --step of the traced run, and its versions"
        )
    other.sort(reverse=True)
    return {
        "trace": trace["trace"],
        "module": trace["module"],
        "devices": trace["devices"],
        "calls": trace["calls"],
        "found": found,
        "seconds": total / calls,
        "missing": [name for _, name in other],
        "rows": rows,
    }


def sections(measured: dict[str, Any]) -> list[Section]:
    """Returns the tables of modules and of instructions: estimate, measured, ratio."""
    rows = measured["rows"]
    modules: dict[str, list[dict]] = {}
    for row in rows:
        modules.setdefault(row["module"], []).append(row)
    total = sum(row["measured"] for row in rows)
    order = sorted(modules, key=lambda name: -sum(r["measured"] for r in modules[name]))
    by_module = [
        [name, thousands(len(modules[name])), *_times(modules[name], total)] for name in order
    ]
    by_module.append(["all", thousands(len(rows)), *_times(rows, total)])
    missing = measured["missing"]
    note = (
        f"{measured['trace']}: {measured['calls']:g} calls of {measured['module'] or 'a program'} "
        f"on {measured['devices']} device(s), the mean of one call of one device; "
        f"{percent(measured['found'])} of the traced time is of this program"
    )
    note += f" ({len(missing)} other names, as {missing[0]})." if missing else "."
    if all(row["estimate"] is None for row in rows):
        note += " This compiler estimates no cycles."
    top = [
        [
            row["name"],
            row["module"] + (" (backward)" if row["backward"] else ""),
            row["source"] or "–",
            row["operation"] or row["opcode"],
            *_times([row], total),
        ]
        for row in rows[:MOST]
    ]
    header = ["estimate>", "measured>", "ratio>", "share>"]
    more = f"Longest first, {len(top)} of {len(rows)}."
    return [
        Section("Measured, by module", ["module", "instructions>", *header], by_module, note),
        Section(
            "Measured, by instruction",
            ["name", "module", "source", "operation", *header],
            top,
            more,
        ),
    ]


def _times(rows: Sequence[dict], total: float) -> list[str]:
    """Returns the cells of some instructions; the ratio is of those with an estimate only."""
    seconds = sum(row["measured"] for row in rows)
    known = [row for row in rows if row["estimate"] is not None]
    estimate = sum(row["estimate"] for row in known)
    ratio = sum(row["measured"] for row in known) / estimate if estimate else None
    return [
        duration(estimate) if known else "–",
        duration(seconds),
        "–" if ratio is None else f"{ratio:.2f}",
        percent(seconds / total) if total else "–",
    ]
