"""Reads numpy's `.npz` files: damaged and hostile ones end in one line, not in the memory.

numpy reads an array's shape before its values, and makes room for whatever that promises; here each
member is checked against the bytes that are there.
"""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from vtadl_jax.errors import UserError

MAX_HEADER = 2**16  # bytes of an array's description
# Packed weights take most of their size; a file that unpacks to much more is a trap.
MOST_UNPACKED, HARMLESS = 64, 2**28  # times its size; bytes
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Refused(Exception):
    """The reason why a file is not read; reported in one line after the file's name."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file by name. Raises UserError for a file that can't be read.

    Unpickles nothing, so that arrays of objects are refused.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise _Refused("it is a single array, as numpy.save writes: use numpy.savez")
            stream.seek(0)
            with zipfile.ZipFile(stream) as archive:
                _check_sizes(archive, path.stat().st_size)
                return {
                    info.filename.removesuffix(".npy"): _read_member(archive, info)
                    for info in archive.infolist()
                    if not info.is_dir()
                }
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: give a readable file") from error
    except _Refused as error:
        raise UserError(f"{path} is not read: {error}") from error
    # Damaged bytes raise errors of zipfile, zlib, struct and numpy, and of Python's parser.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is cut short or not an .npz file ({reason}): copy it again"
        ) from error


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Checks what the members are said to hold against the size of the file."""
    members = archive.infolist()
    for info in members:
        if info.flag_bits & 1:
            raise _Refused(f"its member {info.filename} is encrypted")
        if info.compress_type not in _PACKINGS:
            raise _Refused(f"its member {info.filename} is packed in an unknown way")
    packed = sum(info.compress_size for info in members)
    unpacked = sum(info.file_size for info in members)
    if packed > size or unpacked > max(MOST_UNPACKED * size, HARMLESS):
        raise _Refused(f"its {size} bytes are said to hold {unpacked}")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        shape, fortran, dtype = _read_header(file)
        if dtype.hasobject:
            raise _Refused(f"{info.filename} holds objects, not numbers")
        count = math.prod(shape)
        size = count * dtype.itemsize
        # The end of the content is read too: only then is its checksum compared.
        data = file.read() if size <= info.file_size else b""
    if len(data) != size:
        raise _Refused(f"{info.filename} promises {size} bytes and holds {info.file_size}")
    array = np.frombuffer(data, dtype, count) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise _Refused(f"it holds an array of format {version}")
    return read(file, MAX_HEADER)
