"""Saves and restores a run; the only file that imports orbax.

A checkpoint holds the train state without frozen weights (which are saved once per run), the state
of the data iterator, the config and, if the state was calibrated, the calibration. A resumed run
therefore sees the same images as an uninterrupted one, and a checkpoint is usable by itself. Each
checkpoint lists the sizes and checksums of its files, to find damage before anything is restored.
"""

import contextlib
import dataclasses
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from vtadl_jax import legacy
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError, disk_trouble
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.distributed import broadcast_from_main, is_main
from vtadl_jax.runtime.files import read_json, write_json
from vtadl_jax.training.stored import (
    check_format,
    check_trained_with,
    is_step,
    load_frozen,
    save_frozen,
    stamp,
)

_STATE, _DATA, _ABOUT = "state", "data", "about"
CHECKSUMS = "checksums.json"
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")  # orbax writes these after `_seal`
DAMAGED = "damaged-"  # prefix of the folder of a damaged checkpoint, before the step


@dataclasses.dataclass(frozen=True)
class Best:
    """The metric that selects one more checkpoint to keep."""

    name: str
    largest: bool


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored checkpoint. about: {'format', 'versions', 'config', 'calibration' (or None)}."""

    state: Any
    step: int
    about: dict


@contextlib.contextmanager
def _without_notice() -> Iterator[None]:
    """Drops orbax's warning that a folder is opened for reading, which is what was asked for."""

    def keeps(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Given directory is read only")

    logger = logging.getLogger("absl")  # orbax's; its level and its handlers stay
    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep`, and the best by one of their metrics.

    `writable=False` neither creates folders nor removes the temporary files of a killed run.
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
            # Without it orbax drops the metrics of earlier checkpoints when a run continues.
            best_fn=(lambda numbers: numbers[best.name]) if best else None,
            create=writable,
            read_only=not writable,
            save_interval_steps=1 if writable else 0,  # orbax warns of 1 where nothing is saved
            cleanup_tmp_directories=writable,
            preservation_policy=managers.AnyPreservationPolicy(policies) if writable else None,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        with _without_notice() if not writable else contextlib.nullcontext():
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_names=(_STATE, _DATA, _ABOUT)
            )

    @property
    def steps(self) -> list[int]:
        """The steps of the complete checkpoints on disk, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if is_step(p))

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
        """Saves a checkpoint in the background, atomically.

        numbers: metrics that `best` selects by. Raises UserError if the disk is full, for this or
        for the previous save.
        """
        if step == self._manager.latest_step():
            return
        self.wait()
        self._check_room(sum(x.nbytes for x in jax.tree.leaves(state)))
        if is_main():
            self._guard(lambda: save_frozen(self.directory.parent, state.frozen))
        about = {**stamp(), "config": config, "calibration": calibration}
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(_without_frozen(state)),
                _DATA: ocp.args.JsonSave(data_iterator.get_state()),
                _ABOUT: ocp.args.JsonSave(about),
            }
        )
        # A checkpoint without the metric is never the best, and kept only while it is new.
        metrics = numbers if self._best and self._best.name in (numbers or {}) else None
        self._guard(lambda: self._manager.save(step, args=args, metrics=metrics))

    def restore(
        self,
        state_like,
        data_iterator=None,
        step: int | None = None,
        config: Config | None = None,
    ) -> Restored:
        """Restores the newest undamaged checkpoint, or that of `step`, with the shapes and
        shardings of `state_like`. Sets the iterator's state too.

        Warns about a damaged checkpoint, renames it if writable, and tries the one before it.
        config: that of the run, which must be the one that the checkpoint was trained with.
        Raises UserError if it is not, and if no checkpoint is left.
        """
        candidates = broadcast_from_main(self.steps[::-1]) if step is None else [step]
        for candidate in candidates:
            if (problem := broadcast_from_main(self._damage(candidate))) is None:
                return self._restore(candidate, state_like, data_iterator, config)
            say(f"warning: checkpoint {self.directory / str(candidate)} is damaged: {problem}")
            self._put_aside(candidate)
        there = f", only {self.steps}" if step is not None and self.steps else ""
        raise UserError(f"{self.directory} holds no usable checkpoint{there}: train first")

    def _restore(
        self, step: int, state_like, data_iterator, config: Config | None = None
    ) -> Restored:
        folder = self.directory / str(step)
        stored = {_DATA: ocp.args.JsonRestore(), _ABOUT: ocp.args.JsonRestore()}
        items = self._items(folder, ocp.args.Composite(**stored))
        about = items[_ABOUT]
        if not isinstance(about, dict):
            raise UserError(f"{folder} is not a checkpoint of vtadl_jax: remove it")
        old = check_format(about, folder) < legacy.FORMAT
        if config is not None:
            check_trained_with(config, about, folder)
        fields = legacy.old_state(state_like) if old else _without_frozen(state_like)
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, fields)
        args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(like)})
        found = self._items(folder, args)[_STATE]
        if old:
            state = state_like.replace(**legacy.upgrade_state(found))
        else:
            frozen = load_frozen(self.directory.parent, state_like.frozen)
            state = state_like.replace(**found, frozen=frozen)
        if data_iterator is not None:
            self._set_position(data_iterator, items[_DATA], folder)
        return Restored(state, step, about)

    def _items(self, folder: Path, args: ocp.args.Composite) -> Any:
        """Returns items of a checkpoint whose files are whole, but may be of something else."""
        try:
            return self._manager.restore(int(folder.name), args=args)
        except (KeyError, OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"checkpoint {folder} does not fit this run ({reason}): restore the run's own "
                f"files, or train again in another --workdir"
            ) from error

    def _set_position(self, data_iterator, position: Any, folder: Path) -> None:
        try:
            data_iterator.set_state(position)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"checkpoint {folder} has no usable position in the data ({error}): train again in "
                f"another --workdir"
            ) from error

    def _damage(self, step: int) -> str | None:
        """Returns what is wrong with the files of a checkpoint, None if nothing is."""
        folder = self.directory / str(step)
        try:
            expected = read_json(folder / CHECKSUMS)
        except FileNotFoundError:
            return f"no {CHECKSUMS}"
        except (OSError, ValueError) as e:
            return f"{CHECKSUMS}: {e}"
        if not expected:
            return f"{CHECKSUMS}: it lists no files"
        for name, entry in expected.items():
            if not _is_entry(entry) or not _is_inside(name):
                return f"{CHECKSUMS}: it says {str(entry)[:100]} of {name}"
            size, checksum = entry
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
            if aside.is_symlink() or aside.is_file():
                aside.unlink()
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
        broadcast_from_main(None)
        self._manager.reload()

    def _seal(self) -> None:
        """Writes the checksums of the files that orbax has just written, before it renames them."""
        if not is_main():
            return
        for folder in self.directory.glob("*.orbax-checkpoint-tmp"):
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            sums = {
                path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
                for path in files
                if path.name not in LATER
            }
            write_json(folder / CHECKSUMS, sums, indent=None)

    def _check_room(self, needed: int) -> None:
        """Raises UserError if the disk is too full, before orbax fails in the middle of a save."""
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._no_room(f"it takes {needed / 2**20:.0f} MiB, {free / 2**20:.0f} are free")

    def _no_room(self, reason: str) -> UserError:
        good = self.latest_step
        kept = "there is no other" if good is None else f"the last good one is step {good}"
        return UserError(
            f"a checkpoint could not be written to {self.directory}: {reason}; {kept}: make room "
            f"and rerun the same command"
        )

    def _guard(self, action: Callable[[], Any]) -> Any:
        """Runs an action; raises UserError if a save failed on a full disk, also in background."""
        try:
            return action()
        except Exception as error:
            reason = disk_trouble(error)
            if reason is None:
                raise
            raise self._no_room(reason) from error

    def wait(self) -> None:
        """Waits until all saves are on disk. Raises UserError if one failed."""
        self._guard(self._manager.wait_until_finished)

    def close(self) -> None:
        self._guard(self._manager.close)


def _without_frozen(state) -> dict[str, Any]:
    """Returns the fields of a train state that a checkpoint holds: all but the frozen weights."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if name != "frozen"}


def _is_entry(entry: Any) -> bool:
    """Returns whether an entry of the checksums is [size, checksum]."""
    return isinstance(entry, list) and [type(number) for number in entry] == [int, int]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as f:
        while block := f.read(2**20):
            total = zlib.crc32(block, total)
    return total
