"""Estimates what a run will take, from its real set-up and a few measured steps. Writes nothing.

Images that the program would draw are drawn into a temporary folder, which is removed.
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.crops import windows_of
from vtadl_jax.data.decode import size_of
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.synthetic.dataset import missing_images
from vtadl_jax.data.windows import count_windows
from vtadl_jax.detectors.contract import Variables
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.held_out import WINDOWS_PER_IMAGE, defects_per_image
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.report.folder import check_place
from vtadl_jax.report.opening import announce
from vtadl_jax.runtime.allocator import reuse_host_buffers
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.lock import check_free
from vtadl_jax.training.measuring import (
    Cost,
    fit_batch,
    measure_fit,
    measure_steps,
    peak_of_process,
)
from vtadl_jax.training.setup import TrainSetup, make_setup
from vtadl_jax.training.stored import checkpoint_steps


@dataclasses.dataclass(frozen=True)
class Measured:
    """Costs on this machine. fit and steps: None where the detector has none; scoring: of a batch.

    peak: the largest memory of this process, in bytes.
    """

    fit: Cost | None
    steps: Cost | None
    scoring: Cost
    peak: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one run would take. done: steps of its newest checkpoint, None without one; reading:
    seconds of the set-up; times are seconds."""

    setup: TrainSetup
    measured: Measured
    done: int | None
    reading: float

    @property
    def steps_left(self) -> int:
        return max(self.setup.num_steps - (self.done or 0), 0)

    @property
    def fitting(self) -> float:
        """The passes over the images; a run that continues needs only that of cross-fitting."""
        if self.measured.fit is None:
            return 0.0
        passes = (self.done is None) + (self.setup.division.num_folds > 1)
        count = len(self.setup.fitted) * max(self.windows_each, 1)
        batches = -(-count // fit_batch(self.setup))
        return passes * self.measured.fit.seconds * batches

    @property
    def training(self) -> float:
        return self.measured.steps.seconds * self.steps_left if self.measured.steps else 0.0

    @property
    def scored_batches(self) -> int:
        """Batches that a run scores: held-out images at each checkpoint and evaluation, test images
        at each evaluation."""
        config, size = self.setup.config, self.setup.config.eval.batch_size
        first, last = self.setup.num_steps - self.steps_left, self.setup.num_steps

        def times(every: int) -> set[int]:
            return set(range(first - first % every + every, last, every)) if every else set()

        evaluated = times(config.eval_every_steps) | {last}
        calibrated = times(config.checkpoint_every_steps) | evaluated
        tails = self.setup.assembly.detector.tails
        batches = len(evaluated) * self._batches(len(self.setup.test))
        holdout, folds = len(self.setup.holdout), max(self.setup.division.num_folds, 1)
        each_fold = -(-holdout // folds)
        once = self._batches(each_fold)
        if tails is not None and holdout:  # with drawn defects; then scores
            shown = holdout * (WINDOWS_PER_IMAGE if self.windows_each else 1)
            passes = 1 + defects_per_image(tails, shown)
            once += passes * -(-each_fold * shown // holdout // size)
        return batches + len(calibrated) * folds * once

    @functools.cached_property
    def windows_each(self) -> int:
        """Windows of an image, of the first one that is fitted to; 0 for whole images."""
        windows = self.setup.config.data.windows
        return count_windows(size_of(self.setup.fitted[0].image), windows) if windows.side else 0

    def _batches(self, count: int) -> int:
        """Returns the batches that scoring takes for images: of images, or of windows of each."""
        size, each = self.setup.config.eval.batch_size, self.windows_each
        return count * -(-each // size) if each else -(-count // size)

    @property
    def scoring(self) -> float:
        return self.measured.scoring.seconds * self.scored_batches

    @property
    def compiling(self) -> float:
        fit = self.measured.fit if self.done is None else None
        steps = self.measured.steps if self.steps_left else None
        return sum(cost.compiling for cost in (fit, steps, self.measured.scoring) if cost)

    @property
    def total(self) -> float:
        return self.reading + self.compiling + self.fitting + self.training + self.scoring


def estimate(config: Config, workdir: Path, known: dict[int, Measured] | None = None) -> Estimate:
    """Sets a run up and measures it. known: measurements by number of channels, to use and add to.

    Raises UserError as the run would.
    """
    known = {} if known is None else known
    reuse_host_buffers()
    start = time.perf_counter()
    with drawn_elsewhere(config) as config:
        setup = make_setup(config, workdir)
        check_place_of_run(workdir)
        announce(setup)
        reading = time.perf_counter() - start
        channels = setup.config.data.channels
        if channels not in known:
            known[channels] = measure(setup)
    done = max(checkpoint_steps(workdir), default=None)
    return Estimate(setup, known[channels], done, reading)


@contextlib.contextmanager
def drawn_elsewhere(config: Config) -> Iterator[Config]:
    """Yields the config itself, or with a temporary `data.root` if a run would draw its images."""
    root = config.data.root
    categories = (config.data.category,)
    missing = missing_images(root, categories) if config.data.source == "synthetic" else 0
    if not missing:
        yield config
        return
    say(
        f"{missing} images would be drawn into {root}; for this estimate they are drawn into a "
        f"temporary folder, which is removed"
    )
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = str(Path(folder, Path(root).name or "drawn"))
        try:
            yield options_lib.replace(config, {"data.root": elsewhere})
        except UserError as error:
            raise UserError(str(error).replace(elsewhere, root)) from error


def check_place_of_run(workdir: Path) -> None:
    """Raises UserError if a run could not write to its folder: in use, read-only, behind links."""
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"workdir {workdir}: {there} can't be written: give another --workdir")
    if workdir.is_dir():
        check_free(workdir)
        check_place(workdir)


def measure(setup: TrainSetup) -> Measured:
    """Measures the fit, the train step and scoring on real images, as far as the detector has
    them."""
    state = setup.assembly.make_state()
    fitted = setup.assembly.detector.fit is not None
    fit = measure_fit(setup, state.variables) if fitted else None
    steps = None
    if setup.num_steps:
        steps, state = measure_steps(setup, state)
    scoring = measure_scoring(setup, state.variables)
    return Measured(fit, steps, scoring, peak_of_process())


def measure_scoring(setup: TrainSetup, variables: Variables) -> Cost:
    """Compiles scoring and scores one batch of test images, or of others if there are none."""
    config = setup.config
    evaluator = Evaluator(config, setup.assembly.detector, setup.geometry, setup.mesh)
    size = config.eval.batch_size
    records = (setup.test or setup.holdout or setup.records)[:size]
    if config.data.windows.side:
        records = windows_of(records[:1], config.data.windows, config.data.bits)[:size]
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    variables = evaluator.scorer.place(variables)
    start = time.perf_counter()
    evaluator.scorer.compile(variables)
    compiling = time.perf_counter() - start
    shape = (size // jax.process_count(), *setup.geometry.size, config.data.channels)
    evaluator.scorer(variables, np.zeros(shape, np.uint8))  # warms up
    start = time.perf_counter()
    data = config.data
    for batch in eval_batches(
        records, setup.geometry, data.channels, size, data.num_threads, **share
    ):
        evaluator.scorer(variables, batch["image"])
        describe(np.asarray(batch["image"]))
    return Cost(time.perf_counter() - start, 1, compiling)
