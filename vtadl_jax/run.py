"""Runs one experiment, in reading order: set up, resume, train, evaluate, report."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vtadl_jax.config import Config
from vtadl_jax.data.sources import load_splits
from vtadl_jax.errors import TrainingDiverged, UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.left_out import LeftOut
from vtadl_jax.evaluation.results import Results
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.evaluation.warm_start import started_state
from vtadl_jax.report.folder import check_place
from vtadl_jax.report.opening import announce
from vtadl_jax.report.write import evaluate, say_metrics, say_results
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.allocator import reuse_host_buffers
from vtadl_jax.runtime.compilation_cache import Stopwatch, watching_cache
from vtadl_jax.runtime.console import BOARD, METRICS_FILE, MetricWriter, NoWriter, say
from vtadl_jax.runtime.distributed import barrier, broadcast_from_main, is_main
from vtadl_jax.runtime.files import check_places
from vtadl_jax.runtime.lock import locked
from vtadl_jax.runtime.preemption import StopRequest
from vtadl_jax.runtime.profiling import Profiler
from vtadl_jax.training.checkpoint import Checkpoints
from vtadl_jax.training.compiled_steps import compile_train_step
from vtadl_jax.training.fitting import fit_variables
from vtadl_jax.training.known_images import IMAGES, Marks, save_marks
from vtadl_jax.training.loop import check_params, diverged, train_loop
from vtadl_jax.training.regions import REGIONS
from vtadl_jax.training.setup import RESULTS, Read, TrainSetup, check_workdir, make_setup
from vtadl_jax.training.state import TrainState, with_variables
from vtadl_jax.training.stored import CONFIG, has_checkpoint, save_config


def run(
    config: Config,
    workdir: Path,
    read: Read = load_splits,
    report: bool = True,
    remember: Callable[[Marks], None] | None = None,
) -> dict[str, Any]:
    """Trains, then evaluates; returns what results.json holds.

    Continues from the newest checkpoint of `workdir`. read: returns the images. report: False
    writes no results and no report. remember: is called with the marks of the images, in the main
    process, when the workdir is there and before training. Raises UserError, TrainingDiverged, and
    Preempted after SIGTERM.
    """
    watch = Stopwatch()
    watch.lap("imports")
    reuse_host_buffers()
    setup = make_setup(config, workdir, read)
    with contextlib.ExitStack() as open_things:
        open_things.enter_context(holding_workdir(setup, remember))
        announce(setup)
        watch.lap("data")
        cache_use = open_things.enter_context(watching_cache())
        session = open_things.enter_context(Session.opened(setup))
        state, step_fn = prepare_training(setup, session.checkpoints, watch)
        if step_fn is not None:

            def on_first_step() -> None:
                watch.lap("first batch and step")
                say(f"{watch}; {cache_use}")

            state = session.train(state, step_fn, on_first_step)
        elif not session.checkpoints.steps:
            session.save(state, int(state.step))  # a fitted detector has no steps
            session.checkpoints.wait()
        results = session.evaluate(state, int(state.step), report=report)
    if report:
        say_results(results, workdir)
    return results.to_dict()


@contextlib.contextmanager
def holding_workdir(
    setup: TrainSetup, remember: Callable[[Marks], None] | None = None
) -> Iterator[None]:
    """Creates the folder of a run, and holds its lock; the main process does, the others wait.

    Raises UserError in all processes if it cannot be written or another run is in it.
    """
    with contextlib.ExitStack() as stack:
        problem = None
        if is_main():
            try:
                open_workdir(setup, stack)
                if remember is not None:
                    remember(setup.marks)
            except UserError as error:
                problem = str(error)
        if (problem := broadcast_from_main(problem)) is not None:
            raise UserError(problem)
        yield


def open_workdir(setup: TrainSetup, stack: contextlib.ExitStack) -> None:
    """Creates the folder of a run, unless it is there, takes its lock and writes its config and
    regions.

    Keeps the list of the images that an earlier process trained on.
    """
    workdir, config, marks = setup.workdir, setup.config, setup.marks
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"workdir {workdir}: {e.strerror}: give another --workdir") from e
    stack.enter_context(locked(workdir))
    check_workdir(workdir, config)  # again: another run may have been in it meanwhile
    check_place(workdir)
    check_places(workdir, (CONFIG, METRICS_FILE, REGIONS), ("checkpoints", BOARD, "profile"))
    if setup.geometry.regions is not None:
        setup.geometry.regions.save(workdir / REGIONS)
    save_config(config, workdir / CONFIG)
    if not has_checkpoint(workdir) or not (workdir / IMAGES).is_file():
        save_marks(workdir, marks)


def prepare_training(
    setup: TrainSetup, checkpoints: Checkpoints, watch: Stopwatch
) -> tuple[TrainState, Callable | None]:
    """Returns the state to continue from and the compiled step, None if no step is left.

    Compiles in a thread while the state and the first batch are made or read.
    """
    if not checkpoints.steps and setup.num_steps:
        setup.feed.start()  # a resumed run restores its place in the data first
    shapes = setup.assembly.state_shapes(setup.mesh)  # before the thread starts: traced once
    with ThreadPoolExecutor(1) as pool:
        compiling = None
        if max(checkpoints.steps, default=0) < setup.num_steps:
            compiling = pool.submit(compile_step, setup, shapes, watch)
        state = setup.assembly.make_state()
        if not checkpoints.steps and setup.config.start_from:
            state = started_state(setup, state)
        elif not checkpoints.steps and setup.assembly.detector.fit is not None:
            state = fit_state(setup, state)
        state = sharding.put_state(setup.mesh, state, setup.assembly.shard_optimizer)
        watch.lap("state")
        if checkpoints.steps:
            state = checkpoints.restore(state, setup.feed.iterator, config=setup.config).state
            say(f"continuing from step {int(state.step)}")
            watch.lap("checkpoint")
        if int(state.step) >= setup.num_steps:
            return state, None
        setup.feed.start()
        # Not compiled yet if the newest checkpoint was complete but damaged: steps are left.
        step_fn = compiling.result() if compiling else compile_step(setup, shapes, watch)
    barrier("compiled")
    watch.lap("waiting for the compiler")
    return state, step_fn


def fit_state(setup: TrainSetup, state: TrainState) -> TrainState:
    """Returns the initial state with its variables fitted to the training images."""
    detector, tx = setup.assembly.detector, setup.assembly.tx
    variables = fit_variables(detector, state.variables, setup.fitted, setup.geometry, setup.config)
    return with_variables(state, variables, tx)


def compile_step(setup: TrainSetup, shapes: Any, watch: Stopwatch) -> Callable:
    """Returns the train step, compiled for the shapes and shardings of a state."""
    with watch.aside("compile"):
        step = setup.assembly.make_step(setup.mesh, shapes)
        return compile_train_step(step, shapes, setup.feed.shapes)


@dataclasses.dataclass
class Session:
    """Open files of a run, with calibration and results of its newest state.

    Calibrates a state once, whether it is evaluated, saved or both.
    """

    setup: TrainSetup
    evaluator: Evaluator
    checkpoints: Checkpoints
    writer: MetricWriter | NoWriter
    profiler: Profiler
    stop: StopRequest
    calibration: Calibration | None = None
    stats: Any = None  # of the calibrated state, for a detector with tails
    left_out: LeftOut | None = None  # of a run that calibrates by cross-fitting
    results: Results | None = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, setup: TrainSetup):
        """Opens a workdir for writing, and closes it."""
        config, workdir, stop = setup.config, setup.workdir, StopRequest()
        with contextlib.ExitStack() as stack:
            stack.enter_context(stop.listening())
            checkpoints = Checkpoints(workdir, config.keep_checkpoints, setup.best)
            stack.callback(checkpoints.close)
            writer = MetricWriter(workdir) if is_main() else NoWriter()
            stack.callback(writer.close)
            profiler = Profiler(workdir, config.profile)
            stack.callback(profiler.close)
            evaluator = Evaluator(config, setup.assembly.detector, setup.geometry, setup.mesh)
            yield cls(setup, evaluator, checkpoints, writer, profiler, stop)

    def train(
        self, state: TrainState, step_fn: Callable, on_first_step: Callable[[], None]
    ) -> TrainState:
        """Trains to the last step, as `train_loop`."""
        config = self.setup.config
        with self.stop.at_steps():
            return train_loop(
                state,
                step_fn,
                self.setup.feed,
                num_steps=self.setup.num_steps,
                batch_size=config.batch_size,
                log_every=config.log_every_steps,
                eval_every=config.eval_every_steps,
                checkpoint_every=config.checkpoint_every_steps,
                writer=self.writer,
                checkpoints=self.checkpoints,
                save=self.save,
                on_eval=self.evaluate,
                stop=self.stop,
                profiler=self.profiler,
                on_first_step=on_first_step,
            )

    def calibrate(self, state: TrainState, step: int) -> tuple[TrainState, Calibration]:
        """Returns a state with its detector's tails, if it has any, and its calibration.

        Measures both at the first call for a step.
        """
        if self.calibration is None or self.calibration.step != step:
            holdout, train = self.setup.holdout, self.setup.fitted
            with self.noticing_divergence(step):
                if self.setup.division.num_folds:
                    variables = self.cross_fit(state).fitted
                    assert self.left_out is not None
                    self.calibration = self.left_out.calibrate(self.evaluator, step)
                else:
                    rows = self.evaluator.tail_rows(state.variables, holdout)
                    variables = self.evaluator.fit_tails(state.variables, rows)
                    self.calibration = self.evaluator.calibrate(
                        variables, holdout, step, train, rows
                    )
            if self.setup.assembly.detector.tails is not None:
                self.stats = variables["stats"]
        return (state if self.stats is None else state.replace(stats=self.stats)), self.calibration

    def cross_fit(self, state: TrainState) -> LeftOut:
        """Fits the detectors that each know all good images but some, once."""
        if self.left_out is None:
            initial = self.setup.assembly.make_state().variables
            self.left_out = LeftOut.of(
                self.evaluator, initial, state.variables, self.setup.division
            )
        return self.left_out

    @contextlib.contextmanager
    def noticing_divergence(self, step: int) -> Iterator[None]:
        """Adds step, last good checkpoint and remedy to the error of a model that diverged."""
        try:
            yield
        except TrainingDiverged as error:
            raise diverged(step, str(error), self.checkpoints) from error

    def evaluate(self, state: TrainState, step: int, report: bool = False) -> Results:
        """Evaluates a state on the test images; with `report` also writes the report's files."""
        state, calibration = self.calibrate(state, step)
        with self.noticing_divergence(step):
            results = self.results = evaluate(
                self.evaluator,
                state.variables,
                calibration,
                self.setup.test,
                train=self.setup.records,
                holdout=self.setup.holdout if report else (),
                left_out=self.left_out,
                out=self.setup.workdir if report and is_main() else None,
            )
        if not report:
            say_metrics(results)
        numbers = {**results.metrics, "seconds": results.seconds}
        known = {name: value for name, value in numbers.items() if value is not None}
        self.writer.write(step, known, "eval")
        return results

    def save(self, state: TrainState, step: int) -> None:
        """Saves a state with its calibration, or without it after SIGTERM, to exit in time.

        Raises TrainingDiverged, and saves nothing, if parameters or calibration are not finite.
        """
        check_params(step, state, self.checkpoints)
        calibration, numbers = None, {}
        if not self.stop.requested:
            state, calibration = self.calibrate(state, step)
            numbers = dict(zip(calibration.terms, calibration.mean, strict=True))
            if self.results is not None and self.results.step == step:
                measured = {name: self.results.metrics.get(name) for name in RESULTS}
                numbers |= {name: v for name, v in measured.items() if v is not None}
        self.checkpoints.save(
            step,
            state,
            self.setup.feed.iterator,
            config=self.setup.config.to_dict(),
            calibration=calibration.to_dict() if calibration else None,
            numbers=numbers,
        )
