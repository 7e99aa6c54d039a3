"""The train state, the one compiled step and the loop around it."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vtadl_jax import sharding
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.errors import Preempted, TrainingDiverged
from vtadl_jax.feed import Feed
from vtadl_jax.models.detector import Batch, Detector, Layout
from vtadl_jax.ops.augment import NO_AUGMENTATION, Augmentation, augment
from vtadl_jax.preemption import StopRequest
from vtadl_jax.profiling import Profiler
from vtadl_jax.writers import MetricWriter, NoWriter, TrainProgress, format_duration, say


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step reads and writes.

    step: int32 []; key: raw uint32 key data, folded with the step for each step's noise;
    ema_params: None unless an average is kept.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    key: jax.Array

    @property
    def variables(self) -> dict:
        """What to evaluate: the averaged parameters where there are any."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}


def create_state(
    detector: Detector, tx: optax.GradientTransformation, seed: int, ema_decay: float = 0.0
) -> TrainState:
    init_key, step_key = jax.random.split(jax.random.key(seed))
    variables = detector.init(init_key)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema_decay > 0 else None,
        key=jax.random.key_data(step_key),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    detector: Detector,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    augmentation: Augmentation = NO_AUGMENTATION,
    mesh: Mesh | None = None,
    axis: Any = None,
    share_update: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; pure. batch: {'image': uint8 [B, H, W, C]}, or {'index': int32 [B], 'images':
    uint8 [N, H, W, C]} with the rows of a resident data set that lies over `mesh`.

    With `axis`, the batch is one device's share, mapped over the axes of that name; without, it is
    all of it. Returns the next state and scalars: loss, each of its terms, grad_norm.
    """
    images = _images(batch, mesh, axis)
    keys = _image_keys(state, len(images), axis)
    if augmentation.active:
        keys, augment_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        images = augment(augment_keys, images, augmentation)
    layout = Layout(axis, sharding.gather_weights(mesh), *sharding.column_layouts(mesh))
    loss_and_grads = jax.value_and_grad(detector.loss, has_aux=True)
    (loss, (terms, batch_stats)), grads = loss_and_grads(
        state.params, state.batch_stats, images, keys, layout
    )
    if axis is not None:
        # All at once: the compiler makes few exchanges of what is asked for together.
        loss, terms, batch_stats, grads = jax.lax.pmean((loss, terms, batch_stats, grads), axis)
    with jax.named_scope("optimizer"):
        share = sharding.share_updates(mesh if share_update else None)
        params, grads = share((state.params, grads))
        updates, opt_state = tx.update(grads, state.opt_state, params)
        params = share(optax.apply_updates(params, updates))
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(params, ema_params, 1 - ema_decay)
    next_state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=ema_params,
    )
    return next_state, {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}


def _images(batch: Batch, mesh: Mesh | None, axis: Any) -> jax.Array:
    if "image" in batch:
        return batch["image"]
    if axis is not None:
        return sharding.take_local_rows(batch["images"], batch["index"], axis)
    assert mesh is not None, "a resident data set lies over a mesh"
    return sharding.take_rows(mesh, batch["images"], batch["index"])


def _image_keys(state: TrainState, count: int, axis: Any) -> jax.Array:
    """A key for each image, by its place in the whole batch, so that randomness is the same on one
    device and on many."""
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
    parallel: str = "jit",
    share_update: bool = False,
) -> Callable:
    """`train_step` as a function of (state, batch), its state donated, to call or to lower.

    state: arrays or shapes. parallel: 'jit' leaves it to the compiler to split one program for the
    whole batch; 'pmap' maps the program of one device over all of them. The numbers are the same.
    """
    step = functools.partial(
        train_step, detector=detector, tx=tx, ema_decay=ema_decay, augmentation=augmentation
    )
    if parallel == "pmap":
        return sharding.map_devices(mesh, step)
    out = sharding.state_sharding(mesh, state, share_update), sharding.replicated(mesh)
    step = functools.partial(step, mesh=mesh, share_update=share_update)
    return jax.jit(step, donate_argnums=0, out_shardings=out)


def compile_train_step(step, state: TrainState, batch: Batch):
    """Compile a step of `make_train_step` for arrays, or for their shapes and shardings."""
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    took = time.perf_counter() - start
    say(f"compiled the train step in {took:.1f}s; {_memory_line(compiled)}")
    return compiled


def _memory_line(compiled) -> str:
    memory = compiled.memory_analysis()
    if memory is None:
        return "memory unknown"
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return (
        f"a device holds {arguments / 2**20:.0f} MiB of state and batch and needs "
        f"{temporary / 2**20:.0f} MiB more while it runs"
    )


def check_finite(step: int, scalars: dict[str, float], checkpoints: Checkpoints) -> None:
    """Raise TrainingDiverged naming step, term and last good checkpoint at the first NaN or inf."""
    # The terms come before their sum: name the one that broke, not the loss it spoils.
    for name in sorted(scalars, key=lambda n: (n == "loss", n == "grad_norm")):
        if not math.isfinite(scalars[name]):
            checkpoints.wait()  # for one that is being written
            latest = checkpoints.latest_step
            good = (
                f"the last good checkpoint is step {latest} in {checkpoints.directory}"
                if latest is not None
                else "no checkpoint had been written"
            )
            raise TrainingDiverged(
                f"step {step}: {name} is {scalars[name]}: {good}: use a smaller "
                f"optimizer.learning_rate or set optimizer.clip_norm, with another --workdir"
            )


class _Pending:
    """Metrics still on the device, oldest first."""

    def __init__(self, checkpoints: Checkpoints):
        self._entries: list[tuple[int, dict[str, jax.Array]]] = []
        self._checkpoints = checkpoints

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self._entries.append((step, metrics))

    def collect(self, *, leave: int) -> tuple[int, dict[str, float]] | None:
        """(last step, means) of all but the newest `leave` entries; checks each for NaN."""
        ready = self._entries[: len(self._entries) - leave]
        self._entries = self._entries[len(ready) :]
        if not ready:
            return None
        values = [jax.tree.map(float, jax.device_get(metrics)) for _, metrics in ready]
        for (step, _), scalars in zip(ready, values, strict=True):
            check_finite(step, scalars, self._checkpoints)
        return ready[-1][0], {k: sum(v[k] for v in values) / len(values) for k in values[0]}


def fit(
    state: TrainState,
    step_fn: Callable,
    feed: Feed,
    *,
    num_steps: int,
    batch_size: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    writer: MetricWriter | NoWriter,
    checkpoints: Checkpoints,
    save: Callable[[TrainState, int], None],
    on_eval: Callable[[TrainState, int], Any],
    stop: StopRequest,
    profiler: Profiler | None = None,
    on_first_step: Callable[[], None] = lambda: None,
) -> TrainState:
    """Train from `state.step` to `num_steps`; saves at the end too, and when told to stop.

    The loop runs ahead of the device, so that the next batch is decoded and on its way while the
    device works on one. Only a report waits, and it reads the steps before the
    newest; saving and evaluating read all, so that a checkpoint is never of a broken state. The
    first step is waited for, once, to tell when it was done.
    Raises TrainingDiverged, or Preempted after a save.
    """
    step = int(state.step)
    pending = _Pending(checkpoints)
    progress = TrainProgress(step, num_steps, batch_size)
    start = time.perf_counter()

    def report(leave: int) -> None:
        if (collected := pending.collect(leave=leave)) is not None:
            done, means = collected
            scalars = {"loss": means.pop("loss"), **means}
            scalars["images_per_second"] = progress.report(done, scalars)
            writer.write(done, scalars, "train")

    first = step
    while step < num_steps:
        with profiler.step(step) if profiler else contextlib.nullcontext():
            state, metrics = step_fn(state, next(feed))
        if profiler:
            profiler.after(metrics)
        if step == first:
            jax.block_until_ready(metrics)
            on_first_step()
        step += 1
        pending.add(step, metrics)
        last = step == num_steps
        stop_now = stop.at_step(step)
        save_now = last or stop_now or (checkpoint_every > 0 and step % checkpoint_every == 0)
        eval_now = not (last or stop_now) and eval_every > 0 and step % eval_every == 0
        if save_now or eval_now:
            report(leave=0)
        elif step % log_every == 0:
            report(leave=1)
        if eval_now:
            try:
                with stop.at_once():
                    on_eval(state, step)
            except Preempted:
                stop_now = save_now = True
        if save_now:
            save(state, step)
        if eval_now or save_now:
            progress.skip()
        if stop_now and not last:
            checkpoints.wait()
            progress.close()
            raise Preempted(f"told to stop, saved step {step} in {checkpoints.directory}")
    checkpoints.wait()
    progress.close()
    say(f"trained to step {step} in {format_duration(time.perf_counter() - start)}")
    return state
