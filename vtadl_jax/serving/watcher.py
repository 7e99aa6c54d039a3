"""Watches a folder: every image that arrives there gets one result file, whatever happens.

A result is written whole under a name made from the image's name, size and time, then the journal
gets its line. After kill -9 at any moment, what has a result or a line is not scored again, and
what has none is. No arrival is written over another: a file that replaces one of the same name has
a result of its own. Files that can't be read are moved to `unreadable`, with the reason beside.
"""

import contextlib
import dataclasses
import datetime
import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from vtadl_jax.errors import UserError, printable
from vtadl_jax.report.picture_files import check_folder
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import is_leftover, replacing, temporary_name, write_json, write_text
from vtadl_jax.runtime.lock import locked
from vtadl_jax.serving.answers import answer_of, encode_map, take_in
from vtadl_jax.serving.arrivals import Arrival, Arrivals, Changed
from vtadl_jax.serving.batching import Batcher, Scored, Stopping
from vtadl_jax.serving.drift import Drift
from vtadl_jax.serving.journal import JOURNAL, Journal
from vtadl_jax.serving.limits import Limits, Refused
from vtadl_jax.serving.logs import log

UNREADABLE = "unreadable"
_AGAIN = 4  # looks until a file that failed is tried again
_LONGEST_PAUSE = 256  # looks between tries of what keeps failing
_NAME_BYTES = 150


@dataclasses.dataclass(frozen=True)
class _Later:
    """A file that failed: as it was, the look at which it is tried again, and the tries so far."""

    arrival: Arrival
    look: int
    tries: int


class Watcher:
    """Scorer of the images that arrive in a folder. Make it with `opened`."""

    def __init__(self, watch: Path, results: Path, journal: Journal, poll_s: float):
        self._results, self._journal, self._poll = results, journal, poll_s
        self._arrivals = Arrivals(watch)
        self._later: dict[str, _Later] = {}
        self._looks, self._seconds = 0, 0.0

    _batcher: Batcher
    _model: str
    _limits: Limits
    _map: str
    _drift: Drift | None = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, watch: Path, results: Path, poll_s: float) -> Iterator["Watcher"]:
        """Holds the lock of the results in a with block, and reads their journal.

        Raises UserError: no folder to watch, folders within each other, results in use by another
        process.
        """
        _check_folders(watch, results)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(results))
            except UserError as error:
                if "in use" not in str(error):
                    raise
                raise UserError(
                    f"--results {printable(results)} is in use by another process: end it, or give "
                    f"another folder"
                ) from error
            _remove_leftovers(results)
            journal = Journal(results / JOURNAL)
            stack.callback(journal.close)
            say(f"watching {printable(watch)}: {len(journal)} files were done before")
            yield cls(watch, results, journal, poll_s)

    def score_with(
        self,
        batcher: Batcher,
        model: str,
        limits: Limits,
        map_format: str,
        drift: Drift | None = None,
    ) -> None:
        """Sets what scores. map_format: of the maps beside the results, 'none' for none."""
        self._batcher, self._model, self._limits, self._map = batcher, model, limits, map_format
        self._drift = drift

    @property
    def pause(self) -> float:
        """Seconds until the next look: longer where a look at many files takes long."""
        return max(self._poll, 4 * self._seconds)

    def look(self, stop: threading.Event) -> int:
        """Scores what is whole, until `stop` is set; returns the number of results written."""
        start = time.perf_counter()
        arrived = self._arrivals.look(lambda key: key in self._journal)
        self._seconds = time.perf_counter() - start
        self._looks += 1
        names = {each.name for each in arrived}
        self._later = {name: later for name, later in self._later.items() if name in names}
        due = [each for each in arrived if self._is_due(each)]
        size, written = 2 * self._batcher.models[self._model].batch_size, 0
        for begin in range(0, len(due), size):
            if stop.is_set():
                break
            written += self._score(due[begin : begin + size])
        return written

    def _is_due(self, arrival: Arrival) -> bool:
        later = self._later.get(arrival.name)
        return later is None or later.arrival != arrival or later.look <= self._looks

    def _score(self, arrivals: Sequence[Arrival]) -> int:
        """Scores some files side by side and finishes each."""
        jobs: list[tuple[Arrival, Future]] = []
        for arrival in arrivals:
            with self._failing(arrival):
                if self._place(arrival, ".json").exists():  # killed before its line
                    self._done(arrival, "scored", self._place(arrival, ".json"))
                else:
                    jobs.append((arrival, self._batcher.submit(self._model, self._loader(arrival))))
        written = 0
        for arrival, job in jobs:
            with self._failing(arrival):
                try:
                    written += self._finish(arrival, job.result())
                except Refused as refused:
                    self._refuse(arrival, refused.text)
        return written

    def _loader(self, arrival: Arrival) -> Any:
        model, limits = self._batcher.models[self._model], self._limits
        return lambda: take_in(model, arrival.read(limits.max_bytes), limits)

    @contextlib.contextmanager
    def _failing(self, arrival: Arrival) -> Iterator[None]:
        """Keeps a file for later whatever fails with it, and says so."""
        try:
            yield
        except (Changed, Stopping, CancelledError):
            pass  # it is looked at again, or at the next start
        except Exception as error:  # the disk, the network, the device: none may end the watch
            tries = self._put_off(arrival)
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if tries & (tries - 1) == 0:  # the 1st, 2nd, 4th, … time
                say(f"{printable(arrival.name)} waits, as it failed: {printable(reason)}")
            log("failed", name=printable(arrival.name), error=printable(reason), tries=tries)

    def _put_off(self, arrival: Arrival) -> int:
        before = self._later.get(arrival.name)
        tries = 1 + (before.tries if before is not None and before.arrival == arrival else 0)
        pause = min(_AGAIN * 2 ** min(tries - 1, 10), _LONGEST_PAUSE)
        self._later[arrival.name] = _Later(arrival, self._looks + pause, tries)
        return tries

    def _finish(self, arrival: Arrival, scored: Scored) -> bool:
        model = self._batcher.models[self._model]
        found = answer_of(arrival.name, scored, model, self._limits)
        modified = datetime.datetime.fromtimestamp(arrival.mtime_ns / 1e9, datetime.UTC)
        source = {"bytes": arrival.size, "modified": modified.isoformat()}
        found = {"model": self._model, **found, "source": source}
        place = self._place(arrival, ".json")
        check_folder(place.parent)
        anomaly_map = scored.prediction.anomaly_map
        if self._map != "none" and anomaly_map is not None:
            file = self._place(arrival, f".{self._map}")
            with replacing(file) as stream:
                stream.write(encode_map(anomaly_map, model, self._map))
            low, high = model.calibration.map_low, model.calibration.map_high
            found["map"] = {"file": file.name, "low": low, "high": high}
        if self._drift is not None:
            self._drift.add(self._model, scored.prediction)
        write_json(place, found)  # last: it says that all is there
        self._done(arrival, "scored", place)
        facts = {key: found[key] for key in ("decision", "score", "threshold")}
        log("result", name=printable(arrival.name), file=self._name(place), **facts)
        return True

    def _refuse(self, arrival: Arrival, reason: str) -> None:
        """Moves a file that can't be read, at the second time: its writer may have paused."""
        before = self._later.get(arrival.name)
        if before is None or before.arrival != arrival:
            self._put_off(arrival)
            return
        folder = self._results / UNREADABLE
        check_folder(folder)
        place = folder / self._place(arrival, arrival.path.suffix).name
        write_text(place.with_name(f"{place.name}.txt"), f"{printable(arrival.name)}\n{reason}\n")
        try:
            _move(arrival.path, place)
            file = self._name(place)
        except OSError as error:
            why = error.strerror or error
            say(f"{printable(arrival.name)} can't be moved ({why}): it stays, and is passed over")
            file = ""
        self._done(arrival, "unreadable", place if file else None)
        say(f"{printable(arrival.name)} can't be read: {file or 'it stays'}: {reason}")
        log("unreadable", name=printable(arrival.name), file=file, error=reason)

    def _done(self, arrival: Arrival, outcome: str, place: Path | None) -> None:
        file = "" if place is None else self._name(place)
        self._journal.add(arrival.key, printable(arrival.name), outcome, file)
        self._later.pop(arrival.name, None)

    def _place(self, arrival: Arrival, ending: str) -> Path:
        """Returns the file of a result: the image's name, its key and the ending."""
        *folders, file = [_plain(part) for part in arrival.name.split("/")]
        return self._results.joinpath(*folders, f"{file}-{arrival.key}{ending}")

    def _name(self, place: Path) -> str:
        return place.relative_to(self._results).as_posix()


def _plain(part: str) -> str:
    """Returns a part of a path that every file system holds; it need not be unique."""
    text = printable(part).replace("\\", "_").replace(":", "_").rstrip(". ")
    return text.encode()[:_NAME_BYTES].decode("utf-8", "ignore") or "_"


def _check_folders(watch: Path, results: Path) -> None:
    if not watch.is_dir():
        raise UserError(f"--watch {printable(watch)} is no folder: make it, or give another")
    check_folder(results)
    inner, outer = results.resolve(), watch.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UserError(
            f"--results {printable(results)} and --watch {printable(watch)} are within each other: "
            f"give a folder beside it"
        )


def _remove_leftovers(results: Path) -> None:
    """Removes what killed processes were writing."""
    for path in results.rglob(".*"):
        if is_leftover(path) and not path.is_dir():
            with contextlib.suppress(OSError):
                path.unlink()


def _move(path: Path, place: Path) -> None:
    """Moves a file, also to another disk, where it is whole before it is removed here."""
    try:
        path.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = temporary_name(place)
        try:
            shutil.copy2(path, temporary, follow_symlinks=False)
            if not temporary.is_symlink():
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        path.unlink()
