"""Traces chosen steps for TensorBoard's profiler and Perfetto, and prints a short summary.

`config.profile.first_step` and `num_steps` choose the steps; the files are in `profile/` in the
workdir. The summary in the log lists the operations that took longest, without a viewer.
"""

import contextlib
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from vtadl_jax.config import ProfileOptions
from vtadl_jax.runtime.console import say

FOLDER = "profile"
MEMORY = "memory.pprof"
MOST = 8  # rows of the summary
STEP = "train"  # the name of a step in the trace


class Profiler:
    """Profiler of the steps from `first_step` on, counted from the start of this process.

    The first steps of a process are slower (warm-up); first_step 0 traces them too.
    """

    def __init__(self, workdir: Path, settings: ProfileOptions):
        self._folder, self._memory = workdir / FOLDER, settings.memory
        self._first, self._stop = settings.first_step, settings.first_step + settings.num_steps
        self._done, self._running = 0, False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps one step of the loop; starts the trace at `first_step`."""
        if self._done == self._first < self._stop:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True
        if self._running:
            with jax.profiler.StepTraceAnnotation(STEP, step_num=number):
                yield
        else:
            yield
        self._done += 1

    def after(self, results) -> None:
        """Ends the trace when the `results` of its last step are ready."""
        if self._running and self._done >= self._stop:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes the trace and prints its summary."""
        if not self._running:
            return
        self._running = False
        if self._memory:
            jax.profiler.save_device_memory_profile(str(self._folder / MEMORY))
        jax.profiler.stop_trace()
        count = self._done - self._first
        say(f"traced {count} steps into {self._folder}: tensorboard --logdir {self._folder}, or")
        traces = sorted(self._folder.rglob("*perfetto_trace.json.gz"))
        if traces:
            say(f"drop {traces[-1]} on ui.perfetto.dev")
            for line in summary(read_events(traces[-1]), count):
                say(line)


def read_events(path: Path) -> list[dict]:
    """Returns the complete events of a Perfetto trace: name, ts and dur in µs, thread's name."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        found = json.load(f)
    events = found["traceEvents"] if isinstance(found, dict) else found
    threads = {
        (e.get("pid"), e.get("tid")): e["args"].get("name", "")
        for e in events
        if e.get("ph") == "M" and e.get("name") == "thread_name"
    }
    return [
        {
            "name": e["name"],
            "dur": float(e["dur"]),
            "ts": float(e["ts"]),
            "thread": threads.get((e.get("pid"), e.get("tid")), ""),
        }
        for e in events
        if e.get("ph") == "X" and "dur" in e
    ]


def summary(events: Sequence[dict], num_steps: int) -> list[str]:
    """Returns lines with the events of the longest self time (without the events inside them)."""
    own: dict[str, float] = defaultdict(float)
    by_thread: dict[str, list[dict]] = defaultdict(list)
    for event in events:
        by_thread[event["thread"]].append(event)
    for thread in by_thread.values():
        for name, time in _own_times(thread):
            own[name] += time
    told = [(name, time) for name, time in own.items() if not _is_waiting(name)]
    told.sort(key=lambda item: -item[1])
    steps = max(num_steps, 1)
    return [f"  {time / steps / 1000:8.2f} ms per step  {name}" for name, time in told[:MOST]]


def _own_times(events: Sequence[dict]) -> Iterator[tuple[str, float]]:
    """Yields (name, self time) of the events of one thread: duration minus that of inner events."""
    stack: list[tuple[float, str, float]] = []  # end, name, own time

    def close(until: float) -> Iterator[tuple[str, float]]:
        while stack and stack[-1][0] <= until:
            _, name, time = stack.pop()
            yield name, time

    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        yield from close(event["ts"])
        if stack:
            end, name, time = stack[-1]
            stack[-1] = (end, name, time - event["dur"])
        stack.append((event["ts"] + event["dur"], event["name"], event["dur"]))
    yield from close(float("inf"))


def _is_waiting(name: str) -> bool:
    """Returns whether an event is a thread's wait for work, or the profiler's own Python record."""
    return name.startswith("$") or "wait" in name.lower() or name == "ThreadpoolListener::Region"
