"""A trace of chosen steps, for TensorBoard's profiler and Perfetto, and its short summary.

`config.profile.first_step` and `num_steps` choose; the files are in the workdir's `profile/`. The
log then says what took the time, so that no viewer is needed for a first look.
"""

import contextlib
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.writers import say

FOLDER = "profile"
MEMORY = "memory.pprof"
MOST = 8  # rows of the summary
STEP = "train"  # the name of a step in the trace


def check_settings(settings: ConfigDict) -> None:
    if settings.num_steps < 0 or settings.first_step < 0:
        raise UserError(
            f"profile.first_step {settings.first_step}, num_steps {settings.num_steps}: use 0 or "
            f"more, and num_steps=0 for no trace"
        )


class Profiler:
    """Traces the steps from `first_step` on, counted from the start of this process.

    The first steps of a process warm up; first_step 0 has them in the trace too.
    """

    def __init__(self, workdir: Path, settings: ConfigDict):
        self._folder, self._memory = workdir / FOLDER, settings.memory
        self._first, self._stop = settings.first_step, settings.first_step + settings.num_steps
        self._done, self._running = 0, False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step of the loop."""
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
        """Ends the trace once `results` of its last step are there."""
        if self._running and self._done >= self._stop:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Write what was traced."""
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
    """Complete events of a Perfetto trace: name, dur in µs, and the name of their thread."""
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
    """The names that took longest, in time of their own: what they call is not counted twice."""
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
    return [f"  {time / steps / 1000:8.2f} ms a step  {name}" for name, time in told[:MOST]]


def _own_times(events: Sequence[dict]) -> Iterator[tuple[str, float]]:
    """(name, duration without that of the events within) of one thread."""
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
    """Threads that wait for work, and the profiler's own record of Python calls."""
    return name.startswith("$") or "wait" in name.lower() or name == "ThreadpoolListener::Region"
