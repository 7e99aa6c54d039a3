"""A folder of drawn defects on held-out good images, for a choice of methods without test images.

Files are as in MVTec AD's layout, without training images: test/KIND/NNN.png and
ground_truth/KIND/NNN_mask.png. `photo_defects.py` draws.
"""

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import ImageRef, load_image
from vtadl_jax.data.records import Record
from vtadl_jax.data.synthetic.photo_defects import KINDS, draw_defect
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import track
from vtadl_jax.runtime.files import read_json, temporary_name, write_json, writing

SETTINGS_FILE = "drawn.json"
VERSION = 1  # increase it when the same arguments give other pixels


def draw_set(
    folder: Path,
    good: Sequence[Record],
    others: Sequence[Record],
    count: int,
    seed: int = 0,
    bits: int = 0,
) -> tuple[Record, ...]:
    """Draws `count` defects into a folder, unless they are there, and returns their records.

    good: the images to draw on, each as often as any other, up to one. others: images from which
    areas are pasted. bits: as in `load_image`. Kinds take turns; image i depends on the seed, i and
    these images only. The folder appears when all is drawn. Raises UserError if it holds something
    else, and for an image on which a kind is never visible.
    """
    settings = {
        "version": VERSION,
        "seed": seed,
        "count": count,
        "images": _digest(good),
        "others": _digest(others),
    }
    names = list(KINDS)
    items = [(i, names[i % len(names)]) for i in range(count)]
    if not _holds(folder, settings):
        partial = temporary_name(folder)
        with writing(folder):
            try:
                partial.mkdir(parents=True)
                for item in track(items, count, f"draw defects for {folder.parent.name}"):
                    _write(partial, item, good, others, seed, bits)
                write_json(partial / SETTINGS_FILE, settings)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return tuple(_record(folder, *item) for item in items)


def _holds(folder: Path, settings: dict[str, Any]) -> bool:
    """Returns whether a folder has these drawings; False if absent. Raises UserError otherwise."""
    try:
        found = read_json(folder / SETTINGS_FILE)
    except (OSError, ValueError) as error:
        if not folder.exists():
            return False
        raise UserError(
            f"{folder} holds no drawn defects (no readable {SETTINGS_FILE}): move it, or give "
            f"another --workdir"
        ) from error
    if found == settings:
        return True
    other = ", ".join(name for name, value in settings.items() if found.get(name) != value)
    raise UserError(
        f"{folder} holds defects drawn with other settings ({other} differ): remove the folder "
        f"{folder.parent}, or give another --workdir"
    )


def _digest(records: Sequence[Record]) -> str:
    """Returns a number that differs for other names of images."""
    return f"{zlib.crc32(chr(10).join(r.name for r in records).encode(errors='replace')):08x}"


def _write(
    folder: Path,
    item: tuple[int, str],
    good: Sequence[Record],
    others: Sequence[Record],
    seed: int,
    bits: int,
) -> None:
    index, kind = item
    rng = np.random.default_rng([seed, index])
    # Kinds take turns by the index, images by its quotient: no image is tied to a kind.
    base = good[(index + index // len(KINDS)) % len(good)]

    def other(generator: np.random.Generator) -> np.ndarray:
        return _pixels(others[int(generator.integers(len(others)))].image, bits)

    try:
        image, mask = draw_defect(_pixels(base.image, bits), kind, rng, other)
    except UserError as error:
        raise UserError(f"{base.name}: {error}") from error
    record = _record(folder, index, kind)
    for path, pixels in ((record.image, image), (record.mask, mask.astype(np.uint8) * 255)):
        assert isinstance(path, Path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=3)


def _pixels(ref: ImageRef, bits: int) -> np.ndarray:
    return load_image(ref, 3, bits)  # grey stays grey


def _record(folder: Path, index: int, kind: str) -> Record:
    image = folder / "test" / kind / f"{index:03d}.png"
    mask = folder / "ground_truth" / kind / f"{index:03d}_mask.png"
    return Record(image, mask, 1, kind, f"drawn/{kind}/{index:03d}.png")
