"""Draws large images of a woven surface with very small defects, in MVTec AD's layout.

A defect is an area of `SHARE` of the image, changed by `photo_defects.draw_defect` in ways that
mostly keep the brightness: a network that sees the image at its own size has little to see.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtadl_jax.data.synthetic.noise import TILE, noise_tile
from vtadl_jax.data.synthetic.photo_defects import draw_defect
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import writing

SHARE = 0.0002  # of an image's area, of a defect
KINDS = ("displaced", "piece", "scratch", "smooth")
THREAD = 11.0  # pixels between threads of the weave
ATTEMPTS = 400

Pixels = NDArray[np.uint8]


def draw_weave(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Returns a grey woven surface, uint8 [height, width]: threads, light from a side, grain."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    wave = 6 * np.sin(2 * np.pi * (columns / width + rng.random())) + rng.uniform(0, THREAD)
    across = np.sin(np.pi * (rows + wave) / THREAD)
    along = np.sin(np.pi * (columns + rng.uniform(0, THREAD)) / THREAD)
    values = np.where(across * along > 0, across**2, along**2 - 0.35)  # over, under
    values = 118 + 34 * values + rng.uniform(-8, 8) * (columns / width - 0.5)
    values += 7 * _tiled("grain", height, width, rng) + 4 * _tiled("cloud", height, width, rng)
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def _tiled(kind: str, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    top, left = rng.integers(TILE, size=2)
    rows, columns = (np.arange(top, top + height) % TILE, np.arange(left, left + width) % TILE)
    return noise_tile(kind)[rows[:, None], columns]


def draw_small_defect(
    image: Pixels, kind: str, rng: np.random.Generator, share: float = SHARE
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Returns a copy of a grey image [h, w] with a defect of half to one and a half times `share`
    of its area, and its mask, bool [h, w]. Raises UserError if none is visible."""
    wanted = share * image.size
    side = min(round(12 * wanted**0.5), *image.shape)
    for _ in range(ATTEMPTS):
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape)
        place = slice(top, top + side), slice(left, left + side)
        try:
            part, mask = draw_defect(image[place], kind, rng, lambda _: image)
        except UserError:
            continue
        if 0.5 * wanted <= mask.sum() <= 1.5 * wanted:
            changed, whole = image.copy(), np.zeros(image.shape, bool)
            changed[place], whole[place] = part, mask
            return changed, whole
    raise UserError(
        f"no defect of kind {kind!r} and {share:.2%} of the area was visible in {ATTEMPTS} places "
        f"of an image of {image.shape[1]}×{image.shape[0]} (width×height): draw larger images"
    )


def draw_large_set(
    root: Path,
    height: int,
    width: int,
    num_train: int,
    num_good: int,
    num_per_kind: int,
    seed: int = 0,
    on_image: Callable[[Path], None] = lambda path: None,
) -> None:
    """Draws a set into a folder that must be absent or empty. on_image: called after each image.

    Raises UserError if it is not, or can't be written.
    """
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} is not empty: give another folder, or remove it")
    groups = [("train/good", "", num_train), ("test/good", "", num_good)]
    groups += [(f"test/{kind}", kind, num_per_kind) for kind in KINDS]
    for number, (folder, kind, count) in enumerate(groups):
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            image, path = draw_weave(height, width, rng), root / folder / f"{index:03d}.png"
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind:
                    image, mask = draw_small_defect(image, kind, rng)
                    truth = root / "ground_truth" / kind / f"{index:03d}_mask.png"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(truth, compress_level=1)
                Image.fromarray(image).save(path, compress_level=1)
            on_image(path)
