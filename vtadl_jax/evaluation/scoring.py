"""Scores test sets and new images with one jitted step. Computes no metrics, writes no files."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtadl_jax.config import Config
from vtadl_jax.data.decode import load_mask, size_of
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.regions.region import lowest_outside
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores, Variables
from vtadl_jax.errors import TrainingDiverged
from vtadl_jax.evaluation import calibration, windowed
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.held_out import folds, tail_rows, with_tails
from vtadl_jax.evaluation.novelty import describe, spread_over
from vtadl_jax.evaluation.outputs import EvalOutputs, joined
from vtadl_jax.evaluation.scorer import Scorer
from vtadl_jax.evaluation.window_scales import (
    Seen,
    WindowScale,
    fit_scales,
    whole_map,
    whole_terms,
)
from vtadl_jax.experiment import term_weights
from vtadl_jax.runtime.console import track


class Evaluator:
    """Scorer of lists of records, with a config's data options."""

    def __init__(self, config: Config, detector: Detector, geometry: Geometry, mesh: Mesh):
        self.config, self.detector, self.geometry = config, detector, geometry
        self.windows = config.data.windows if config.data.windows.side else None
        shape = (*geometry.size, config.data.channels)
        has_regions = geometry.regions is not None
        scored = windowed.cells_detector(detector, self.windows) if self.windows else detector
        self.scorer = Scorer(scored, shape, config.eval.batch_size, mesh, has_regions)
        self._described: list[np.ndarray] | None = None  # of training images

    def batches(
        self,
        variables: Variables,
        records: Sequence[Record],
        what: str,
        calibrated: Calibration | None = None,
    ) -> Iterator[tuple[dict[str, np.ndarray], Scores, Seen | None]]:
        """Yields (batch, scores, None) of every batch without padding; every process gets all rows.

        A batch also has the 'description' of each image. Images that are scored by windows come
        one by one, with what was seen in their windows; calibrated: makes the scores of it.
        """
        size, data = self.config.eval.batch_size, self.config.data
        total = -(-len(records) // size)
        variables = self.scorer.place(variables)
        self.scorer.compile(variables)
        if self.windows is not None:
            found = windowed.batches(
                self.scorer,
                variables,
                records,
                self.windows,
                self.geometry,
                data.channels,
                calibrated,
            )
            yield from track(found, len(records), what)
            return
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        loader = eval_batches(
            records, self.geometry, data.channels, size, data.num_threads, **share
        )
        for batch in track(loader, total, what):
            scores = self.scorer(variables, batch["image"], batch.get("inside"))
            batch = self.scorer.gather(batch)
            batch["description"] = describe(np.asarray(batch["image"]))
            valid = np.asarray(batch["valid"])
            yield (*jax.tree.map(lambda x, keep=valid: x[keep], (batch, scores)), None)

    def run(
        self,
        variables: Variables,
        records: Sequence[Record],
        what: str,
        on_batch: Callable[[dict, Scores], None] | None = None,
        calibrated: Calibration | None = None,
    ) -> EvalOutputs:
        """Scores all records. on_batch: called with every (batch, scores) of `batches`.

        calibrated: of these variables, for images that are scored by windows; None to calibrate.
        Raises TrainingDiverged for a score or a map that is not finite.
        """
        terms, maps, masks, labels, has_mask, descriptions = [], [], [], [], [], []
        inside: list[np.ndarray] = []
        seen: list[Seen] = []
        num_thin = num_leaving = num_beside = 0
        for batch, scores, windows in self.batches(variables, records, what, calibrated):
            if windows is not None and calibrated is None:
                seen.append(windows)
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
                    inspected = batch.get("inside", [None] * len(chosen))
                    maps_of = (self._original, chosen, scores.anomaly_map, inspected)
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
            seen=seen,
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
        geometry = self.geometry if self.windows is None else Geometry(anomaly_map.shape)
        whole = geometry.invert(anomaly_map, (height, width))
        if inside is None:
            return whole, mask, None
        seen = geometry.invert_inside(inside, (height, width))
        return lowest_outside(whole, seen), mask * seen, seen

    def tail_rows(self, variables: Variables, holdout: Sequence[Record], fewest: int = 0) -> Any:
        """Returns what the detector's tails are fitted to, in numpy; None if it has no tails.

        fewest: images of the smallest fold, if the images are one of several.
        """
        if self.detector.tails is None:
            return None
        placed = self.scorer.place(variables)
        return tail_rows(self.detector, placed, holdout, self.geometry, self.config, fewest)

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
        weights = term_weights(self.config, self.detector)
        scales: tuple[WindowScale, ...] = ()
        if self.windows is not None:
            scales = fit_scales(self.windows.scales, outputs.seen)
            outputs = _settled(outputs, scales, weights)
        with np.errstate(all="ignore"):  # told below
            found = calibration.calibrate(
                self.detector.score_terms,
                outputs.terms,
                outputs.map_values(),
                weights=weights,
                step=step,
                image_false_alarm_rate=settings.image_false_alarm_rate,
                pixel_false_alarm_rate=settings.pixel_false_alarm_rate,
                descriptions=descriptions,
                copies=np.concatenate(copies) if len(copies) else None,
                calibrated_by=calibrated_by,
                num_folds=num_folds,
                keep=experts.names if experts else (),
                windows=scales,
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


def _settled(
    outputs: EvalOutputs, scales: tuple[WindowScale, ...], weights: Sequence[float]
) -> EvalOutputs:
    """Returns outputs of good images with terms and maps by the scales that their windows gave."""
    terms = [whole_terms(scales, seen, weights, calibration.CREDIT_LIMIT) for seen in outputs.seen]
    maps = [whole_map(scales, seen) for seen in outputs.seen]
    found = [one for one in maps if one is not None]
    return dataclasses.replace(outputs, terms=np.stack(terms), maps=found)


def _check_finite(scores: Scores, records: Sequence[Record], detector: Detector) -> None:
    for i, record in enumerate(records):
        for name, value in zip(detector.score_terms, scores.terms[i].tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name} of the image {record.name} is {value}")
        if scores.anomaly_map is not None and not np.isfinite(scores.anomaly_map[i]).all():
            raise TrainingDiverged(f"the anomaly map of the image {record.name} is not finite")
