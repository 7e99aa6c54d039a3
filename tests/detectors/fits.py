"""Fits a detector over features to drawn images, in batches, as a run does."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tests.factory import tiny_config
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.experiment import make_detector
from vtadl_jax.ops.filters import filter_bank_reference
from vtadl_jax.training.fitting import collect

SMALL = {
    "model__features": "filters",
    "model__filters__sigmas": (1, 2),  # ten features
    "model__filters__stride": 8,
    "data__channels": 1,
    "eval__map_sigma": 0.0,
}


def draw_images(count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray:
    """Returns smooth grey images [N, H, W, 1], so that features vary, each with its own noise."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(size[0])[:, None] / 4 + rng.uniform(0, 6, (count, 1, 1)))
    noise = rng.normal(size=(count, *size))
    return np.uint8(np.clip(120 + 40 * waves + 12 * noise, 0, 255))[..., None]


def fit(
    name: str, images: np.ndarray, batches: Sequence[int] = (), **fields
) -> tuple[Detector, Variables]:
    """Returns a small detector and its variables, fitted to images in batches of these sizes.

    Checks that fitting changes no shape and no type, and that everything is finite.
    """
    fields = {**SMALL, "image_size": images.shape[1:3], **fields}
    detector = make_detector(tiny_config(detector=name, **fields))
    detector = dataclasses.replace(detector, score=jax.jit(detector.score))
    before = detector.init(jax.random.key(0))
    gather = jax.jit(detector.fit.gather)
    splits = np.cumsum(batches or (len(images),))[:-1]
    rows = (
        jax.device_get(gather(before, part, jax.random.key(1))) for part in np.split(images, splits)
    )
    after = detector.fit.solve(before, collect(detector.fit, rows), np.random.default_rng(0))
    shapes = [jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), v) for v in (before, after)]
    assert shapes[0] == shapes[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    return detector, after


def small_features(images: np.ndarray) -> np.ndarray:
    """Returns the responses [N, h, w, 10] float64 of `SMALL`, by their definition."""
    return np.asarray(filter_bank_reference(images[..., 0] / 255, 8, (1, 2)), np.float64)
