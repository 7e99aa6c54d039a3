"""A small procedural data set of machined parts in the MVTec AD layout, with exact masks.

This module adds defects to parts and writes the files. `parts.py` renders the parts, `defects.py`
has the defects; `data/sources` reads the layout. The set is for demonstrations and tests: it is not
a benchmark.
"""

import difflib
import functools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtadl_jax.data.synthetic import parts
from vtadl_jax.data.synthetic.defects import DEFECTS, FAULTS
from vtadl_jax.data.synthetic.noise import Array
from vtadl_jax.data.synthetic.parts import Edit, Raster
from vtadl_jax.errors import UserError

CATEGORIES: tuple[str, ...] = tuple(parts.SHAPES)
DEFECT_SIZES: dict[str, float] = {"small": 0.06, "medium": 0.11, "large": 0.2}
VISIBLE = 5 / 255  # smaller changes of a display value are not in the mask
VERSION = 1  # increase it when the same arguments give other pixels
MIN_IMAGE_SIZE = 32
SETTINGS_FILE = "dataset.json"
NOISE = 1.3 / 255  # read noise of the sensor in display values
ATTEMPTS = 8
WORKERS = min(8, os.cpu_count() or 1)  # threads

Mask = NDArray[np.bool_]


def render_part(
    category: str,
    rng: np.random.Generator,
    size: int,
    defect: str | None = None,
    defect_size: float = 0.1,
) -> tuple[NDArray[np.uint8], Mask]:
    """Renders one image and its mask: image [size, size, 3] uint8, mask [size, size] bool.

    `defect_size` is a fraction of the image side. Equal generators give the same pose, light and
    sensor noise whatever the defect, so that a defective image has an exact clean twin.
    """
    _check_name("category", category, CATEGORIES)
    if defect is not None:
        _check_name("defect", defect, DEFECTS)
    scene = parts.sample_scene(category, rng)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(NOISE)
    raster = parts.rasterise(scene, size)
    picture = parts.shade(raster, Edit())
    mask = np.zeros((size, size), bool)
    if defect is not None:
        picture, mask = _break(raster, picture, defect, rng, defect_size)
    grain = noise * (0.6 + 0.8 * np.sqrt(picture))  # shot noise grows with the light
    return np.rint((picture + grain).clip(0.0, 1.0) * 255).astype(np.uint8), mask


def _break(
    raster: Raster, clean: Array, defect: str, rng: np.random.Generator, size: float
) -> tuple[Array, Mask]:
    """Draws defects until one is visible; a bright scratch may vanish in a highlight."""
    tries = []
    for _ in range(ATTEMPTS):
        picture, mask = _apply(raster, clean, FAULTS[defect](raster, rng, size))
        tries.append((int(mask.sum()), picture, mask))
        if tries[-1][0] >= 3 + 0.5 * size * len(clean):
            break
    area, picture, mask = max(tries, key=lambda attempt: attempt[0])
    if area == 0:
        raise UserError(
            f"defect_size {size} of {defect!r} cannot be seen at {len(clean)} pixels: "
            "use a larger defect_size or image size"
        )
    return picture, mask


def _apply(raster: Raster, clean: Array, edit: Edit) -> tuple[Array, Mask]:
    """Shades a part with an edit and marks the pixels of its footprint that changed visibly."""
    from scipy import ndimage  # imports slowly, and only rendering needs it

    cover = parts.coverage(raster)
    if edit.removed is None:
        touched = footprint = (edit.extent() > 0.01) & (cover > 0.02)
        gone = np.zeros_like(footprint)
    else:  # light also changes beside the gap: the part's shadow on the mat goes with the piece
        touched = edit.removed < 0.05
        footprint = (edit.removed < raster.look.bevel) & (cover > 0.5)
        gone = (edit.removed < 0.0) & (cover > 0.5)
    spread = (parts.pool(touched.astype(np.float32)) > 0.0).astype(np.float32)
    weight = ndimage.gaussian_filter(spread, 0.7)[..., None]
    picture = clean + weight * (parts.shade(raster, edit) - clean)
    change = functools.reduce(np.maximum, np.moveaxis(np.abs(picture - clean), -1, 0))
    inside = parts.pool(footprint.astype(np.float32)) > 0.0
    # The change of a dent passes through zero between its bright and its dark side.
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(inside & (change > VISIBLE)))
    mask = (solid & inside) | (parts.pool(gone.astype(np.float32)) > 0.5)
    return picture, mask


def make_dataset(
    root: str | Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    image_size: int = 128,
    num_train: int = 96,
    num_test_good: int = 24,
    num_per_defect: int = 9,
    seed: int = 0,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Path:
    """Writes `categories` under `root` in the MVTec AD layout and returns `root`.

    Image `index` of a split depends on (seed, category, split, index) only, not on the counts.
    `progress(items, total=n)` may wrap the loop, as tqdm does. Keeps categories that are there and
    adds the others to a root of the same settings; raises UserError if anything else is there, and
    for an unknown category. A category appears when all its images are drawn.
    """
    root = Path(root)
    settings = _settings(image_size, num_train, num_test_good, num_per_defect, seed)
    _check(settings)
    for category in categories:
        _check_name("category", category, CATEGORIES)
    missing = categories
    if _holds(root, settings):
        missing = [name for name in categories if not (root / name).is_dir()]
        if not missing:
            return root
    partial = root.absolute().parent / f".{root.name}.{uuid.uuid4().hex}.partial"
    try:
        partial.mkdir(parents=True)
        _draw(partial, settings, _items(settings, missing), progress)
        (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        _move(partial, root, settings, missing)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _draw(
    folder: Path,
    settings: dict[str, Any],
    items: list[tuple[str, str, str | None, int]],
    progress: Callable[..., Iterable[Any]] | None,
) -> None:
    """Writes all images, several at a time: numpy and the encoder work beside Python."""
    seed, size = settings["seed"], settings["image_size"]
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="draw")
    try:
        done = pool.map(lambda item: _write(folder, seed, size, *item), items)
        for _ in progress(done, total=len(items)) if progress else done:
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _move(partial: Path, root: Path, settings: dict[str, Any], categories: Sequence[str]) -> None:
    """Moves a complete set, or its categories if another process wrote the root first."""
    try:
        partial.rename(root)
        return
    except OSError:
        if not _holds(root, settings):
            raise
    for name in categories:
        try:
            (partial / name).rename(root / name)
        except OSError:  # that process may have drawn the same category
            if not (root / name).is_dir():
                raise


def missing_images(root: str | Path, categories: Sequence[str] = CATEGORIES) -> int:
    """Returns how many images `make_dataset(root, categories=...)` would draw.

    Raises UserError if anything else is there.
    """
    given = make_dataset.__kwdefaults__ or {}
    names = ("image_size", "num_train", "num_test_good", "num_per_defect", "seed")
    settings = _settings(*(given[name] for name in names))
    held = _holds(Path(root), settings)
    missing = [name for name in categories if not (held and (Path(root) / name).is_dir())]
    return len(_items(settings, missing))


def _settings(
    image_size: int, num_train: int, num_test_good: int, num_per_defect: int, seed: int
) -> dict[str, Any]:
    """Returns what a drawn data set stores about itself."""
    return {
        "generator": "vtadl_jax.data.synthetic.dataset",
        "version": VERSION,
        "image_size": image_size,
        "num_train": num_train,
        "num_test_good": num_test_good,
        "num_per_defect": num_per_defect,
        "seed": seed,
    }


def _check(settings: dict[str, Any]) -> None:
    least = {"image_size": MIN_IMAGE_SIZE, "num_train": 1, "num_test_good": 0, "num_per_defect": 0}
    for name, low in (least | {"seed": 0}).items():
        if settings[name] < low:
            raise UserError(
                f"make_dataset: {name} {settings[name]} is too small: use {low} or more"
            )


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"{what} {name!r} is not drawn here: {hint}use {', '.join(known)}")


def _holds(root: Path, settings: dict[str, Any]) -> bool:
    """Returns whether `root` is a set of these settings; False if absent. Raises UserError for
    anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    file = root / SETTINGS_FILE
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{root} is not a synthetic data set (no readable {SETTINGS_FILE}): "
            "name another folder or remove it"
        ) from None
    if found == settings:
        return True
    raise UserError(
        f"{root} holds a synthetic data set with other settings, {found}: "
        "name another folder or remove it"
    )


def _items(
    settings: dict[str, Any], categories: Sequence[str]
) -> list[tuple[str, str, str | None, int]]:
    """Returns (category, split, defect, index) of every image."""
    splits: list[tuple[str, str | None, int]] = [
        ("train", None, settings["num_train"]),
        ("test", None, settings["num_test_good"]),
    ]
    splits += [("test", defect, settings["num_per_defect"]) for defect in DEFECTS]
    return [
        (category, split, defect, index)
        for category in categories
        for split, defect, count in splits
        for index in range(count)
    ]


def _write(
    root: Path, seed: int, size: int, category: str, split: str, defect: str | None, index: int
) -> None:
    """Writes one image, and its mask if it has a defect; the defect sizes alternate."""
    ordinal = 2 + DEFECTS.index(defect) if defect else ("train", "test").index(split)
    rng = np.random.default_rng([seed, CATEGORIES.index(category), ordinal, index])
    fraction = list(DEFECT_SIZES.values())[index % len(DEFECT_SIZES)]
    image, mask = render_part(category, rng, size, defect, fraction)
    _save(root / category / split / (defect or "good") / f"{index:03d}.png", image)
    if defect:
        truth = root / category / "ground_truth" / defect / f"{index:03d}_mask.png"
        _save(truth, mask.astype(np.uint8) * 255)


def _save(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, compress_level=3)
