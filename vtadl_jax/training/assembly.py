"""Builds detector, optimizer, state and step from a config; the only place that combines them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vtadl_jax.config import Config
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks.initialize import INITIALIZER_OPTIONS
from vtadl_jax.ops.augment import Augmentation
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.runtime import sharding
from vtadl_jax.training.optimizer import make_optimizer
from vtadl_jax.training.state import TrainState, create_state, with_variables
from vtadl_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Assembly:
    """Detector and optimizer of a config, shared by training, compile studies and benchmarks.

    pretrained: arrays of `config.init_from` by name, loaded into the initial variables; None to
    start from random ones.
    """

    config: Config
    detector: Detector
    tx: optax.GradientTransformation
    pretrained: Mapping[str, np.ndarray] | None = None

    @functools.cached_property
    def _initial(self) -> Any:
        """`create_state`, traced once for its shapes and its values; without `pretrained`, whose
        arrays would be constants of the program."""
        optimizer = self.config.optimizer
        create = functools.partial(
            create_state, self.detector, self.tx, self.config.seed, optimizer.ema_decay
        )
        return jax.jit(on_platform(jax.default_backend(), create)).trace()

    @property
    def shapes(self) -> Any:
        """The train state as `jax.ShapeDtypeStruct`s."""
        return self._initial.out_info

    def make_state(self) -> TrainState:
        """Returns the initial train state, in this process's memory."""
        state = self._initial.lower().compile(compiler_options=INITIALIZER_OPTIONS)()
        if self.pretrained is None:
            return state
        variables = load_pretrained(
            self.detector, state.variables, self.pretrained, self.config.init_from
        )
        return with_variables(state, variables, self.tx)

    def state_shapes(self, mesh: Mesh) -> Any:
        """Returns the shapes and shardings of the state on a mesh, to compile for."""
        return sharding.state_shapes(mesh, self.shapes, self.shard_optimizer)

    def make_step(self, mesh: Mesh, state: Any) -> Any:
        """Returns the step of `step.make_train_step` for a state or its shapes."""
        return make_train_step(
            self.detector,
            self.tx,
            mesh,
            state,
            ema_decay=self.config.optimizer.ema_decay,
            augmentation=Augmentation(**dataclasses.asdict(self.config.data.augment)),
            window=self.config.image_size if self.config.data.windows.side else None,
            parallel=self.config.train.parallel,
            shard_optimizer=self.shard_optimizer,
        )

    @property
    def shard_optimizer(self) -> bool:
        """Whether the optimizer's state is sharded over all devices; 'pmap' replicates it."""
        return self.config.train.shard_optimizer and self.config.train.parallel == "jit"


def assemble(
    config: Config,
    num_steps: int,
    detector: Detector | None = None,
    pretrained: Mapping[str, np.ndarray] | None = None,
) -> Assembly:
    """Builds detector and optimizer of a config.

    num_steps: length of the learning rate's schedule. detector: replaces the config's own.
    pretrained: arrays that its variables start from. Raises UserError for options that do not fit
    together.
    """
    detector = make_detector(config) if detector is None else detector
    tx = make_optimizer(config.optimizer, num_steps)
    return Assembly(config, detector, tx, pretrained)


def load_pretrained(
    detector: Detector, variables: Variables, arrays: Mapping[str, np.ndarray], path: str
) -> Variables:
    """Returns variables, or their shapes, with the pretrained arrays of `path` in their places.

    Raises UserError, which names the file, for arrays that do not fit.
    """
    assert detector.load_pretrained is not None, "read_pretrained refuses such a detector"
    try:
        return detector.load_pretrained(variables, arrays)
    except UserError as e:
        raise UserError(f"init_from {path}: {e}") from e
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        # Arrays under known names, of shapes that no such network has.
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"init_from {path}: its arrays do not fit each other ({reason})") from e
