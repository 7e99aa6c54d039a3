"""Progress output of a run: a bar on a terminal, plain lines elsewhere, and metric files."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from vtadl_jax.runtime.files import writing

METRICS_FILE, BOARD = "metrics.jsonl", "tensorboard"  # in the workdir of a run
LINE_SECONDS = 30  # between lines of progress where there is no terminal
_silent = False


def silence() -> None:
    """Disables lines and bars in this process; the main process prints them."""
    global _silent
    _silent = True


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Disables lines and bars in a with block: for work that is repeated and was told once."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def say(text: str) -> None:
    """Prints one line to stderr, above the progress bar if there is one."""
    if not _silent:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def _no_bar() -> bool:
    return _silent or not sys.stderr.isatty()


def track(items: Iterable, total: int, what: str) -> Iterable:
    """Iterates over `items` with a progress bar on a terminal; elsewhere with a line now and then,
    so that long work does not look like a stopped program."""
    if _silent or sys.stderr.isatty():
        return tqdm(items, total=total, desc=what, disable=_no_bar(), leave=False)
    return _lines(items, total, what)


def _lines(items: Iterable, total: int, what: str) -> Iterator:
    last = time.perf_counter()
    for number, item in enumerate(items):
        if (now := time.perf_counter()) - last >= LINE_SECONDS:
            say(f"{what} {number}/{total}")
            last = now
        yield item


class MetricWriter:
    """Writer of scalars to `metrics.jsonl` and TensorBoard event files in the workdir.

    Writes events in the calling thread: tensorboardX's SummaryWriter writes in a thread of its own
    and waits for it forever after a full disk has killed it. Imports tensorboardX at the first
    report, not before the first step: it imports torch if that is installed, which takes seconds.
    """

    def __init__(self, workdir: Path):
        self._path, self._folder = workdir / METRICS_FILE, workdir / BOARD
        with writing(self._path):
            self._lines = _open_lines(self._path)
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
        self._board: Any = None

    def write(self, step: int, scalars: dict[str, float], prefix: str) -> None:
        """Writes scalars of a step. Raises UserError if the disk is full."""
        record = {"step": step, **{f"{prefix}/{k}": v for k, v in scalars.items()}}
        with writing(self._path):
            self._lines.write((json.dumps(record) + "\n").encode())
            self._lines.flush()
        with writing(self._folder):
            self._write_events(step, scalars, prefix)

    def _write_events(self, step: int, scalars: dict[str, float], prefix: str) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        if self._board is None:
            self._board = EventsWriter(str(self._folder / "events"))
        for name, value in scalars.items():
            if math.isfinite(value):
                summary = scalar(f"{prefix}/{name}", value)
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._board.flush()

    def close(self) -> None:
        with writing(self._path):
            self._lines.close()
        if self._board is not None:
            with writing(self._folder):
                self._board.close()


def _open_lines(path: Path) -> IO[bytes]:
    """Opens a file of lines to append to, after the end of a line that was cut short."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    lines = os.fdopen(descriptor, "ab")
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        lines.write(b"\n")
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl, [] if there is none.

    A full disk or a power cut may leave half a line; such lines are left out, with a note.
    """
    if not path.is_file():
        return []
    lines = list(filter(None, path.read_bytes().split(b"\n")))
    records = list(filter(None, map(_record, lines)))
    if skipped := len(lines) - len(records):
        say(f"note: {path}: {skipped} lines that were cut short or are no records are left out")
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record if all(map(_is_number, record.values())) else None


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


class NoWriter:
    """Stand-in for a MetricWriter, for processes that write nothing."""

    def write(self, step: int, scalars: dict[str, float], prefix: str) -> None:
        pass

    def close(self) -> None:
        pass


class TrainProgress:
    """Display of step, loss terms, images/s and time left: a bar on a terminal, lines elsewhere."""

    def __init__(self, first_step: int, num_steps: int, batch_size: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self._first = self._last_step = first_step
        self._start = self._last_time = time.perf_counter()
        self._bar = tqdm(total=num_steps, initial=first_step, desc="train", disable=_no_bar())

    def report(self, step: int, scalars: dict[str, float]) -> float:
        """Shows that `step` steps are done; returns images/s since the last report."""
        now = time.perf_counter()
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        overall = (step - self._first) / max(now - self._start, 1e-9)
        self._last_step, self._last_time = step, now
        terms = " ".join(f"{k} {v:.4g}" for k, v in scalars.items())
        images_per_second = rate * self._batch_size
        if self._bar.disable:
            left = (self._num_steps - step) / max(overall, 1e-9)
            say(
                f"step {step}/{self._num_steps}  {terms}  {images_per_second:.1f} images/s  "
                f"{format_duration(left)} left"
            )
        else:
            self._bar.set_postfix_str(f"{terms} {images_per_second:.1f} images/s", refresh=False)
            self._bar.update(step - self._bar.n)
        return images_per_second

    def skip(self) -> None:
        """Restarts the clock after work that was not training."""
        self._last_time = time.perf_counter()

    def close(self) -> None:
        self._bar.close()


def format_duration(seconds: float) -> str:
    """Returns '42s', '3m05s' or '2h10m'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
