"""What becomes of a state during a run: it is calibrated, evaluated and saved."""

import dataclasses

from vtadl_jax.calibration import Calibration
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.distributed import is_main
from vtadl_jax.evaluate import evaluate, say_results
from vtadl_jax.plan import RESULTS, Plan
from vtadl_jax.preemption import StopRequest
from vtadl_jax.scoring import Evaluator
from vtadl_jax.train import TrainState
from vtadl_jax.writers import MetricWriter, NoWriter


class Keeper:
    """Of one run. A state is calibrated once, whether it is evaluated, saved or both."""

    def __init__(
        self,
        plan: Plan,
        evaluator: Evaluator,
        checkpoints: Checkpoints,
        writer: MetricWriter | NoWriter,
        stop: StopRequest,
    ):
        self._plan, self._evaluator = plan, evaluator
        self._checkpoints, self._writer, self._stop = checkpoints, writer, stop
        self._calibration: Calibration | None = None
        self._results: dict = {}

    def _calibrate(self, state: TrainState, step: int) -> Calibration:
        if self._calibration is None or self._calibration.step != step:
            self._calibration = self._evaluator.calibrate(state.variables, self._plan.holdout, step)
        return self._calibration

    def evaluate(self, state: TrainState, step: int, report: bool = False) -> dict:
        """Metrics on the test images; `report` also writes what a person wants to see."""
        calibration = self._calibrate(state, step)
        out = self._plan.workdir if report and is_main() else None
        self._results = evaluate(
            self._evaluator, state.variables, calibration, self._plan.test, out
        )
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
            self._plan.feed.iterator,
            config=self._evaluator.config.to_dict(),
            calibration=dataclasses.asdict(calibration) if calibration else None,
            numbers=numbers,
        )
