"""The train step: one pure function for training, compile studies and tests.

Imports no data pipeline and no checkpoints, and reads no files.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vtadl_jax.detectors.contract import Batch, Detector
from vtadl_jax.networks.parallel import Parallel
from vtadl_jax.ops.augment import NO_AUGMENTATION, Augmentation, augment
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.ops.random_windows import random_windows
from vtadl_jax.runtime import sharding
from vtadl_jax.training.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    detector: Detector,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    augmentation: Augmentation = NO_AUGMENTATION,
    window: tuple[int, int] | None = None,
    mesh: Mesh | None = None,
    axis: Any = None,
    shard_optimizer: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state after one update, and scalars: loss, each of its terms, grad_norm. Pure.

    batch: as `Batch`, or {'index': int32 [B], 'resident': a tree of [N, ...]} with the rows of a
    resident data set that is sharded over `mesh`. window: the (H, W) of a random window to take of
    each image, which is larger and has an 'extent' int32 [B, 2]; None takes images whole. With
    `axis`, the batch is one device's share,
    mapped over the mesh axes of that name; without, it is the global batch.
    """
    detector_loss = detector.loss
    assert detector_loss is not None, "a detector without loss has no steps"
    batch = _take(batch, mesh, axis)
    keys = _image_keys(state, len(batch["image"]), axis)
    if window is not None:
        keys, window_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        batch = random_windows(window_keys, batch, window)
    if augmentation.active:
        keys, augment_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        batch = _augmented(augment_keys, batch, augmentation)
    parallel = Parallel(axis, sharding.gather_weights(mesh), *sharding.column_layouts(mesh))
    variables = {"stats": state.stats, "frozen": state.frozen}

    def loss_of(params):
        return detector_loss({"params": params, **variables}, batch, keys, parallel)

    (loss, (terms, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    if axis is not None:
        # In one call: the compiler then combines the all-reduces into few.
        loss, terms, stats, grads = jax.lax.pmean((loss, terms, stats, grads), axis)
    with jax.named_scope("optimizer"):
        share = sharding.reshard_updates(mesh if shard_optimizer else None)
        params, grads = share((state.params, grads))
        updates, opt_state = tx.update(grads, state.opt_state, params)
        params = share(optax.apply_updates(params, updates))
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(params, ema_params, 1 - ema_decay)
    next_state = state.replace(
        step=state.step + 1,
        params=params,
        stats=stats,
        opt_state=opt_state,
        ema_params=ema_params,
    )
    return next_state, {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}


def _take(batch: Any, mesh: Mesh | None, axis: Any) -> Batch:
    """Returns the batch itself, or its rows of a resident data set."""
    if "index" not in batch:
        return batch
    if axis is not None:
        take = functools.partial(sharding.take_local_rows, index=batch["index"], axis=axis)
    else:
        assert mesh is not None, "a resident data set is spread over a mesh"
        take = functools.partial(sharding.take_rows, mesh, index=batch["index"])
    return jax.tree.map(lambda rows: take(rows=rows), batch["resident"])


def _augmented(keys, batch: Batch, augmentation: Augmentation) -> Batch:
    """Returns the batch with images and masks (if any) under the same augmentation."""
    if "mask" not in batch:
        return {**batch, "image": augment(keys, batch["image"], augmentation)}
    image, mask = augment(keys, batch["image"], augmentation, batch["mask"])
    return {**batch, "image": image, "mask": mask}


def _image_keys(state: TrainState, count: int, axis: Any) -> jax.Array:
    """Returns one key per image, folded with its index in the global batch, so that randomness does
    not depend on the number of devices."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    first = 0 if axis is None else jax.lax.axis_index(axis) * count
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(count))


def make_train_step(
    detector: Detector,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    *,
    ema_decay: float = 0.0,
    augmentation: Augmentation = NO_AUGMENTATION,
    window: tuple[int, int] | None = None,
    parallel: str = "jit",
    shard_optimizer: bool = False,
) -> Callable:
    """Returns `train_step` jitted as a function of (state, batch), with donated state.

    state: arrays or shapes. parallel: 'jit' lets the compiler partition one program for the global
    batch; 'pmap' maps one device's program over all devices. The results are the same.
    """
    step = functools.partial(
        on_platform(sharding.platform_of(mesh), train_step),
        detector=detector,
        tx=tx,
        ema_decay=ema_decay,
        augmentation=augmentation,
        window=window,
    )
    if parallel == "pmap":
        return sharding.map_devices(mesh, step)
    out = sharding.state_sharding(mesh, state, shard_optimizer), sharding.replicated(mesh)
    step = functools.partial(step, mesh=mesh, shard_optimizer=shard_optimizer)
    return jax.jit(step, donate_argnums=0, out_shardings=out)
