"""Timing on a shared machine: alternating blocking calls and medians."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtadl_jax.errors import UserError

# Larger relative differences mean different results: float32 rounding is well below.
SAME = 1e-3
# Calls shorter than this are repeated until they fill it.
LEAST_SECONDS = 0.05


def once(call: Callable[[], object]) -> float:
    """Returns wall seconds of one call, including the wait for its JAX results."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Returns the median wall time of `call`, after one warm-up call."""
    once(call)
    return statistics.median(once(call) for _ in range(repeats))


def paired_seconds(
    calls: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Returns the seconds of every call in `repeats` rounds of all calls.

    Every call must have run before (compiled, allocated). A call that raises TimeoutError has no
    entry in the result and does not run again.
    """
    runs: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name in list(runs):
            try:
                runs[name] += _turn(calls[name])
            except TimeoutError:
                del runs[name]
    return runs


def _turn(call: Callable[[], object]) -> list[float]:
    """Times a call after a warm-up call: another side has just evicted the CPU caches, and its
    threads may still be spinning."""
    first = once(call)
    count = int(LEAST_SECONDS / max(first, 1e-6)) + 1
    return [once(call) for _ in range(min(count, 100))]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One implementation to time; without a call, only a note with the reason.

    values: the results of `call`, as arrays in the layout that all candidates share.
    """

    name: str
    call: Callable[[], Any] | None
    values: Callable[[Any], Sequence[Any]] | None = None
    note: str = ""


def compare(
    title: str, candidates: Sequence[Candidate], repeats: int, flops: float | None = None
) -> dict[str, Any]:
    """Runs the candidates, ours first, compares their results and times them in alternation.

    flops: nominal floating-point operations, the same for all. Returns {title,
    gflop, rows: [{name, seconds, least_seconds, gflops, ratio, difference, note}]}: seconds is the
    median, ratio that / the median of the first; difference the largest relative one of any output,
    as `relative_difference`.
    """
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    wanted: list[np.ndarray] = []
    for candidate in candidates:
        row: dict[str, Any] = {"name": candidate.name, "note": candidate.note}
        rows[candidate.name] = row
        if candidate.call is None:
            continue
        try:
            result = jax.block_until_ready(candidate.call())
        except (TimeoutError, ImportError) as error:
            row["note"] = str(error)
            continue
        if candidate.values is not None:
            got = [np.asarray(value) for value in candidate.values(result)]
            wanted = wanted or got
            row["difference"] = max(map(relative_difference, got, wanted))
            if row["difference"] > SAME:
                row["note"] = f"{row['note']} NOT THE SAME NUMBERS".strip()
        calls[candidate.name] = candidate.call
    runs = paired_seconds(calls, repeats)
    seconds = {name: statistics.median(times) for name, times in runs.items()}
    ours = seconds.get(candidates[0].name)
    for name, row in rows.items():
        if name in seconds:
            row["seconds"], row["least_seconds"] = seconds[name], min(runs[name])
            row["gflops"] = flops / seconds[name] / 1e9 if flops else None
            row["ratio"] = seconds[name] / ours if ours else None
        elif name in calls:
            row["note"] = "timed out in a later call"
    return {"title": title, "gflop": flops / 1e9 if flops else None, "rows": list(rows.values())}


def check_json(path: str | Path) -> None:
    """Raises UserError, before the measurements, if figures can't be written to `path`."""
    if path and not Path(path).parent.is_dir():
        raise UserError(f"--json {path}: {Path(path).parent} is not a folder: create it first")


def write_json(figures: Any, path: str | Path) -> str:
    """Returns the figures as JSON text; also written to `path`, if that is not empty."""
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if path:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text


def relative_difference(got: np.ndarray, want: np.ndarray) -> float:
    """Returns the largest |got - want| / largest |want|; infinite where a value is not finite."""
    if got.shape != want.shape:
        raise ValueError(f"results of shape {got.shape} and {want.shape} can't be compared")
    scale = max(float(np.abs(want).max()), float(np.finfo(np.float32).tiny))
    worst = float(np.abs(got.astype(np.float64) - want).max()) / scale
    return worst if np.isfinite(worst) else float("inf")
