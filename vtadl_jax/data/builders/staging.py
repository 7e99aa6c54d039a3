"""Hidden temporary folder next to the output: removed at the end, or after a kill by the next
process."""

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
    """Yields an empty folder in `data_dir` (created if missing) and removes those of killed
    processes. Raises UserError if `data_dir` cannot be written."""
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
        for made in missing:  # only if it is empty
            with contextlib.suppress(OSError):
                made.rmdir()


def remove_stale(data_dir: Path) -> None:
    """Removes the folders of ended processes: the system released their locks."""
    for folder in data_dir.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # killed before it locked; a starting process tries again
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
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
            pass  # another process removed it as a killed process's
