"""What becomes of a state during a run: it is calibrated, evaluated and saved."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vtadl_jax.calibration import Calibration
from vtadl_jax.checkpoint import Best, Checkpoints
from vtadl_jax.data.records import Record
from vtadl_jax.distributed import is_main
from vtadl_jax.errors import UserError
from vtadl_jax.evaluate import evaluate, say_results
from vtadl_jax.feed import Feed
from vtadl_jax.preemption import StopRequest
from vtadl_jax.scoring import Evaluator
from vtadl_jax.train import TrainState
from vtadl_jax.writers import MetricWriter, NoWriter

RESULTS = ("image_auroc", "pixel_auroc", "aupro")  # by which a checkpoint can be the best


def best_by(name: str, terms: Sequence[str]) -> Best | None:
    """What `keep_best` asks for. Raises UserError for a name that no run has."""
    name = name or terms[0]
    if name == "none":
        return None
    if name not in (*terms, *RESULTS):
        known = ", ".join((*terms, *RESULTS))
        raise UserError(f"keep_best {name!r}: use one of {known}, or 'none'")
    return Best(name, largest=name in RESULTS)


class Keeper:
    """Of one run. A state is calibrated once, whether it is evaluated, saved or both."""

    def __init__(
        self,
        workdir: Path,
        evaluator: Evaluator,
        holdout: Sequence[Record],
        test: Sequence[Record],
        checkpoints: Checkpoints,
        writer: MetricWriter | NoWriter,
        feed: Feed,
        stop: StopRequest,
    ):
        self._workdir, self._evaluator = workdir, evaluator
        self._holdout, self._test = holdout, test
        self._checkpoints, self._writer, self._feed, self._stop = checkpoints, writer, feed, stop
        self._calibration: Calibration | None = None
        self._results: dict = {}

    def _calibrate(self, state: TrainState, step: int) -> Calibration:
        if self._calibration is None or self._calibration.step != step:
            self._calibration = self._evaluator.calibrate(state.variables, self._holdout, step)
        return self._calibration

    def evaluate(self, state: TrainState, step: int, report: bool = False) -> dict:
        """Metrics on the test images; `report` also writes what a person wants to see."""
        calibration = self._calibrate(state, step)
        out = self._workdir if report and is_main() else None
        self._results = evaluate(self._evaluator, state.variables, calibration, self._test, out)
        say_results(self._results)
        numbers = {k: v for k, v in self._results.items() if isinstance(v, float)}
        self._writer.write(step, numbers, "eval")
        return self._results

    def save(self, state: TrainState, step: int) -> None:
        """With its calibration, unless the run is being stopped: there is no time then."""
        calibration, numbers = None, {}
        if not self._stop.requested:
            calibration = self._calibrate(state, step)
            numbers = dict(zip(calibration.terms, calibration.mean, strict=True))
            if self._results.get("step") == step:
                numbers |= {k: self._results[k] for k in RESULTS if self._results.get(k)}
        self._checkpoints.save(
            step,
            state,
            self._feed.iterator,
            config=self._evaluator.config.to_dict(),
            calibration=dataclasses.asdict(calibration) if calibration else None,
            numbers=numbers,
        )
