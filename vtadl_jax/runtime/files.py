"""Writes files whole or not at all, reads stored JSON, and finds what does not belong in a folder.

A file is written under a random name beside its place, and moved there when it is complete: a full
disk, a signal or a crash leaves the file that was there before. Links are never written through.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vtadl_jax.errors import UserError

MAX_JSON = 2**26  # bytes; ours have some kilobytes, that of a checkpoint with many files a megabyte
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")  # of `temporary_name`


def temporary_name(path: Path) -> Path:
    """Returns a hidden name beside `path` that nobody can know beforehand."""
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")


def is_leftover(path: Path) -> bool:
    """Returns whether a name is one of `temporary_name`, which a killed process may leave."""
    return _LEFTOVER.fullmatch(path.name) is not None


def not_written(path: Path, error: OSError) -> UserError:
    """Returns the line for a file that the system did not let us write."""
    if error.errno in _FULL or error.errno is None:  # an encoder does not say more
        remedy = "make room and rerun the same command"
    elif error.errno == errno.ELOOP:
        return UserError(f"{path} is a link: remove it, nothing is written through links")
    elif error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
        remedy = "move what is in its place"
    else:
        remedy = "give a folder that you may write to"
    return UserError(f"{path} can't be written ({error.strerror or error}): {remedy}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError, naming `path`, for an error of the system while the content is written."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error) from error


def open_new(path: Path, flags: int = os.O_WRONLY) -> int:
    """Creates a file that is not there yet, and returns its descriptor; follows no link."""
    flags |= os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`, and moves it into place at the end of the context.

    mode: 'w' or 'wb'; options: of `open`, by default UTF-8 for text. If anything is raised inside
    the context, the file that was there before stays. Raises UserError for errors of the system.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    temporary = temporary_name(path)
    with writing(path):
        try:
            with open(open_new(temporary), mode, **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all. Raises UserError if it can't be written."""
    with replacing(path, "w", newline="") as file:
        file.write(text)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes a JSON file whole or not at all. Raises UserError if it can't be written."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises FileNotFoundError if there is none; ValueError, with the reason, for a file that is too
    large or no regular file, that can't be read, or that holds no JSON object.
    """
    try:
        with os.fdopen(_open_without_waiting(path), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ValueError("it is not a file")
            if info.st_size > MAX_JSON:
                raise ValueError(f"it has {info.st_size} bytes")
            found = json.loads(file.read(MAX_JSON))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__} instead of fields")
    return found


def _open_without_waiting(path: Path) -> int:
    """Opens a file to read, and does not wait for a writer if it is a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags)


def check_places(folder: Path, names: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Checks that the places of files and folders to write in `folder` are free or of their kind.

    Raises UserError for a name of a file that is a folder, and for a name of a folder that is a
    link or a file: nothing is written or removed behind a link.
    """
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path} is a folder, and a file is to be written there: move it")
    for name in folders:
        path = folder / name
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and nothing is written or removed behind links: remove it, or "
                f"put the folder itself there"
            )
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is not a folder, and one is to be written there: move it")
