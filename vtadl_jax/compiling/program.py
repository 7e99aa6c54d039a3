"""The very functions that training, evaluation and prediction compile, from shapes alone."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import sharding, train
from vtadl_jax.compiling.topology import LOCAL, Target
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.ops.augment import Augmentation
from vtadl_jax.optimizer import make_optimizer

STEPS = ("train", "eval", "predict")


@dataclasses.dataclass(frozen=True)
class Program:
    """A step lowered for a mesh. images: of one call, over all its devices; seconds: what tracing
    and lowering took; gradient_bytes: of all parameters' gradients, each in the type in which
    devices exchange it (0 where there are none)."""

    step: str
    lowered: Any
    mesh: Mesh
    images: int
    num_parameters: int
    parameter_bytes: int
    seconds: dict[str, float]

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    @property
    def images_per_device(self) -> float:
        return self.images / self.mesh.size


def lower_step(config: ConfigDict, target: Target, step: str, images_per_device: int) -> Program:
    """Trace and lower a step for a target's devices.

    images_per_device: 0 takes the config's batch sizes: here over all devices, as training does;
    on a topology for each of them. 'predict' is one image on one device.

    Raises UserError for an unknown step, and what the config's own checks raise.
    """
    if step not in STEPS:
        raise UserError(f"step {step!r}: use {', '.join(STEPS)}")
    mesh = make_mesh(config, target, step)
    images = batch_of(config, target, step, mesh, images_per_device)
    make = _train if step == "train" else _score
    start = time.perf_counter()
    traced, variables = make(config, mesh, images)
    traced_at = time.perf_counter()
    lowered = traced.lower()
    done = time.perf_counter()
    params = jax.tree.leaves(variables["params"])
    return Program(
        step=step,
        lowered=lowered,
        mesh=mesh,
        images=images,
        num_parameters=sum(x.size for x in params),
        parameter_bytes=sum(x.size * x.dtype.itemsize for x in params),
        seconds={"trace": traced_at - start, "lower": done - traced_at},
    )


def make_mesh(config: ConfigDict, target: Target, step: str) -> Mesh:
    if step == "predict":
        return sharding.make_mesh(1, devices=target.devices[:1])
    return sharding.make_mesh(config.mesh.data, devices=target.devices)


def batch_of(config: ConfigDict, target: Target, step: str, mesh: Mesh, per_device: int) -> int:
    if step == "predict":
        return per_device or 1
    name, size = "batch_size", config.batch_size
    if step == "eval":
        name, size = "eval.batch_size", config.eval.batch_size
    if per_device:
        return per_device * mesh.size
    if target.name != LOCAL:
        return size * mesh.size
    sharding.check_batch(name, size, mesh)
    return size


def _train(config: ConfigDict, mesh: Mesh, images: int):
    detector, tx = make_detector(config), make_optimizer(config.optimizer, num_steps=1000)
    ema_decay = config.optimizer.ema_decay
    everywhere = sharding.replicated(mesh)
    make_state = functools.partial(train.create_state, detector, tx, config.seed, ema_decay)
    state = _with_sharding(jax.eval_shape(make_state), everywhere)
    step = jax.jit(
        functools.partial(
            train.train_step,
            detector=detector,
            tx=tx,
            ema_decay=ema_decay,
            augmentation=Augmentation(**config.data.augment),
            mesh=mesh,
        ),
        donate_argnums=0,
        out_shardings=(everywhere, everywhere),
    )
    split = sharding.batch_sharding(mesh)
    batch = {
        "image": _image_shape(config, images, split),
        "label": jax.ShapeDtypeStruct((images,), jnp.int32, sharding=split),
    }
    return step.trace(state, batch), state.variables


def _score(config: ConfigDict, mesh: Mesh, images: int):
    detector = make_detector(config)
    everywhere = sharding.replicated(mesh)
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    variables = _with_sharding(variables, everywhere)
    step = jax.jit(detector.score, out_shardings=everywhere)
    shape = _image_shape(config, images, sharding.batch_sharding(mesh))
    return step.trace(variables, shape), variables


def _image_shape(config: ConfigDict, images: int, split) -> jax.ShapeDtypeStruct:
    shape = (images, *config.image_size, config.data.channels)
    return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split)


def _with_sharding(tree, placed):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
        tree,
    )
