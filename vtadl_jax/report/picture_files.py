"""Writes pictures and maps as new files of a folder: whole or not at all, through no link."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.files import open_new, writing


def save_picture(picture: Image.Image, folder: Path, name: str) -> None:
    """Writes a PNG; raises UserError if it can't."""
    _write_new(folder, name, lambda file: picture.save(file, "PNG"))


def save_map(anomaly_map: np.ndarray, folder: Path, name: str) -> None:
    """Writes a float32 map [h, w], by the ending of its name .npy or .tiff; raises UserError if it
    can't."""
    if name.endswith(".npy"):
        _write_new(folder, name, lambda file: _write_array(file, np.ascontiguousarray(anomaly_map)))
    else:
        _write_new(folder, name, lambda file: Image.fromarray(anomaly_map).save(file, "TIFF"))


def check_folder(folder: Path) -> None:
    """Makes a folder for pictures. Raises UserError if it is a link or can't be made."""
    if folder.is_symlink():
        raise UserError(f"{printable(folder)} is a link, and nothing is written behind it: move it")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _write_new(folder: Path, name: str, write: Callable[[BinaryIO], object]) -> None:
    path = folder / name
    for parent in reversed(path.relative_to(folder).parents):
        check_folder(folder / parent)
    with writing(path):
        file = os.fdopen(open_new(path), "wb")
        try:
            with file:
                write(file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    """Writes .npy as np.save does, whose error on a full disk has no reason."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data.cast("B"))
