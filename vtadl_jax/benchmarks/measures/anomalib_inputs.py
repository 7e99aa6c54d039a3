"""Prepares what both sides of the comparison with anomalib read: images and encoders' weights."""

import math
from pathlib import Path

import numpy as np

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.files import list_images
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.data.synthetic.defects import DEFECTS
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.networks.frozen_vit_files import timm_names
from vtadl_jax.networks.frozen_vit_table import VITS
from vtadl_jax.networks.resample import resize_table
from vtadl_jax.runtime.console import say
from vtadl_jax.weights.files import read_arrays

SUFFIXES = (".safetensors", ".pth", ".pt", ".npz")
DRAWN = "plate"
POSITIONS = "pos_embed"


def find_images(
    good: str, scored: str, num_train: int, num_scored: int, space: Path, side: int
) -> tuple[list[Path], list[Path]]:
    """Returns the files to fit to and those to score; draws them in `space` if `good` is empty.

    good, scored: folders; without `scored`, good images that follow those to fit to. side: of drawn
    images. Says how many images are not used. Raises UserError if there are too few.
    """
    if not good:
        return _draw(num_train, num_scored, space / "drawn", side)
    train = _listed(good)
    if scored:
        return _first(train, num_train, good, "train"), _first(
            _listed(scored), num_scored, scored, "test-images"
        )
    if len(train) < num_train + num_scored:
        raise UserError(
            f"--images {good}: {len(train)} images are too few for {num_train} to fit to and "
            f"{num_scored} to score: use a smaller --train, or give --test"
        )
    found = _first(train, num_train + num_scored, good, "train")
    return found[:num_train], found[num_train:]


def _draw(num_train: int, num_scored: int, root: Path, side: int) -> tuple[list[Path], list[Path]]:
    """Draws good images, and as many defective as good ones to score."""
    num_bad = math.ceil(num_scored / 2)
    make_dataset(
        root,
        categories=(DRAWN,),
        image_size=side,
        num_train=num_train,
        num_test_good=max(num_scored - num_bad, 1),
        num_per_defect=math.ceil(num_bad / len(DEFECTS)),
    )
    bad = sorted(p for p in (root / DRAWN / "test").rglob("*.png") if p.parent.name != "good")
    good = sorted((root / DRAWN / "test" / "good").iterdir())
    chosen = bad[:: len(bad) // num_bad][:num_bad] + good[: num_scored - num_bad]
    return sorted((root / DRAWN / "train" / "good").iterdir()), chosen


def _listed(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder: give one of images")
    return list_images(Path(folder))


def _first(files: list[Path], count: int, folder: str, flag: str) -> list[Path]:
    if len(files) < count:
        raise UserError(f"{folder}: {len(files)} images: use --{flag} {len(files)} or less")
    if len(files) > count:
        say(f"note: the first {count} of {len(files)} images of {folder} are used")
    return files[:count]


def read_image(path: Path, side: int) -> np.ndarray:
    """Returns RGB pixels uint8 [side, side, 3]."""
    return Geometry((side, side)).image(load_image(path, 3), 3)


def read_weights(folder: str, network: str, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns a state dict under timm's names from the file of a network, {} if there is none.

    Position tables are resized to the grid as anomalib does: bicubic, without antialiasing.
    """
    if not folder:
        return {}
    if not Path(folder).is_dir():
        raise UserError(f"--weights {folder}: no such folder")
    files = [Path(folder, network + suffix) for suffix in SUFFIXES]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        say(f"note: no file {files[0].name} in {folder}: {network} has random weights")
        return {}
    arrays = read_arrays(file)
    if network not in VITS:
        return arrays
    try:
        arrays = timm_names(arrays)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if POSITIONS not in arrays:
        raise UserError(f"{file}: holds no table of positions: give another file")
    table = arrays[POSITIONS].reshape(-1, arrays[POSITIONS].shape[-1])
    rows = resize_table(table[1:], grid, "plain")
    arrays[POSITIONS] = np.concatenate([table[:1], rows])[None].astype(np.float32)
    return arrays
