"""A hidden folder to work in, beside what is made: gone at the end, and if a process was killed,
gone when the next one starts."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vtadl_jax.errors import UserError

PREFIX = ".prepare-"
_LOCK = "lock"


@contextlib.contextmanager
def staging(data_dir: Path) -> Iterator[Path]:
    """An empty folder in `data_dir`, which is made if need be, and what killed processes left there
    is removed. Raises UserError if that is not allowed."""
    missing = [p for p in (data_dir, *data_dir.parents) if not p.exists()]
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        remove_stale(data_dir)
        folder, lock = _locked(data_dir)
    except OSError as error:
        raise UserError(
            f"cannot write to --data_dir {data_dir}: {error.strerror}, give another"
        ) from error
    try:
        (folder / "work").mkdir()
        yield folder / "work"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        for made in missing:  # if nothing was put there
            with contextlib.suppress(OSError):
                made.rmdir()


def remove_stale(data_dir: Path) -> None:
    """Remove the folders whose process is no more: its lock went with it."""
    for folder in data_dir.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # killed before it could lock; if it just starts, it tries again
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # at work
        finally:
            os.close(lock)


def _locked(data_dir: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=data_dir))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / _LOCK).exists():
                return folder, lock
            os.close(lock)
        except FileNotFoundError:
            pass  # another process took it for a killed one's
