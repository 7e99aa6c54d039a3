"""The train state: all arrays that a step reads and writes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vtadl_jax.detectors.contract import Detector, Variables


class TrainState(flax.struct.PyTreeNode):
    """All arrays that a step reads and writes.

    step: int32 []. params, stats, frozen: the detector's variables. ema_params: None without an
    average. key: raw uint32 key data, folded with the step for each step's noise.
    """

    step: jax.Array
    params: Any
    stats: Any
    frozen: Any
    opt_state: Any
    ema_params: Any
    key: jax.Array

    @property
    def variables(self) -> Variables:
        """The variables for evaluation: with the averaged parameters if there are any."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "stats": self.stats, "frozen": self.frozen}


def create_state(
    detector: Detector, tx: optax.GradientTransformation, seed: int, ema_decay: float = 0.0
) -> TrainState:
    """Returns the state before the first step, with the detector's initial variables."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    variables = detector.init(init_key)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=variables.get("stats", {}),
        frozen=variables.get("frozen", {}),
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema_decay > 0 else None,
        key=jax.random.key_data(step_key),
    )


def with_variables(
    state: TrainState, variables: Variables, tx: optax.GradientTransformation
) -> TrainState:
    """Returns the state with other variables, and a new optimizer state and average."""
    params = variables["params"]
    return state.replace(
        params=params,
        stats=variables["stats"],
        frozen=variables["frozen"],
        opt_state=tx.init(params),
        ema_params=None if state.ema_params is None else jax.tree.map(jnp.copy, params),
    )
