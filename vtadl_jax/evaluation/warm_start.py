"""Starts a run from the weights of another (`start_from`), and holds it near them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.detectors.consolidation import fisher_diagonal, with_start, without_start
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.trained_run import Run, load_run
from vtadl_jax.experiment import make_detector
from vtadl_jax.options import replace
from vtadl_jax.runtime.console import say
from vtadl_jax.training.known_images import load_marks
from vtadl_jax.training.setup import TrainSetup
from vtadl_jax.training.state import TrainState, with_variables


def started_state(setup: TrainSetup, state: TrainState) -> TrainState:
    """Returns the initial state with the variables of the run `start_from`.

    Raises UserError if that is no run, or of another method or other sizes.
    """
    found = load_run(Path(setup.config.start_from).expanduser())
    plain = without_start(state.variables)
    ours, theirs = (jax.tree.map(jnp.shape, v) for v in (plain, found.variables))
    if found.config.detector != setup.config.detector or ours != theirs:
        raise UserError(
            f"start_from {setup.config.start_from}: a run of {found.config.detector!r} with other "
            f"sizes can't start one of {setup.config.detector!r}: leave it empty"
        )
    say(f"starting from step {found.step} of {setup.config.start_from}")
    variables = jax.device_get(found.variables)
    if setup.config.start_penalty:
        variables = with_start(variables, variables["params"], fisher_of(setup, found))
    return with_variables(state, variables, setup.assembly.tx)


def fisher_of(setup: TrainSetup, found: Run) -> Any:
    """Returns the Fisher information of a run's loss over its training images that are still here.

    Raises UserError if none is among the training images of the new run.
    """
    marks = (load_marks(found.workdir) or {"train": {}})["train"]
    now = setup.marks["train"]
    old = [r for r in setup.fitted if r.name in marks and marks[r.name] == now.get(r.name)]
    if not old:
        raise UserError(
            f"start_penalty {setup.config.start_penalty:g}: none of the training images is one of "
            f"{found.workdir}, and what its weights are worth is measured on these: leave it at 0"
        )
    config = replace(found.config, {"train.accumulate": 1, "start_penalty": 0.0})
    data, size = config.data, min(config.eval.batch_size, len(old))
    batches = eval_batches(old, setup.geometry, data.channels, size, data.num_threads)
    key = jax.random.key(config.seed)
    fisher = fisher_diagonal(make_detector(config), jax.device_get(found.variables), batches, key)
    say(f"start_penalty {setup.config.start_penalty:g}: weighted by {len(old)} images of before")
    return fisher
