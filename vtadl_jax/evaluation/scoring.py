"""Scores test sets and new images with one jitted step. Computes no metrics, writes no files."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtadl_jax import metrics
from vtadl_jax.config import Config
from vtadl_jax.data.decode import load_mask, size_of
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.regions.region import lowest_outside
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores, Variables
from vtadl_jax.errors import TrainingDiverged
from vtadl_jax.evaluation import calibration
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.held_out import folds, tail_rows, with_tails
from vtadl_jax.evaluation.novelty import describe, spread_over
from vtadl_jax.evaluation.scorer import Scorer
from vtadl_jax.experiment import term_weights
from vtadl_jax.runtime.console import track


@dataclasses.dataclass(frozen=True)
class EvalOutputs:
    """Detector outputs for N images, and their ground truth.

    terms: [N, T] float32; maps: N of float32 [h, w], empty for a detector without maps; masks: N of
    uint8 [h, w], zeros without ground truth; labels: [N]; has_mask: [N] bool, False for defective
    images without ground truth; descriptions: [N, D] of `novelty.describe`. Maps and masks have the
    network's size, or with `original_size` that of each image. num_thin: marked regions that are
    too thin for the network's size. inside: N of bool [h, w], the pixels that are inspected; empty
    if all are. num_leaving, num_beside: masks with some or only pixels that are not inspected.
    """

    terms: np.ndarray
    maps: list[np.ndarray]
    masks: list[np.ndarray]
    labels: np.ndarray
    has_mask: np.ndarray
    descriptions: np.ndarray
    num_thin: int = 0
    inside: list[np.ndarray] = dataclasses.field(default_factory=list)
    num_leaving: int = 0
    num_beside: int = 0

    def with_truth(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns maps and masks of the images with ground truth; empty without maps.

        Of pixels that are inspected only: `metrics.packed` if some are not.
        """
        kept = np.flatnonzero(self.has_mask).tolist() if self.maps else []
        pairs = [(self.maps[i], self.masks[i]) for i in kept]
        if self.inside:
            images = zip(pairs, (self.inside[i] for i in kept), strict=True)
            pairs = [metrics.packed(*pair, inside) for pair, inside in images]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def map_values(self) -> np.ndarray | None:
        """Returns the values of all maps at inspected pixels, [M]; None without maps."""
        if not self.maps:
            return None
        if not self.inside:
            return flat(self.maps)
        return flat([m[inside] for m, inside in zip(self.maps, self.inside, strict=True)])


def joined(parts: Sequence[EvalOutputs], order: np.ndarray) -> EvalOutputs:
    """Returns the outputs of several parts as one, images in the given order."""

    def array(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    def images(name: str) -> list[np.ndarray]:
        every = [image for part in parts for image in getattr(part, name)]
        return [every[i] for i in order.tolist()] if every else []

    return EvalOutputs(
        array("terms"),
        images("maps"),
        images("masks"),
        labels=array("labels"),
        has_mask=array("has_mask"),
        descriptions=array("descriptions"),
        num_thin=sum(part.num_thin for part in parts),
        inside=images("inside"),
        num_leaving=sum(part.num_leaving for part in parts),
        num_beside=sum(part.num_beside for part in parts),
    )


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns all values of a list of maps, [M]."""
    return np.concatenate([array.ravel() for array in arrays])


class Evaluator:
    """Scorer of lists of records, with a config's data options."""

    def __init__(self, config: Config, detector: Detector, geometry: Geometry, mesh: Mesh):
        self.config, self.detector, self.geometry = config, detector, geometry
        shape = (*geometry.size, config.data.channels)
        has_regions = geometry.regions is not None
        self.scorer = Scorer(detector, shape, config.eval.batch_size, mesh, has_regions)
        self._described: list[np.ndarray] | None = None  # of training images

    def batches(
        self, variables: Variables, records: Sequence[Record], what: str
    ) -> Iterator[tuple[dict[str, np.ndarray], Scores]]:
        """Yields (batch, scores) of every batch without padding; every process gets all rows.

        A batch also has the 'description' of each image.
        """
        size, data = self.config.eval.batch_size, self.config.data
        total = -(-len(records) // size)
        variables = self.scorer.place(variables)
        self.scorer.compile(variables)
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        loader = eval_batches(
            records, self.geometry, data.channels, size, data.num_threads, **share
        )
        for batch in track(loader, total, what):
            scores = self.scorer(variables, batch["image"], batch.get("inside"))
            batch = self.scorer.gather(batch)
            batch["description"] = describe(np.asarray(batch["image"]))
            valid = np.asarray(batch["valid"])
            yield jax.tree.map(lambda x, keep=valid: x[keep], (batch, scores))

    def run(
        self,
        variables: Variables,
        records: Sequence[Record],
        what: str,
        on_batch: Callable[[dict, Scores], None] | None = None,
    ) -> EvalOutputs:
        """Scores all records. on_batch: called with every (batch, scores) of `batches`.

        Raises TrainingDiverged for a score or a map that is not finite.
        """
        terms, maps, masks, labels, has_mask, descriptions = [], [], [], [], [], []
        inside: list[np.ndarray] = []
        num_thin = num_leaving = num_beside = 0
        for batch, scores in self.batches(variables, records, what):
            _check_finite(scores, [records[i] for i in batch["index"].tolist()], self.detector)
            if on_batch is not None:
                on_batch(batch, scores)
            terms.append(scores.terms)
            labels.append(batch["label"])
            has_mask.append(batch["has_mask"])
            descriptions.append(batch["description"])
            if "leaves" in batch:
                num_leaving += int((batch["leaves"] > 0).sum())
                num_beside += int((batch["leaves"] == 2).sum())
            if scores.anomaly_map is None:
                masks += list(batch["mask"])  # no pixel metrics
            elif self.config.eval.original_size:
                chosen = [records[i] for i in batch["index"].tolist()]
                with ThreadPoolExecutor(max(self.config.data.num_threads, 1)) as pool:
                    seen = batch.get("inside", [None] * len(chosen))
                    maps_of = (self._original, chosen, scores.anomaly_map, seen)
                    originals = list(pool.map(*maps_of))
                maps += [one[0] for one in originals]
                masks += [one[1] for one in originals]
                inside += [one[2] for one in originals if one[2] is not None]
            else:
                maps += list(scores.anomaly_map)
                masks += list(batch["mask"])
                inside += list(batch.get("inside", ()))
                num_thin += int(batch["num_thin"].sum())
        return EvalOutputs(
            np.concatenate(terms),
            maps,
            masks,
            labels=np.concatenate(labels),
            has_mask=np.concatenate(has_mask),
            descriptions=np.concatenate(descriptions),
            num_thin=num_thin,
            inside=inside,
            num_leaving=num_leaving,
            num_beside=num_beside,
        )

    def _original(
        self, record: Record, anomaly_map: np.ndarray, inside: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Returns map, mask and the pixels inspected, if not all, at the image's own size."""
        if record.label and record.mask is not None:
            mask = load_mask(record.mask).astype(np.uint8)
        else:
            mask = np.zeros(size_of(record.image), np.uint8)
        height, width = mask.shape
        whole = self.geometry.invert(anomaly_map, (height, width))
        if inside is None:
            return whole, mask, None
        seen = self.geometry.invert_inside(inside, (height, width))
        return lowest_outside(whole, seen), mask * seen, seen

    def tail_rows(self, variables: Variables, holdout: Sequence[Record]) -> Any:
        """Returns what the detector's tails are fitted to, in numpy; None if it has no tails."""
        if self.detector.tails is None:
            return None
        placed = self.scorer.place(variables)
        return tail_rows(self.detector, placed, holdout, self.geometry, self.config)

    def fit_tails(self, variables: Variables, rows: Any) -> Variables:
        """Returns variables with the detector's tails, if it has any. rows: of `tail_rows`."""
        if self.detector.tails is None:
            return variables
        return with_tails(self.detector, variables, rows, self.config.seed)

    def as_new(self, variables: Variables, holdout: Sequence[Record], rows: Any) -> EvalOutputs:
        """Scores held-out images as if they were new: each with tails of other images only.

        rows: of `tail_rows` for these images.
        """
        if self.detector.tails is None:
            return self.run(variables, holdout, "calibrate")
        parts, order = [], []
        for scored, others in folds(len(holdout)):
            fitted = with_tails(self.detector, variables, rows, self.config.seed, others)
            parts.append(self.run(fitted, [holdout[i] for i in scored.tolist()], "calibrate"))
            order.append(scored)
        return joined(parts, np.argsort(np.concatenate(order)))

    def calibrate(
        self,
        variables: Variables,
        holdout: Sequence[Record],
        step: int,
        train: Sequence[Record] = (),
        rows: Any = None,
    ) -> Calibration:
        """Returns the calibration of these variables on held-out good images.

        train: the training images; the good ones widen the range outside which an image is new.
        rows: of `tail_rows` for these images, if they are known.
        Raises TrainingDiverged if it is not finite.
        """
        rows = self.tail_rows(variables, holdout) if rows is None else rows
        outputs = self.as_new(variables, holdout, rows)
        if self._described is None:
            self._described = self.describe([record for record in train if not record.label])
        descriptions = np.concatenate([*self._described, outputs.descriptions])
        return self.calibration_of(outputs, step, descriptions)

    def calibration_of(
        self,
        outputs: EvalOutputs,
        step: int,
        descriptions: np.ndarray,
        copies: Sequence[np.ndarray] = (),
        calibrated_by: str = calibration.HELD_OUT,
        num_folds: int = 0,
    ) -> Calibration:
        """Returns the calibration by outputs of good images, scored as if they were new.

        descriptions: [M, D] of good images; copies: of copies of them, which are as good. Raises
        TrainingDiverged if it is not finite.
        """
        settings, experts = self.config.eval, self.detector.experts
        with np.errstate(all="ignore"):  # told below
            found = calibration.calibrate(
                self.detector.score_terms,
                outputs.terms,
                outputs.map_values(),
                weights=term_weights(self.config, self.detector),
                step=step,
                image_false_alarm_rate=settings.image_false_alarm_rate,
                pixel_false_alarm_rate=settings.pixel_false_alarm_rate,
                descriptions=descriptions,
                copies=np.concatenate(copies) if len(copies) else None,
                calibrated_by=calibrated_by,
                num_folds=num_folds,
                keep=experts.names if experts else (),
            )
        if fault := found.fault():
            raise TrainingDiverged(f"calibration: {fault}")
        return found

    def describe(self, records: Sequence[Record]) -> list[np.ndarray]:
        """Returns the descriptions of a selection of images, spread over the records, in batches.

        Every process reads all of them.
        """
        chosen = [records[i] for i in spread_over(len(records))]
        size, data = self.config.eval.batch_size, self.config.data
        loader = eval_batches(chosen, self.geometry, data.channels, size, data.num_threads)
        return [describe(batch["image"][batch["valid"]]) for batch in loader]


def _check_finite(scores: Scores, records: Sequence[Record], detector: Detector) -> None:
    for i, record in enumerate(records):
        for name, value in zip(detector.score_terms, scores.terms[i].tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name} of the image {record.name} is {value}")
        if scores.anomaly_map is not None and not np.isfinite(scores.anomaly_map[i]).all():
            raise TrainingDiverged(f"the anomaly map of the image {record.name} is not finite")
