"""Scores good images by detectors that were fitted without them (cross-fitting).

The threshold of a fitted detector with few good images comes from these scores. The detector that
is used afterwards is fitted to all of them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from vtadl_jax.data.records import Record
from vtadl_jax.detectors.contract import Scores, Variables
from vtadl_jax.evaluation.calibration import COPIES, CROSS_FIT, Calibration
from vtadl_jax.evaluation.held_out import with_tails
from vtadl_jax.evaluation.outputs import EvalOutputs, joined
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.training.cross_fitting import fit_folds
from vtadl_jax.training.division import Division


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Detectors that know all good images but some, and these.

    folds: (positions in `division.holdout`, variables of the detector that does not know them);
    their tails, if the detector has any, are of the images of other folds. fitted: variables of the
    detector that knows all, with tails of all images.
    """

    division: Division
    folds: list[tuple[np.ndarray, Variables]]
    fitted: Variables

    @classmethod
    def of(
        cls,
        evaluator: Evaluator,
        initial: Variables,
        fitted: Variables,
        division: Division,
        show: bool = True,
    ) -> "LeftOut":
        """Fits the folds. initial, fitted: variables before and after the fit to all images; frozen
        weights are taken of `fitted`. show: the progress.

        With a single good image there is one fold: moved copies of it, scored by `fitted`.
        """
        config, geometry, detector = evaluator.config, evaluator.geometry, evaluator.detector
        if division.num_folds == 1:
            folds = [(np.arange(len(division.holdout)), fitted)]
        else:
            frozen = jax.device_get(evaluator.scorer.place(fitted["frozen"]))
            initial = {**initial, "frozen": frozen}
            folds = fit_folds(detector, initial, division, geometry, config, show)
        if detector.tails is None:
            return cls(division, folds, fitted)
        fewest = min(len(positions) for positions, _ in folds)
        rows = [
            evaluator.tail_rows(variables, take(division.holdout, positions), fewest)
            for positions, variables in folds
        ]
        every = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
        order = np.concatenate([positions for positions, _ in folds])
        tailed = []
        for positions, variables in folds:
            others = np.flatnonzero(~np.isin(order, positions))
            if not others.size:  # copies of one image: there are no others
                others = np.arange(order.size)
            found = with_tails(detector, variables, every, config.seed, others)
            tailed.append((positions, found))
        return cls(division, tailed, evaluator.fit_tails(fitted, every))

    def run(
        self,
        evaluator: Evaluator,
        what: str,
        on_batch: Callable[[dict, Scores], None] | None = None,
        calibrated: Calibration | None = None,
    ) -> EvalOutputs:
        """Scores each image by the detector that does not know it; as `Evaluator.run`."""
        parts = []
        for positions, variables in self.folds:

            def told(batch: dict, scores: Scores, positions: np.ndarray = positions) -> None:
                if on_batch is not None:
                    on_batch({**batch, "index": positions[batch["index"]]}, scores)

            records = take(self.division.holdout, positions)
            parts.append(evaluator.run(variables, records, what, told, calibrated))
        order = np.concatenate([positions for positions, _ in self.folds])
        return joined(parts, np.argsort(order))

    def calibrate(self, evaluator: Evaluator, step: int) -> Calibration:
        """Returns the calibration by the scores of `run`. Raises TrainingDiverged if it is not
        finite."""
        division = self.division
        outputs = self.run(evaluator, "calibrate")
        copies = [copy for every in division.copies.values() for copy in every]
        if division.num_folds == 1:
            known, copies = evaluator.describe(division.records), [*division.holdout, *copies]
        else:
            known = [outputs.descriptions]
        return evaluator.calibration_of(
            outputs,
            step,
            np.concatenate(known),
            evaluator.describe(copies),
            calibrated_by=COPIES if division.num_folds == 1 else CROSS_FIT,
            num_folds=division.num_folds,
        )


def take(records: Sequence[Record], positions: np.ndarray) -> list[Record]:
    """Returns the records at some positions."""
    return [records[i] for i in positions.tolist()]
