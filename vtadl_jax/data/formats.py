"""The kinds of image files that are read: one list of formats and endings for all readers.

Other formats stay closed whatever a file is named: Pillow tells formats by content, knows some
forty, and starts Ghostscript for one of them.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from vtadl_jax.errors import UserError, printable

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow's names
EXTENSIONS = frozenset({".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Endings of images that are not read: a file with one is no by-product, and is named.
OTHER_EXTENSIONS = frozenset({
    ".apng", ".arw", ".avif", ".bpg", ".cr2", ".cr3", ".cur", ".dcm", ".dds", ".dib", ".dng",
    ".eps", ".exr", ".fits", ".flif", ".gif", ".hdr", ".heic", ".heif", ".icns", ".ico",
    ".j2c", ".j2k", ".jng", ".jp2", ".jpc", ".jpf", ".jpx", ".jxl", ".jxr", ".mng", ".mpo",
    ".nef", ".orf", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".ps", ".psd", ".qoi",
    ".raf", ".rw2", ".sgi", ".svg", ".tga", ".wdp", ".wmf", ".xbm", ".xcf", ".xpm",
})  # fmt: skip
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"GIF8",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path) -> BinaryIO:
    """Opens a plain file for reading; never waits for one that is none.

    Raises UserError for a folder, a pipe, a socket or a device, OSError as `open`.
    """
    _check_plain(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    try:
        _check_plain(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def looks_like_image(path: Path) -> bool:
    """Returns whether a file is an image by its ending, or by its first bytes."""
    if path.suffix.lower() in EXTENSIONS | OTHER_EXTENSIONS:
        return True
    try:
        with open_file(path) as file:
            start = file.read(16)
    except (OSError, UserError):
        return False
    container = start[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1") or (
        start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    )
    return container or start.startswith(_SIGNATURES)


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _check_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no plain file")
        raise UserError(f"cannot read image {printable(path)}: it is {kind}, move or remove it")
