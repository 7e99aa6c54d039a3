"""Reads pickles of plain containers, numbers, strings and arrays of integers, from untrusted files.

A pickle is a program that calls functions and sets the state of what they return. Here it can call
three functions, all of this file, and numpy sees nothing of it: a dtype or an array with a lying
state would make numpy follow bytes of the file as addresses. Arrays are made from bytes, a shape
and one of a few dtypes when the pickle is read.
"""

import io
import math
import pickle
from typing import Any, ClassVar

import numpy as np

DTYPES = ("u1", "i4", "i8")  # as pickles name them, without the byte order


class Refused(Exception):
    """Error: a pickle names an object, or sets a state, that plain data do not have."""


class StoredDtype:
    """A dtype that a pickle names; its state may set the byte order only."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any):
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if text not in DTYPES:
            raise Refused(f"an array of {str(text)[:40]!r}")
        self.name, self.order = text, "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">") or any(part is not None for part in state[2:5]):
            raise Refused("an array of records")
        self.order = order


class StoredArray:
    """An array that a pickle holds: its shape, dtype and bytes, checked by `plain_array`."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PlainUnpickler(pickle._Unpickler):
    """Unpickler of plain data. Its arrays are `StoredArray`s.

    Python's own unpickler, not the one in C, which allocates what a file of a few bytes asks for.
    Instructions that plain data do not need are unknown to it.
    """

    dispatch: ClassVar[dict] = {
        code: function
        for code, function in pickle._Unpickler.dispatch.items()
        if code
        not in {
            name[0]
            for name in (
                *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BYTEARRAY8),
                *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4),
                *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
            )
        }
    }

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")  # Python 2 wrote some

    def find_class(self, module: str, name: str) -> Any:
        """Returns a method for the few names that arrays of numbers need. Raises Refused."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":
                return self._new_array
        elif module == "numpy" and name == "ndarray":
            return "ndarray"
        elif module == "numpy" and name == "dtype":
            return self._new_dtype
        elif (module, name) == ("_codecs", "encode"):  # Python 3 writes bytes so in protocol 2
            return self._latin1
        raise Refused(f"{module}.{name}")

    def _new_array(self, kind: Any, shape: Any, code: Any) -> StoredArray:
        return StoredArray()

    def _new_dtype(self, name: Any, align: Any = False, copy: Any = True) -> StoredDtype:
        return StoredDtype(name)

    def _latin1(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise Refused(f"text in {str(encoding)[:40]!r}")
        return text.encode("latin1")


def plain_array(value: Any) -> np.ndarray:
    """Returns a stored array, read-only. Raises ValueError for other values and a lying state."""
    if not isinstance(value, StoredArray):
        raise ValueError(f"{type(value).__name__} in place of an array")
    _, shape, dtype, fortran, content = value.state
    sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or not isinstance(dtype, StoredDtype) or not isinstance(content, bytes):
        raise ValueError("an array without sizes, dtype or bytes")
    kind = np.dtype(f"{dtype.order}{dtype.name}")
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"an array of {shape} with {len(content)} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def plain_numbers(value: Any) -> np.ndarray:
    """Returns a list of integers, or an array of them [N], as int64 [N]. Raises ValueError."""
    if isinstance(value, list) and all(type(number) is int for number in value):
        return np.array(value, np.int64)
    found = plain_array(value)
    if found.ndim != 1:
        raise ValueError(f"labels {found.shape} in place of a list")
    return found.astype(np.int64)
