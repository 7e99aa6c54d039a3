"""Scoring lists of records with one compiled step; no metrics, and nothing is written."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import calibration, sharding
from vtadl_jax.calibration import Calibration
from vtadl_jax.data.decode import load_mask, size_of
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.distributed import meet
from vtadl_jax.models.detector import Detector, Scores
from vtadl_jax.writers import track


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the detector said of N images, beside the truth.

    terms: [N, T] float32; maps: N of float32 [h, w]; masks: N of uint8 [h, w], zeros where there is
    no ground truth; labels: [N]; has_mask: [N] bool, False for defective images without ground
    truth. Maps and masks have the network's size, or that of each image with `original_size`.
    """

    terms: np.ndarray
    maps: list[np.ndarray]
    masks: list[np.ndarray]
    labels: np.ndarray
    has_mask: np.ndarray

    def with_truth(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Maps and masks of the images whose ground truth is known."""
        kept = np.flatnonzero(self.has_mask)
        return [self.maps[i] for i in kept], [self.masks[i] for i in kept]


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """All values of a list of maps, [M]."""
    return np.concatenate([array.ravel() for array in arrays])


class Evaluator:
    """Scores lists of records with one compiled step."""

    def __init__(self, config: ConfigDict, detector: Detector, geometry: Geometry, mesh: Mesh):
        self.config, self.detector, self.geometry, self._mesh = config, detector, geometry, mesh
        self._everywhere = sharding.replicated(mesh)
        self._step: Any = jax.jit(detector.score, out_shardings=self._everywhere)
        self._gather = jax.jit(lambda batch: batch, out_shardings=self._everywhere)

    def _compile(self, variables) -> None:
        """Once, in all processes before any of them goes on."""
        if not isinstance(self._step, jax.stages.Compiled):
            height, width = self.geometry.size
            shape = (self.config.eval.batch_size, height, width, self.config.data.channels)
            split = sharding.batch_sharding(self._mesh)
            images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=split)
            self._step = self._step.lower(variables, images).compile()
            meet("score")

    def batches(self, variables, records: Sequence[Record], what: str) -> Iterator[tuple]:
        """(host batch, host scores) of every batch, padding cut off; all of it in each process."""
        size, data = self.config.eval.batch_size, self.config.data
        total = -(-len(records) // size)
        variables = jax.device_put(variables, self._everywhere)
        self._compile(variables)
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        loader = eval_batches(
            records, self.geometry, data.channels, size, data.num_threads, **share
        )
        for batch in track(loader, total, what):
            scores = self._step(variables, sharding.put_batch(self._mesh, batch["image"]))
            if jax.process_count() > 1:
                batch = jax.device_get(self._gather(sharding.put_batch(self._mesh, batch)))
            valid = np.asarray(batch["valid"])
            scores = jax.device_get(scores)
            yield jax.tree.map(lambda x, keep=valid: x[keep], (batch, scores))

    def run(
        self,
        variables,
        records: Sequence[Record],
        what: str,
        on_batch: Callable[[dict, Scores], None] | None = None,
    ) -> Outputs:
        terms, maps, masks, labels, has_mask = [], [], [], [], []
        for batch, scores in self.batches(variables, records, what):
            if on_batch is not None:
                on_batch(batch, scores)
            terms.append(scores.terms)
            labels.append(batch["label"])
            has_mask.append(batch["has_mask"])
            if self.config.eval.original_size:
                chosen = [records[i] for i in batch["index"].tolist()]
                with ThreadPoolExecutor(max(self.config.data.num_threads, 1)) as pool:
                    pairs = list(pool.map(self._original, chosen, scores.anomaly_map))
                maps += [pair[0] for pair in pairs]
                masks += [pair[1] for pair in pairs]
            else:
                maps += list(scores.anomaly_map)
                masks += list(batch["mask"])
        columns = (np.concatenate(column) for column in (labels, has_mask))
        return Outputs(np.concatenate(terms), maps, masks, *columns)

    def _original(self, record: Record, anomaly_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map and mask at the image's own size."""
        if record.label and record.mask is not None:
            mask = load_mask(record.mask).astype(np.uint8)
        else:
            mask = np.zeros(size_of(record.image), np.uint8)
        height, width = mask.shape
        return self.geometry.invert(anomaly_map, (height, width)), mask

    def calibrate(self, variables, holdout: Sequence[Record], step: int) -> Calibration:
        outputs = self.run(variables, holdout, "calibrate")
        settings = self.config.eval
        return calibration.calibrate(
            self.detector.score_terms,
            outputs.terms,
            flat(outputs.maps),
            weights=settings.term_weights,
            step=step,
            image_false_alarm_rate=settings.image_false_alarm_rate,
            pixel_false_alarm_rate=settings.pixel_false_alarm_rate,
        )
