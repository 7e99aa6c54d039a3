"""Fits a detector's tails to held-out good images, and scores these images as if they were new.

The tails are fitted to all held-out images. The threshold comes from the same images, so each of
them is scored with tails of the others (cross-fitting): with its own it would seem more common than
a new image.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.training.fitting import collect, gather_rows

FOLDS = 5


def tail_rows(
    detector: Detector,
    variables: Variables,
    records: Sequence[Record],
    geometry: Geometry,
    config: Config,
) -> Any:
    """Returns what `Detector.tails.gather` finds: a tree of arrays with a row for each image."""
    assert detector.tails is not None, "this detector has no tails"
    batches = gather_rows(detector.tails, variables, records, geometry, config, "tails")
    return collect(detector.tails, batches)


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
