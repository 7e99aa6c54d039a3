"""The very functions that training, evaluation and prediction compile, from shapes alone."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import sharding, train
from vtadl_jax.compiling.forms import chosen as chosen_forms
from vtadl_jax.compiling.parts import PARTS, trace_part
from vtadl_jax.compiling.topology import LOCAL, Target
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.ops.augment import Augmentation
from vtadl_jax.optimizer import make_optimizer

STEPS = ("train", "eval", "predict", *PARTS)


@dataclasses.dataclass(frozen=True)
class Program:
    """A step lowered for a mesh. images: of one call, over all its devices; seconds: what tracing
    and lowering took; parameter_bytes: of all parameters, wherever they lie."""

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


def lower_step(
    config: ConfigDict,
    target: Target,
    step: str,
    images_per_device: int,
    forms: Mapping[str, str] | None = None,
) -> Program:
    """Trace and lower a step for a target's devices.

    images_per_device: 0 takes the config's batch sizes: here over all devices, as training does;
    on a topology for each of them. 'predict' is one image on one device. forms: see `forms.py`.

    Raises UserError for an unknown step, and what the config's own checks raise.
    """
    if step not in STEPS:
        raise UserError(f"step {step!r}: use {', '.join(STEPS)}")
    mesh = make_mesh(config, target, step)
    images = batch_of(config, target, step, mesh, images_per_device)
    start = time.perf_counter()
    with chosen_forms(forms or {}):
        if step in PARTS:
            traced, variables = trace_part(config, mesh, step, images)
        else:
            make = _train if step == "train" else _score
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
    mesh = sharding.make_mesh(**config.mesh, devices=target.devices)
    sharding.check_parallel(config.train.parallel, mesh)
    return mesh


def batch_of(config: ConfigDict, target: Target, step: str, mesh: Mesh, per_device: int) -> int:
    if step == "predict":
        return per_device or 1
    name, size, parts = "batch_size", config.batch_size, config.train.accumulate
    if step == "eval":
        name, size, parts = "eval.batch_size", config.eval.batch_size, 1
    if per_device or target.name != LOCAL:
        size = (per_device or size) * mesh.size
    sharding.check_batch(name, size, mesh, parts)
    return size


def _train(config: ConfigDict, mesh: Mesh, images: int):
    detector, tx = make_detector(config), make_optimizer(config.optimizer, num_steps=1000)
    ema_decay = config.optimizer.ema_decay
    make_state = functools.partial(train.create_state, detector, tx, config.seed, ema_decay)
    share_update = sharding.shares_update(config.train)
    state = sharding.state_shapes(mesh, jax.eval_shape(make_state), share_update)
    step: Any = train.make_train_step(
        detector,
        tx,
        mesh,
        state,
        ema_decay=ema_decay,
        augmentation=Augmentation(**config.data.augment),
        parallel=config.train.parallel,
        share_update=share_update,
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
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), variables
    )
    step = jax.jit(detector.score, out_shardings=everywhere)
    shape = _image_shape(config, images, sharding.batch_sharding(mesh))
    return step.trace(variables, shape), variables


def _image_shape(config: ConfigDict, images: int, split) -> jax.ShapeDtypeStruct:
    shape = (images, *config.image_size, config.data.channels)
    return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split)
