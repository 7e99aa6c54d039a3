"""Builds detector, optimizer, state and step from a config; the only place that combines them."""

import dataclasses
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from vtadl_jax.config import Config
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.experiment import make_detector
from vtadl_jax.ops.augment import Augmentation
from vtadl_jax.runtime import sharding
from vtadl_jax.training.optimizer import make_optimizer
from vtadl_jax.training.state import TrainState, create_state
from vtadl_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Assembly:
    """Detector and optimizer of a config, shared by training, compile studies and benchmarks."""

    config: Config
    detector: Detector
    tx: optax.GradientTransformation

    def make_state(self) -> TrainState:
        """Returns the initial train state, in this process's memory."""
        return create_state(
            self.detector, self.tx, self.config.seed, self.config.optimizer.ema_decay
        )

    def state_shapes(self, mesh: Mesh) -> Any:
        """Returns the shapes and shardings of the state on a mesh, to compile for."""
        shapes = jax.eval_shape(self.make_state)
        return sharding.state_shapes(mesh, shapes, self.shard_optimizer)

    def make_step(self, mesh: Mesh, state: Any) -> Any:
        """Returns the step of `step.make_train_step` for a state or its shapes."""
        return make_train_step(
            self.detector,
            self.tx,
            mesh,
            state,
            ema_decay=self.config.optimizer.ema_decay,
            augmentation=Augmentation(**dataclasses.asdict(self.config.data.augment)),
            parallel=self.config.train.parallel,
            shard_optimizer=self.shard_optimizer,
        )

    @property
    def shard_optimizer(self) -> bool:
        """Whether the optimizer's state is sharded over all devices; 'pmap' replicates it."""
        return self.config.train.shard_optimizer and self.config.train.parallel == "jit"


def assemble(config: Config, num_steps: int, detector: Detector | None = None) -> Assembly:
    """Builds detector and optimizer of a config.

    num_steps: length of the learning rate's schedule. detector: replaces the config's own.
    Raises UserError for options that do not fit together.
    """
    detector = make_detector(config) if detector is None else detector
    return Assembly(config, detector, make_optimizer(config.optimizer, num_steps))
