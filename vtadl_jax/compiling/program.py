"""Lowers the functions that training, evaluation and prediction compile, from shapes alone."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from vtadl_jax.compiling.implementations import chosen as chosen_implementations
from vtadl_jax.compiling.topology import LOCAL, Target
from vtadl_jax.config import Config
from vtadl_jax.data.pipeline import example_shapes
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.runtime import sharding
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.feed import batch_shapes
from vtadl_jax.training.large_images import make_feed_geometry, needs_of
from vtadl_jax.training.stored import make_geometry

STEPS = ("train", "eval", "predict")


def step_names(config: Config) -> tuple[str, ...]:
    """Returns the steps of a config that can be compiled and the parts of its train step."""
    return (*STEPS, *make_detector(config).parts)


@dataclasses.dataclass(frozen=True)
class Program:
    """A step lowered for a mesh.

    images: per call, over all its devices; seconds: durations of tracing and lowering;
    parameter_bytes: of all parameters, over all devices.
    """

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
    config: Config,
    target: Target,
    step: str,
    images_per_device: int,
    implementations: Mapping[str, str] | None = None,
) -> Program:
    """Traces and lowers a step for a target's devices.

    images_per_device: 0 uses the config's batch sizes: for 'local' over all devices, as training
    does; on a topology for each device. 'predict' is one image on one device. implementations: see
    `implementations.py`.

    Raises UserError for an unknown step, and the errors of the config's own checks.
    """
    if step not in (known := step_names(config)):
        raise UserError(f"step {step!r}: use {', '.join(known)}")
    mesh = make_mesh(config, target, step)
    images = batch_of(config, target, step, mesh, images_per_device)
    start = time.perf_counter()
    with chosen_implementations(implementations or {}):
        if step == "train":
            traced, variables = _train(config, mesh, images)
        elif step in STEPS:
            traced, variables = _score(make_detector(config), config, mesh, images)
        else:
            traced, variables = trace_part(make_detector(config), mesh, step, images)
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


def make_mesh(config: Config, target: Target, step: str) -> Mesh:
    if step == "predict":
        return sharding.make_mesh(1, devices=target.devices[:1])
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, target.devices)
    sharding.check_parallel(config.train.parallel, mesh)
    return mesh


def batch_of(config: Config, target: Target, step: str, mesh: Mesh, per_device: int) -> int:
    if step == "predict":
        return per_device or 1
    name, size, parts = "batch_size", config.batch_size, config.train.accumulate
    if step == "eval":
        name, size, parts = "eval.batch_size", config.eval.batch_size, 1
    if per_device or target.name != LOCAL:
        size = (per_device or size) * mesh.size
    sharding.check_batch(name, size, mesh, parts)
    return size


def _train(config: Config, mesh: Mesh, images: int):
    assembly = assemble(config, num_steps=1000)
    if assembly.detector.loss is None:
        raise UserError(f"step 'train': detector {config.detector!r} is fitted and has no steps")
    state = assembly.state_shapes(mesh)
    step = assembly.make_step(mesh, state)
    needs = needs_of(config, assembly.detector)
    shapes = example_shapes(make_feed_geometry(config), config.data.channels, needs)
    return step.trace(state, batch_shapes(mesh, images, shapes)), state.variables


def _score(detector: Detector, config: Config, mesh: Mesh, images: int):
    everywhere = sharding.replicated(mesh)
    variables = _placed(jax.eval_shape(detector.init, jax.random.key(0)), everywhere)
    score = on_platform(sharding.platform_of(mesh), detector.score)
    step = jax.jit(score, out_shardings=everywhere)
    shapes = example_shapes(make_geometry(config), config.data.channels, ())
    return step.trace(variables, batch_shapes(mesh, images, shapes)["image"]), variables


def trace_part(
    detector: Detector, mesh: Mesh, part: str, images: int
) -> tuple[Any, dict[str, Any]]:
    """Returns (traced program, shapes of its variables) of a part of a train step.

    The part's outputs are summed; gradients are with respect to its parameters and inputs. A part
    compiles faster than the whole step, so implementations can be compared sooner.
    """
    value, variables, inputs = detector.parts[part](images)
    variables = _placed(variables, sharding.replicated(mesh))
    gradients = jax.value_and_grad(value, argnums=(0, 1))
    step = jax.jit(on_platform(sharding.platform_of(mesh), gradients))
    return step.trace(variables, *_placed(inputs, sharding.batch_sharding(mesh))), variables


def _placed(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
