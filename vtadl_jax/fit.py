"""One pass over the training images before the first step, for detectors that ask for it."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.models.detector import Detector
from vtadl_jax.train import TrainState
from vtadl_jax.writers import say, track


def check_steps(detector: Detector, num_steps: int) -> None:
    """Raise UserError for a run that would neither fit nor train."""
    if num_steps == 0 and detector.fit is None:
        raise UserError(
            "num_train_steps 0 and num_epochs 0: this detector is trained, not fitted: give steps"
        )


def fit_state(
    detector: Detector,
    tx: optax.GradientTransformation,
    state: TrainState,
    records: Sequence[Record],
    geometry: Geometry,
    config: ConfigDict,
) -> TrainState:
    """The state that training starts from; `state` itself if the detector has nothing to fit.

    state: in this process's memory. Every process reads all images and finds the same.
    """
    if detector.fit is None:
        return state
    data, size = config.data, min(config.eval.batch_size, len(records))
    gather, variables = jax.jit(detector.fit.gather), state.variables
    batches = eval_batches(records, geometry, data.channels, size, data.num_threads)
    rows = []
    for number, batch in enumerate(track(batches, -(-len(records) // size), "fit")):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        found = jax.device_get(gather(variables, batch["image"], key))
        rows.append(jax.tree.map(lambda x, valid=batch["valid"]: x[valid], found))
    gathered = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
    variables = detector.fit.solve(variables, gathered, np.random.default_rng(config.seed))
    say(f"fitted to {len(records)} images")
    params = variables["params"]
    return state.replace(
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(params),
        ema_params=None if state.ema_params is None else jax.tree.map(np.copy, params),
    )
