"""Locks a workdir while a command writes to it, so that two runs do not mix their files.

The system releases the lock when its process ends, however it ends. Reading needs no lock.
"""

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import is_leftover, not_written

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows has no such locks
    import fcntl

LOCK = ".lock"
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


def is_empty(folder: Path) -> bool:
    """Returns whether a folder holds nothing but a lock and what killed processes left."""
    return all(path.name == LOCK or is_leftover(path) for path in folder.iterdir())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which must exist, and removes what killed processes left there.

    Call it in the main process only. Raises UserError, naming the process that holds the lock.
    """
    path = folder / LOCK
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise not_written(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path} is not a file: remove it")
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its text
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _remove_leftovers(folder)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def check_free(folder: Path) -> None:
    """Raises UserError if another process holds the lock of a folder; writes nothing."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # no lock, or none that this process may read
        return
    try:
        _take(descriptor, folder)
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            say(f"note: {folder} can't be locked ({error.strerror}): start no second run in it")
            return
        text = os.pread(descriptor, 200, 0).decode(errors="replace").partition("\n")[0]
        holder = "".join(filter(str.isprintable, text))
        raise UserError(
            f"workdir {folder} is in use by {holder or 'another process'}: wait until it ends, or "
            f"give another --workdir"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        if is_leftover(path):
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
