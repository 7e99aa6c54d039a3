"""Saving and restoring a run; the only file that imports orbax.

A checkpoint holds the train state, the position of the data iterator, the config and, where the
state has been calibrated, the calibration. So a resumed run sees exactly the images that the
uninterrupted one would have seen, and a checkpoint can be used by itself. Each has a list of its
files' sizes and checksums, by which damage is found before anything is restored.
"""

import dataclasses
import errno
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from vtadl_jax.distributed import agree, is_main
from vtadl_jax.errors import UserError
from vtadl_jax.writers import say

_STATE, _DATA, _ABOUT = "state", "data", "about"
CHECKSUMS = "checksums.json"
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")  # what orbax writes at the very end
DAMAGED = "damaged-"  # before the step, in the name of a folder that is no longer used


@dataclasses.dataclass(frozen=True)
class Best:
    """The number by which one more checkpoint is kept."""

    name: str
    largest: bool


@dataclasses.dataclass(frozen=True)
class Restored:
    """about: {'config': ..., 'calibration': ... or None}, as it was saved."""

    state: Any
    step: int
    about: dict


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep`, and the best by one of their numbers.

    `writable=False` neither makes folders nor tidies up what a killed run left.
    """

    def __init__(
        self, workdir: Path, keep: int = 2, best: Best | None = None, *, writable: bool = True
    ):
        self.directory = (workdir / "checkpoints").absolute()
        self._writable, self._best = writable, best
        policies: list[Any] = [managers.LatestN(keep)]
        if best is not None:
            policies.append(
                managers.BestN(
                    get_metric_fn=lambda numbers: numbers[best.name],
                    reverse=not best.largest,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            # Without it, numbers of earlier checkpoints are forgotten when a run continues.
            best_fn=(lambda numbers: numbers[best.name]) if best else None,
            create=writable,
            read_only=not writable,
            cleanup_tmp_directories=writable,
            preservation_policy=managers.AnyPreservationPolicy(policies) if writable else None,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=(_STATE, _DATA, _ABOUT)
        )

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that are whole on disk, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    @property
    def latest_step(self) -> int | None:
        return max(self.steps, default=None)

    def save(
        self,
        step: int,
        state,
        data_iterator,
        *,
        config: dict | None = None,
        calibration: dict | None = None,
        numbers: dict[str, float] | None = None,
    ) -> None:
        """Write in the background; a checkpoint appears whole or not at all.

        numbers: what `best` chooses by. Raises UserError where the disk refuses, which may be the
        last save's trouble.
        """
        if step == self._manager.latest_step():
            return
        self.wait()
        self._check_room(sum(x.nbytes for x in jax.tree.leaves(state)))
        about = {"config": config, "calibration": calibration}
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(state),
                _DATA: ocp.args.JsonSave(data_iterator.get_state()),
                _ABOUT: ocp.args.JsonSave(about),
            }
        )
        # One without the number is never the best, and kept only while it is new.
        metrics = numbers if self._best and self._best.name in (numbers or {}) else None
        self._guard(lambda: self._manager.save(step, args=args, metrics=metrics))

    def restore(self, state_like, data_iterator=None, step: int | None = None) -> Restored:
        """The newest checkpoint that is whole, or that of `step`; its state shaped and sharded as
        `state_like`. Sets the iterator too.

        A damaged one is named, put aside if this may write, and the one before it is taken. Raises
        UserError if none is left.
        """
        candidates = agree(self.steps[::-1]) if step is None else [step]
        for candidate in candidates:
            if (problem := agree(self._damage(candidate))) is None:
                return self._restore(candidate, state_like, data_iterator)
            say(f"warning: checkpoint {self.directory / str(candidate)} is damaged: {problem}")
            self._put_aside(candidate)
        there = f", only {self.steps}" if step is not None and self.steps else ""
        raise UserError(f"{self.directory} holds no usable checkpoint{there}: train first")

    def _restore(self, step: int, state_like, data_iterator) -> Restored:
        args = {
            _STATE: ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, state_like)
            ),
            _DATA: ocp.args.JsonRestore(),
            _ABOUT: ocp.args.JsonRestore(),
        }
        items = self._manager.restore(step, args=ocp.args.Composite(**args))
        if data_iterator is not None:
            data_iterator.set_state(items[_DATA])
        return Restored(items[_STATE], step, items[_ABOUT])

    def _damage(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint."""
        folder = self.directory / str(step)
        try:
            expected = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return f"no {CHECKSUMS}"
        except (OSError, ValueError) as e:
            return f"{CHECKSUMS}: {e}"
        for name, (size, checksum) in expected.items():
            try:
                found = (folder / name).stat().st_size
                if found != size:
                    return f"{name} has {found} bytes instead of {size}"
                if _checksum(folder / name) != checksum:
                    return f"{name} has another checksum"
            except OSError as e:
                return f"{name}: {e.strerror}"
        return None

    def _put_aside(self, step: int) -> None:
        if not self._writable:
            return
        if is_main():
            aside = self.directory / f"{DAMAGED}{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
        agree(None)
        self._manager.reload()

    def _seal(self) -> None:
        """List the files of the checkpoint that orbax has just written, before it gets its name."""
        if not is_main():
            return
        for folder in self.directory.glob("*.orbax-checkpoint-tmp"):
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            sums = {
                path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
                for path in files
                if path.name not in LATER
            }
            (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")

    def _check_room(self, needed: int) -> None:
        """Before orbax finds out in the middle. Raises UserError."""
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._no_room(f"it takes {needed / 2**20:.0f} MiB, {free / 2**20:.0f} are free")

    def _no_room(self, reason: str) -> UserError:
        good = self.latest_step
        kept = "there is no other" if good is None else f"the last good one is of step {good}"
        return UserError(
            f"a checkpoint could not be written to {self.directory}: {reason}; {kept}: make room "
            f"and rerun the same command"
        )

    def _guard(self, action: Callable[[], Any]) -> Any:
        """Run what may find that the disk refused a checkpoint, now or in the background."""
        try:
            return action()
        except Exception as error:
            reason = disk_trouble(error)
            if reason is None:
                raise
            raise self._no_room(reason) from error

    def wait(self) -> None:
        """Until what was saved is on disk. Raises UserError if that failed."""
        self._guard(self._manager.wait_until_finished)

    def close(self) -> None:
        self._guard(self._manager.close)


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as f:
        while block := f.read(2**20):
            total = zlib.crc32(block, total)
    return total


def disk_trouble(error: BaseException | None) -> str | None:
    """Why the disk refused, if that is behind an error: orbax and tensorstore wrap the system's."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        if isinstance(error, OSError) and error.errno in full:
            return error.strerror
        for text in ("No space left on device", "Disk quota exceeded", "File too large"):
            if text in str(error):
                return text
        error = error.__cause__ or error.__context__
    return None
