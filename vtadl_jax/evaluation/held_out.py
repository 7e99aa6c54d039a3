"""Fits a detector's tails to held-out good images, and scores these images as if they were new.

The tails are fitted to all held-out images, and to defects drawn onto them if the detector wants
any. The threshold comes from the same images, so each of them is scored with tails of the others
(cross-fitting): with its own it would seem more common than a new image.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.synthetic.photo_defects import KINDS, draw_defect
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Tails, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import track
from vtadl_jax.training.fitting import gather_batch, jit_gather

FOLDS = 5
MOST_PER_IMAGE = 8  # drawn defects


def tail_rows(
    detector: Detector,
    variables: Variables,
    records: Sequence[Record],
    geometry: Geometry,
    config: Config,
) -> Any:
    """Returns what `Tails.gather` finds: a tree of arrays with a row for each image.

    Every process reads all images and finds the same.
    """
    tails = detector.tails
    assert tails is not None, "this detector has no tails"
    data, size = config.data, min(config.eval.batch_size, len(records))
    count = defects_per_image(tails, len(records))
    gather = jit_gather(tails.gather, geometry.regions is not None)
    batches = eval_batches(records, geometry, data.channels, size, data.num_threads)
    found = []
    for number, batch in enumerate(track(batches, -(-len(records) // size), "tails")):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        drawn, masks = draw_onto(batch["image"], batch["index"], count, config.seed)
        if "inside" in batch:
            drawn, masks = keep_inside(batch["image"], batch["inside"], drawn, masks)
        inputs = (variables, batch["image"], drawn, masks, key)
        rows = jax.device_get(gather_batch(gather, batch, *inputs))
        found.append(jax.tree.map(lambda x, valid=batch["valid"]: x[valid], rows))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def defects_per_image(tails: Tails, num_images: int) -> int:
    """Returns how many defects are drawn onto each of the held-out images."""
    return min(-(-tails.num_defects // num_images), MOST_PER_IMAGE)


def draw_onto(
    images: np.ndarray, indices: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `count` defects onto each image: uint8 [B, count, H, W, C] and masks, bool.

    images: uint8 [B, H, W, C]. indices: of the images in their set, below 0 for padding; with the
    seed they decide what is drawn, and kinds take turns. A mask is empty where no defect would be
    visible, as on images of one color. Areas are pasted from other images of the batch.
    """
    drawn = np.repeat(images[:, None], count, axis=1)
    masks = np.zeros(drawn.shape[:-1], bool)
    kinds = list(KINDS)
    for i, index in enumerate(indices.tolist()):
        if index < 0:  # padding
            continue
        others = np.delete(images, i, 0) if len(images) > 1 else images

        def other(rng: np.random.Generator, others: np.ndarray = others) -> np.ndarray:
            return others[rng.integers(len(others))]

        for j in range(count):
            rng = np.random.default_rng([seed, index, j])
            kind = kinds[(index * count + j) % len(kinds)]
            with contextlib.suppress(UserError):  # it would not be visible
                drawn[i, j], masks[i, j] = draw_defect(images[i], kind, rng, other)
    return drawn, masks


def keep_inside(
    images: np.ndarray, inside: np.ndarray, drawn: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns drawn defects, and masks, without what is not inspected. inside: bool [B, H, W]."""
    kept = inside[:, None]
    return np.where(kept[..., None], drawn, images[:, None]), masks & kept


def with_tails(
    detector: Detector, variables: Variables, rows: Any, seed: int, chosen: np.ndarray | None = None
) -> Variables:
    """Returns variables with the tails of all rows, or of the chosen ones."""
    assert detector.tails is not None, "this detector has no tails"
    if chosen is not None:
        rows = jax.tree.map(lambda x: x[chosen], rows)
    return detector.tails.solve(variables, rows, np.random.default_rng(seed))


def folds(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (images to score, images to fit to) for each fold; every image is scored once.

    A single image is fitted to itself, as there is no other.
    """
    order = np.arange(count)
    for fold in range(min(FOLDS, count)):
        scored = order[fold::FOLDS]
        others = np.setdiff1d(order, scored)
        yield scored, others if len(others) else order
