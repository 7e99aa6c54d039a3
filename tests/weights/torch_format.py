"""Writes PyTorch's file formats without PyTorch, so that tests can also write invalid files."""

import collections
import dataclasses
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


@dataclasses.dataclass(frozen=True)
class Global:
    """A global name that the reader has to look up."""

    module: str
    name: str

    def __call__(self):
        raise AssertionError("it is only written")


@dataclasses.dataclass(eq=False)
class Call:
    """A call that the reader has to make; state: what BUILD writes into the result."""

    function: Any
    args: tuple
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Storage:
    key: str
    kind: str
    count: int
    legacy: bool


class Writer(pickle._Pickler):
    """Python's own pickler, which writes any name without importing it."""

    dispatch = pickle._Pickler.dispatch.copy()

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        view = (None,) if value.legacy else ()
        return ("storage", Global("torch", value.kind), value.key, "cpu", value.count, *view)

    def save_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_call(self, value):
        self.save_reduce(value.function, value.args, value.state, obj=value)

    dispatch[Global], dispatch[Call] = save_name, save_call


def dump(value: Any) -> bytes:
    stream = io.BytesIO()
    Writer(stream, 2).dump(value)
    return stream.getvalue()


def tensor(storage: Storage, array: np.ndarray, **changes) -> Call:
    """Returns the call that rebuilds a tensor; changes: to offset, shape, strides, in elements."""
    strides = tuple(step // array.itemsize for step in array.strides)
    geometry = {"offset": 0, "shape": array.shape, "strides": strides} | changes
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    hooks = collections.OrderedDict()
    return Call(rebuild, (storage, *geometry.values(), False, hooks))


def structure_of(arrays: dict[str, np.ndarray], legacy: bool, **changes) -> dict[str, Call]:
    return {
        name: tensor(Storage(str(i), STORAGES[a.dtype.name], a.size, legacy), a, **changes)
        for i, (name, a) in enumerate(arrays.items())
    }


def write_zip(path: Path, structure: Any, arrays: dict[str, np.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "archive/data.pkl", structure if type(structure) is bytes else dump(structure)
        )
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, structure: Any, arrays: dict[str, np.ndarray]) -> Path:
    parts = [dump(value) for value in (MAGIC, PROTOCOL, {"little_endian": True})]
    parts.append(structure if type(structure) is bytes else dump(structure))
    parts.append(dump([str(i) for i in range(len(arrays))]))
    for array in arrays.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def write(path: Path, arrays: dict[str, np.ndarray], legacy: bool = False, **changes) -> Path:
    """Returns a state dict's file in either format."""
    make = write_legacy if legacy else write_zip
    return make(path, structure_of(arrays, legacy, **changes), arrays)
