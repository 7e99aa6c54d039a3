"""Reads state dicts in PyTorch's files as numpy arrays, without torch and without running code.

A `.pt` file is a pickle, a program for a small machine that can call any function. Here the machine
knows only the four names that tensors need, and maps each to a harmless function of ours. Reads zip
archives (PyTorch 1.6 and later) and the older format of consecutive pickles.
"""

import collections
import dataclasses
import io
import math
import pickle
import pickletools
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vtadl_jax.errors import UserError

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
ZIP_MAGIC = b"PK\x03\x04"
# Tensors may share values, as tied layers do; code that copies them must not fill the memory.
MOST_SHARED = 8  # times the values in the file
# Pickles of state dicts contain names and shapes; a thousand tensors take 0.2 MB.
MAX_PICKLE = 2**26
DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class NotAStateDict(Exception):
    """The reason why a file is rejected; reported in one line after the file's name."""


class _Inert:
    """Base class of the objects that a pickle may name or create.

    A pickle's BUILD instruction would modify any object, even a frozen one, and so affect the next
    file; these objects raise instead.
    """

    def __setstate__(self, state: Any) -> None:
        raise NotAStateDict("it modifies the objects that it describes")


@dataclasses.dataclass(frozen=True)
class _StorageType(_Inert):
    """The replacement of a storage class that a pickle names; it cannot be called."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage(_Inert):
    """A flat array elsewhere in the file. key: its name there; count: number of elements."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor(_Inert):
    """A strided view of a storage. offset, strides: in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Maker(_Inert):
    """A function that a pickle may call."""

    function: Callable[..., _Tensor]

    def __call__(self, *args: Any) -> _Tensor:
        return self.function(*args)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    """Replaces torch._utils._rebuild_tensor_v2; ignores the flags of autograd and the hooks."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise NotAStateDict("it describes an invalid tensor")
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise NotAStateDict("it describes a tensor of invalid sizes")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    count = math.prod(shape)
    # A view with strides of 0 could exceed any memory; state dicts have none.
    if count > storage.count or (count and last >= storage.count):
        raise NotAStateDict("it describes a tensor that reaches beyond its values")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_) -> _Tensor:
    """Replaces torch._utils._rebuild_parameter."""
    if not isinstance(tensor, _Tensor):
        raise NotAStateDict("it describes an invalid parameter")
    return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Maker(_rebuild_parameter),
    **{("torch", name): _StorageType(np.dtype(dtype)) for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that allows only the names in `_ALLOWED`; its tensors have no values yet."""

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise NotAStateDict(
                f"it wants to call {module}.{name}, and nothing of it was run: save "
                f"model.state_dict(), from a source that you trust"
            )
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise NotAStateDict("it refers to something that is not a tensor's storage")
        if any(part is not None for part in view):
            raise NotAStateDict("its tensors are views, as PyTorch before 0.4 wrote them")
        if type(key) is not str or type(count) is not int or count < 0:
            raise NotAStateDict("it refers to an invalid storage")
        return _Storage(key, storage_type.dtype, count)


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict by name; `tensors_of` describes accepted structures.

    Raises UserError for a file that cannot be read, is truncated, is no state dict, or whose pickle
    names anything but tensors.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
                return _read_zip(stream)
            stream.seek(0)
            return _read_legacy(stream)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: give a readable file") from error
    except NotAStateDict as error:
        raise UserError(f"{path} is not read: {error}") from error
    # Arbitrary bytes can raise any exception in the unpickler; none of them is a state dict.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is cut short or not a PyTorch file ({reason or type(error).__name__}): "
            f"copy it again"
        ) from error


def _read_zip(stream) -> dict[str, np.ndarray]:
    """Reads <name>/data.pkl (the structure) and <name>/data/<key> (values of each storage)."""
    stream.seek(0, io.SEEK_END)
    left = stream.tell()
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in names):
            raise NotAStateDict("it holds no state dict, or a TorchScript program: save one")
        root = pickles[0].removesuffix("data.pkl")

        def read(name: str, limit: int) -> bytes:
            nonlocal left
            info = archive.getinfo(name)
            # PyTorch does not compress; so a small archive cannot unpack to huge data.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
                raise NotAStateDict(f"its part {name} has {info.file_size} bytes, or is compressed")
            left -= info.file_size
            if left < 0:  # parts that lie upon each other
                raise NotAStateDict("its parts have more bytes than the file")
            return archive.read(info)  # verifies its CRC-32

        order = read(f"{root}byteorder", 16) if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise NotAStateDict("its bytes are in big-endian order")
        structure = _load(io.BytesIO(read(pickles[0], MAX_PICKLE)))

        def values(storage: _Storage) -> np.ndarray:
            size = storage.count * storage.dtype.itemsize
            data = read(f"{root}data/{storage.key}", size)
            if len(data) != size:
                raise NotAStateDict(f"its storage {storage.key} has {len(data)} of {size} bytes")
            return np.frombuffer(data, storage.dtype)

        return _resolve(structure, values)


def _load(stream: BinaryIO) -> Any:
    """Returns what the next pickle describes.

    Looks at it first: Python makes room up to the highest number under which it stores something.
    """
    start, last = stream.tell(), 0
    with warnings.catch_warnings(action="ignore"):  # of odd texts in damaged files
        for last, (code, number, _) in enumerate(pickletools.genops(stream)):
            if code.name in ("PUT", "LONG_BINPUT") and int(number or 0) > last:
                raise NotAStateDict("its description stores things under numbers without need")
    if last > MAX_PICKLE:
        raise NotAStateDict("its description is too long")
    stream.seek(start)
    return _Unpickler(stream).load()


def _read_legacy(stream) -> dict[str, np.ndarray]:
    """Reads pickles of a magic number, a version, the machine, the structure and the storages'
    keys, then for each key a count of elements (int64) and the elements."""

    def load() -> Any:
        return _load(stream)

    try:
        magic = load()
    except (NotAStateDict, pickle.UnpicklingError, EOFError, ValueError) as error:
        if isinstance(error, NotAStateDict):
            raise
        raise NotAStateDict("it is not a PyTorch file") from error
    if magic != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
        raise NotAStateDict("it is not a PyTorch file")
    machine = load()
    if not machine.get("little_endian", True):
        raise NotAStateDict("its bytes are in big-endian order")
    structure = load()
    wanted = _storages(structure)
    found: dict[str, np.ndarray] = {}
    for key in load():
        header = stream.read(8)
        storage = wanted.get(key)
        if len(header) != 8:
            raise NotAStateDict(f"it ends before its storage {key}: copy it again")
        if storage is None or struct.unpack("<q", header)[0] != storage.count:
            raise NotAStateDict(f"its storage {key} differs from its description")
        size = storage.count * storage.dtype.itemsize
        data = stream.read(size)
        if len(data) != size:
            raise NotAStateDict(f"its storage {key} has {len(data)} of {size} bytes: copy it again")
        found[key] = np.frombuffer(data, storage.dtype)
    return _resolve(structure, lambda storage: found[storage.key])


def tensors_of(structure: Any) -> dict[str, _Tensor]:
    """Returns the state dict in a file's structure, without DataParallel's prefix of all names.

    It is the structure itself, or its entry 'state_dict', 'model' or 'teacher' in a training
    checkpoint.
    """
    for key in ("state_dict", "model_state_dict", "model", "teacher"):
        if isinstance(structure, Mapping) and isinstance(structure.get(key), Mapping):
            structure = structure[key]
            break
    if not isinstance(structure, Mapping) or not structure:
        raise NotAStateDict(f"it holds a {type(structure).__name__}, not a state dict")
    for name, value in structure.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise NotAStateDict(f"its entry {name!r} is not a tensor: save model.state_dict()")
    prefix = "module."
    cut = len(prefix) if all(name.startswith(prefix) for name in structure) else 0
    return {name[cut:]: value for name, value in structure.items()}


def _storages(structure: Any) -> dict[str, _Storage]:
    """Returns the storages of all tensors in the structure by key; the older format lists them."""
    found: dict[str, _Storage] = {}
    waiting, seen = [structure], set()  # a list may contain itself, or occur many times
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, _Tensor):
            found[item.storage.key] = item.storage
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
    return found


def _resolve(structure: Any, values: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with their values: views, so that shared values are in memory once."""
    assert sys.byteorder == "little", "values are read in the order of this machine"
    flat: dict[_Storage, np.ndarray] = {}
    arrays = {}
    tensors = tensors_of(structure)
    _check_shared(tensors.values())
    for name, tensor in tensors.items():
        storage = tensor.storage
        if storage not in flat:
            flat[storage] = values(storage)
        strides = [step * storage.dtype.itemsize for step in tensor.strides]
        arrays[name] = np.lib.stride_tricks.as_strided(
            flat[storage][tensor.offset :], tensor.shape, strides, writeable=False
        )
    return arrays


def _check_shared(tensors: Iterable[_Tensor]) -> None:
    """Raises NotAStateDict if the tensors together have far more values than their storages."""
    wanted, held = 0, dict[_Storage, int]()
    for tensor in tensors:
        wanted += math.prod(tensor.shape) * tensor.storage.dtype.itemsize
        held[tensor.storage] = tensor.storage.count * tensor.storage.dtype.itemsize
    if wanted > MOST_SHARED * sum(held.values()):
        raise NotAStateDict(
            f"its tensors share {sum(held.values())} bytes of values and would unpack to {wanted}: "
            f"save them without sharing"
        )
