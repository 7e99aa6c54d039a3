"""Reads and writes named arrays in the file formats of other programs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import replacing
from vtadl_jax.weights.npz import read_npz
from vtadl_jax.weights.torch_file import read_torch


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns arrays by name from `.safetensors`, `.npz`, or PyTorch files of any other name.

    Runs no code from the file. Raises UserError for a file that cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: give that of the weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return read_npz(path)
    return read_torch(path)


def read_files(text: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one file, or of several whose paths are separated by commas.

    Raises UserError for a file that cannot be read, and for names that are in two of them.
    """
    paths = [text] if Path(text).expanduser().is_file() else text.split(",")
    found: dict[str, np.ndarray] = {}
    for path in paths:
        arrays = read_arrays(Path(path.strip()).expanduser())
        if twice := sorted(found.keys() & arrays.keys()):
            raise UserError(
                f"{path}: {twice[0]} (of {len(twice)} names) is in another of the files, too: give "
                "files of different networks"
            )
        found |= arrays
    return found


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict: `.safetensors` without torch, else PyTorch's zip format by torch.

    Writes it whole or not at all. Raises UserError if it cannot be written.
    """
    try:
        with replacing(path) as file:
            if path.suffix == ".safetensors":
                # The library writes an array's memory, whatever its strides are.
                rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
                file.write(_safetensors().save(rows))
            else:
                torch = _torch()
                torch.save({name: torch.tensor(array) for name, array in arrays.items()}, file)
    except RuntimeError as error:  # torch's own
        raise UserError(f"{path} can't be written ({error}): give another path") from error


def check_writable(path: Path) -> None:
    """Raises UserError if `write_arrays` cannot write there; call it before the work."""
    if not path.parent.is_dir():
        raise UserError(f"{path}: {path.parent} is not a folder: create it first")
    if path.suffix == ".safetensors":
        _safetensors()
    else:
        _torch()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    library = _safetensors()
    try:
        return library.load_file(path)
    except Exception as error:  # the library's errors have no common base class
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is cut short or not a .safetensors file ({reason})") from error


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            "safetensors is not installed: pip install 'vtadl_jax[weights]', or use a .pt file"
        ) from error
    return safetensors.numpy


def _torch():
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "torch is not installed: pip install 'vtadl_jax[torch]', or write .safetensors"
        ) from error
    return torch
