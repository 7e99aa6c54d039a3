"""Reads PNG files that Pillow would decode slowly, or to the upper 8 of their 16 bits.

libpng decodes them; it prints warnings about sound files (color profiles, interlacing) to the
terminal, so that it is given the chunks that make the pixels only, and no interlaced file.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import imagecodecs
import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Adam7: first row and column, and the steps, of the seven passes of an interlaced file.
_PASSES = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Header of a PNG: its size in pixels, bits per channel, color type, interlacing."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def channels(self) -> int:
        return {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[self.colour]


def read_header(file: BinaryIO) -> Header:
    """Returns the header of an open PNG; keeps the file's position."""
    position = file.tell()
    file.seek(len(SIGNATURE) + 8)
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", file.read(13))
    file.seek(position)
    return Header(width, height, depth, colour, bool(interlace))


def find_exif(file: BinaryIO) -> bytes | None:
    """Returns the EXIF data of an open PNG, also behind its pixels; keeps the file's position."""
    position = file.tell()
    file.seek(len(SIGNATURE))
    try:
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length)
            if kind == b"IEND":
                return None
            file.seek(length + 4, 1)
        return None
    finally:
        file.seek(position)


def decode(content: bytes, header: Header) -> np.ndarray:
    """Decodes grey or color of 8 or 16 bits, uint8 or uint16 [h, w] or [h, w, C].

    C is 2 (grey and alpha), 3 or 4; a transparent color becomes alpha. Raises imagecodecs.PngError
    or ValueError for damage.
    """
    if header.interlaced:
        return _interlaced(content, header)
    kept = (chunk for kind, chunk in _chunks(content) if kind in _PIXELS)
    return imagecodecs.png_decode(b"".join((SIGNATURE, *kept)))


def _interlaced(content: bytes, header: Header) -> np.ndarray:
    """Decodes the seven passes of an interlaced file as images of their own."""
    chunks = list(_chunks(content))
    extra = b"".join(chunk for kind, chunk in chunks if kind in (b"PLTE", b"tRNS"))
    packed = b"".join(chunk[8:-4] for kind, chunk in chunks if kind == b"IDAT")
    sizes = [
        (-(-(header.height - top) // down), -(-(header.width - left) // right))
        for top, left, down, right in _PASSES
    ]
    pixel = header.channels * header.depth // 8
    lengths = [h * (1 + w * pixel) if h > 0 and w > 0 else 0 for h, w in sizes]
    try:
        rows = zlib.decompressobj().decompress(packed, sum(lengths))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(rows) < sum(lengths):
        raise ValueError("the pixels end too early")
    found: np.ndarray | None = None
    start = 0
    for (top, left, down, right), size, length in zip(_PASSES, sizes, lengths, strict=True):
        if not length:
            continue
        part = _image(size, header, extra, rows[start : start + length])
        start += length
        if found is None:
            found = np.zeros((header.height, header.width, *part.shape[2:]), part.dtype)
        found[top::down, left::right] = part.reshape(*size, *part.shape[2:])
    assert found is not None, "the first pass holds the first pixel"
    return found


def _image(size: tuple[int, int], header: Header, extra: bytes, rows: bytes) -> np.ndarray:
    """Decodes the rows of one pass, [height, width] = `size`."""
    about = struct.pack(">IIBBBBB", size[1], size[0], header.depth, header.colour, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(rows, 1))
    content = SIGNATURE + _chunk(b"IHDR", about) + extra + data + _chunk(b"IEND", b"")
    return imagecodecs.png_decode(content)


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields kind and bytes of each chunk, up to the last whole one."""
    view, position = memoryview(content), len(SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        yield kind, view[position : position + 12 + length]
        if kind == b"IEND":
            return
        position += length + 12


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
