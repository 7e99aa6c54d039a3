"""Finds which mirror images and rotations of good images are normal, from a few good images alone.

If parts come in any orientation, a turned copy of one good image is as near to the other good
images as good images are to each other; if they are always placed alike, it is farther. Compared
are edge strengths by direction in the cells of a small grey picture (`ops/orientations.py`), a
fixed filter bank.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.turned import ORIENTATIONS, SAME, Copy, Turn
from vtadl_jax.ops.orientations import oriented_edges

SIDE, STRIDE, DIRECTIONS, SIGMA = 96, 8, 8, 1.0
# Largest share of pairs (copy, good image) in which the copy is farther: half, if copies are
# normal, all, if they never are.
LARGEST_SHARE = 0.7
SQUARE = 0.05  # largest difference of the sides, as a part, of images that are turned by 90°
# Turns that stand for a name of `data.orientations`.
TESTED: dict[str, tuple[Turn, ...]] = {
    **ORIENTATIONS,
    "rot90": ((False, 90), (False, 270)),
    "any": tuple((False, degrees) for degrees in (30, 60, 120, 150, 210, 240, 300, 330)),
}


@dataclasses.dataclass(frozen=True)
class Orientations:
    """What was found. normal: names of `data.orientations`. shares: by name, of those tested, the
    share of pairs in which a copy is farther than a good image; ratios: of their mean distances."""

    normal: tuple[str, ...]
    shares: dict[str, float]
    ratios: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.shares.items())


def find_orientations(records: Sequence[Record], bits: int = 0) -> Orientations:
    """Tests which orientations of good images, at least two, are normal.

    The distance of an image's copy from the nearest other image is compared with the distances of
    all images from their nearest other one. It is larger in `LARGEST_SHARE` of the pairs at most
    for a normal orientation. Turns by 90° and others are only tested on square images.
    """
    loaded = [load_image(record.image, 1, bits) for record in records]
    square = all(is_square(image.shape) for image in loaded)
    tested = {n: turns for n, turns in TESTED.items() if square or n not in ("rot90", "any")}
    turns = (SAME, *dict.fromkeys(turn for every in tested.values() for turn in every))
    described = np.stack([describe(image, turns) for image in loaded], 1)  # [turns, N, responses]
    images = described[0]
    own = nearest(images, images)
    shares: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for name, every in tested.items():
        found = np.concatenate([nearest(described[turns.index(one)], images) for one in every])
        above, equal = found[:, None] > own, found[:, None] == own
        shares[name] = float((above + 0.5 * equal).mean())
        ratios[name] = float(found.mean() / max(own.mean(), 1e-9))
    normal = tuple(name for name, share in shares.items() if share <= LARGEST_SHARE)
    if "any" in normal and "rot90" not in normal:  # these are among them
        normal = tuple(name for name in normal if name != "any")
    return Orientations(normal, shares, ratios)


def is_square(shape: Sequence[int]) -> bool:
    """Returns whether the sides of an image of shape [h, w, …] are about equal."""
    return abs(shape[0] - shape[1]) <= SQUARE * max(shape[:2])


def describe(image: np.ndarray, turns: Sequence[Turn]) -> np.ndarray:
    """Returns the responses of an image, uint8 [h, w], turned in each way, [turns, responses]."""
    small = Geometry((SIDE, SIDE)).image(image)[..., 0]
    turned = np.stack([Copy(small, *turn).read() for turn in turns])
    return np.asarray(_edges(turned), np.float64).reshape(len(turns), -1)


@jax.jit
def _edges(images: jax.Array) -> jax.Array:
    return oriented_edges(images.astype(jnp.float32) / 255, STRIDE, DIRECTIONS, SIGMA)


def nearest(copies: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns the distance of each image's copy from the nearest other image, [N].

    copies, images: [N, D], N ≥ 2.
    """
    squared = np.array([np.square(images - copy).mean(-1) for copy in copies])
    np.fill_diagonal(squared, np.inf)
    return np.sqrt(squared.min(-1))
