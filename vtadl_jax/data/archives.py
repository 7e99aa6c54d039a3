"""Unpacks .tar.xz, .tar.gz, .tar and .zip safely: nothing is written outside the folder.

Writes plain files and folders only: links inside the archive become copies, so that no later entry
can follow a link out of the folder. All other kinds of entries are rejected.
"""

import errno
import lzma
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from vtadl_jax.data.manifest import stays_inside
from vtadl_jax.errors import UserError

SUFFIXES = (".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar", ".zip")
LONGEST_LINK = 4096  # bytes
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class _Entry:
    """Member of an archive: `open` returns a file's content, `target` is a link's target."""

    name: str
    kind: str  # 'file', 'folder', 'link' or a description of another kind
    open: Callable[[], IO[bytes] | None] = lambda: None
    target: str = ""


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def archive_stem(path: Path) -> str:
    """Returns an archive's name without its suffix: 'screw' for screw.tar.xz."""
    suffix = next(s for s in SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)] or "data"


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def extract(
    archive: Path,
    folder: Path,
    progress: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
) -> None:
    """Unpacks an archive into `folder`, which must not exist.

    Raises UserError for entries that would leave the folder or are neither a file, a folder nor a
    link to one, for a damaged, truncated or encrypted archive, and for a full disk.
    """
    _check_space(archive, folder)
    links: list[_Entry] = []
    try:
        folder.mkdir(parents=True)
        entries = (
            _zip_entries(archive) if archive.suffix.lower() == ".zip" else _tar_entries(archive)
        )
        for entry in progress(entries, 0, f"unpack {archive.name}"):
            _check(archive, entry)
            if entry.kind == "link":
                links.append(entry)
            else:
                _write(entry, folder)
        _copy_links(archive, links, folder)
    except (*_DAMAGED, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive} is damaged or cut short ({reason}): fetch it again") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"no space left to unpack {archive} in {folder.parent}: free some, or unpack it "
                "elsewhere and give that folder as --source"
            ) from error
        if error.errno is None:  # gzip's own
            raise UserError(f"{archive} is damaged ({error}): fetch it again") from error
        raise UserError(f"cannot unpack {archive}: {error.strerror} {error.filename}") from error


def _check(archive: Path, entry: _Entry) -> None:
    if not stays_inside(entry.name):
        raise UserError(f"{archive} holds '{entry.name}', a path outside of it: it is refused")
    if entry.kind == "link" and not stays_inside(entry.target):
        raise UserError(
            f"{archive} holds the link '{entry.name}', which points outside: it is refused"
        )
    if entry.kind not in ("file", "folder", "link"):
        raise UserError(f"{archive} holds '{entry.name}', a {entry.kind}: it is refused")


def _write(entry: _Entry, folder: Path) -> None:
    path = folder / entry.name
    if entry.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = entry.open()
    assert content is not None
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _copy_links(archive: Path, links: list[_Entry], folder: Path) -> None:
    for link in links:
        target = folder / link.target
        if not target.is_file():
            raise UserError(
                f"{archive} holds the link '{link.name}' to '{link.target}', which is no file in "
                "it: it is refused"
            )
        path = folder / link.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, path)


def _tar_entries(archive: Path) -> Iterator[_Entry]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.issym():  # relative to its own folder; a hard link to the root
                target = member.linkname
                if not target.startswith("/"):
                    target = posixpath.normpath(f"{posixpath.dirname(member.name)}/{target}")
                    target = target.removeprefix("/")
                yield _Entry(member.name, "link", target=target)
            elif member.islnk():
                yield _Entry(member.name, "link", target=member.linkname)
            elif member.isdir():
                yield _Entry(member.name, "folder")
            elif member.isreg():
                yield _Entry(member.name, "file", partial(tar.extractfile, member))
            else:
                yield _Entry(member.name, "device or pipe")
        _check_end(tar)


def _check_end(tar: tarfile.TarFile) -> None:
    """Reads to the end of the archive: tarfile takes a truncated or damaged header for its end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end is missing")
    while tar.fileobj.read(1 << 20):
        pass


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            if info.flag_bits & 1:
                raise UserError(f"{archive} is encrypted: unpack it and give that folder")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.filename.endswith("/"):  # is_dir() fails for an empty name
                yield _Entry(info.filename, "folder")
            elif kind == stat.S_IFLNK and info.file_size > LONGEST_LINK:
                yield _Entry(info.filename, "link of more than a path's length")
            elif kind == stat.S_IFLNK:
                link = content.read(info).decode(errors="surrogateescape")
                inside = posixpath.normpath(f"{posixpath.dirname(info.filename)}/{link}")
                target = link if link.startswith("/") else inside.removeprefix("/")
                yield _Entry(info.filename, "link", target=target)
            elif kind in (0, stat.S_IFREG):
                yield _Entry(info.filename, "file", partial(content.open, info))
            else:
                yield _Entry(info.filename, "device or pipe")


def _check_space(archive: Path, folder: Path) -> None:
    """Checks the disk for a lower bound: the sum of a zip's files, else the archive's size."""
    needed = archive.stat().st_size
    if _is_zip(archive):
        try:
            with zipfile.ZipFile(archive) as content:
                needed = sum(info.file_size for info in content.infolist())
        except (*_DAMAGED, NotImplementedError):
            return  # reading it raises a clearer error
    check_free(folder, needed, f"unpack {archive.name}")


def check_free(folder: Path, needed: int, what: str) -> None:
    """Checks the free bytes on the disk of `folder` (which may not exist yet).

    Raises UserError if there are too few.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"to {what} takes {_gib(needed)} but {folder} has {_gib(free)} free: free some space, "
            "or give another --data_dir"
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
