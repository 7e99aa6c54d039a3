"""Fits a detector once for each fold of the good images, without the images of that fold.

So every good image has a detector that does not know it, which scores it as if it were new. One
compiled pass serves all folds.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.crops import windows_of
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Fit, Variables
from vtadl_jax.runtime.console import format_duration, quietly, say, track
from vtadl_jax.training.division import Division
from vtadl_jax.training.fitting import gather_rows, solve

# Rows of all images are kept up to this size; larger ones are gathered again for each fold.
KEPT_BYTES = 2**30


def folds(count: int, num_folds: int) -> list[np.ndarray]:
    """Returns the images to leave out in each fold: [count] in all, each once."""
    return [np.arange(count)[fold::num_folds] for fold in range(min(num_folds, count))]


def fit_folds(
    detector: Detector,
    variables: Variables,
    division: Division,
    geometry: Geometry,
    config: Config,
    show: bool = True,
) -> list[tuple[np.ndarray, Variables]]:
    """Returns for each fold the positions in `division.holdout` that it leaves out, and variables
    fitted to all other records and their copies.

    variables: the initial ones, in this process's memory. show: progress and a line at the end.
    Every process gets the same result.
    """
    assert detector.fit is not None, "nothing to fit"
    start, holdout = time.perf_counter(), division.holdout
    rows = Rows(detector.fit, variables, division.fitted, geometry, config)
    left_out = folds(len(holdout), division.num_folds)
    found = []
    for positions in track(left_out, len(left_out), "cross-fit") if show else left_out:
        names = {holdout[i].name for i in positions.tolist()}
        others = division.with_copies([r for r in division.records if r.name not in names])
        with quietly():  # what a solution says, the fit to all images said
            found.append((positions, solve(detector.fit, variables, rows.of(others), config)))
    if not show:
        return found
    took = format_duration(time.perf_counter() - start)
    each = "each without one" if len(left_out) == len(holdout) else "each without a part"
    say(f"cross-fitted to {len(holdout)} good images in {len(left_out)} folds, {each}, in {took}")
    return found


class Rows:
    """What `Fit.gather` returns for images, or for their windows, by their names."""

    def __init__(
        self,
        fit: Fit,
        variables: Variables,
        records: Sequence[Record],
        geometry: Geometry,
        config: Config,
    ):
        self._gather = (fit, variables), (geometry, config)
        records = self._windows(records)
        self._size = min(config.eval.batch_size, len(records))
        self._kept: dict[str, Any] | None = self._keep(records)

    def of(self, records: Sequence[Record]) -> Iterator[Any]:
        """Yields the rows of images, in batches."""
        records = self._windows(records)
        if self._kept is None:
            yield from self._gathered(records)
            return
        for start in range(0, len(records), self._size):
            chosen = [self._kept[record.name] for record in records[start : start + self._size]]
            yield jax.tree.map(lambda *rows: np.stack(rows), *chosen)

    def _windows(self, records: Sequence[Record]) -> Sequence[Record]:
        data = self._gather[1][1].data
        return windows_of(records, data.windows, data.bits)

    def _gathered(self, records: Sequence[Record]) -> Iterator[Any]:
        before, after = self._gather
        return gather_rows(*before, records, *after, size=self._size)

    def _keep(self, records: Sequence[Record]) -> dict[str, Any] | None:
        """Returns the rows of each image by name, None if they are too large to keep."""
        kept: dict[str, Any] = {}
        for rows in self._gathered(records):
            leaves, tree = jax.tree.flatten(rows)
            each = sum(leaf.nbytes for leaf in leaves) / len(leaves[0])
            if each * len(records) > KEPT_BYTES:
                return None
            for i in range(len(leaves[0])):
                kept[records[len(kept)].name] = jax.tree.unflatten(
                    tree, [leaf[i] for leaf in leaves]
                )
        return kept
