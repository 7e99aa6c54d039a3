"""The loop around the compiled step: it logs, saves, evaluates and stops."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vtadl_jax.errors import Preempted, TrainingDiverged
from vtadl_jax.runtime.console import MetricWriter, NoWriter, TrainProgress, format_duration, say
from vtadl_jax.runtime.distributed import anywhere
from vtadl_jax.runtime.preemption import StopRequest
from vtadl_jax.runtime.profiling import Profiler
from vtadl_jax.training.checkpoint import Checkpoints
from vtadl_jax.training.feed import TrainFeed
from vtadl_jax.training.state import TrainState


def diverged(step: int, what: str, checkpoints: Checkpoints) -> TrainingDiverged:
    """Returns the error of a run that diverged, with step and last good checkpoint."""
    checkpoints.wait()  # a checkpoint may still be in writing
    latest = checkpoints.latest_step
    good = (
        f"the last good checkpoint is step {latest} in {checkpoints.directory}"
        if latest is not None
        else "no checkpoint had been written"
    )
    return TrainingDiverged(
        f"step {step}: {what}: {good}: use a smaller optimizer.learning_rate or set "
        f"optimizer.clip_norm, with another --workdir"
    )


def check_params(step: int, state: TrainState, checkpoints: Checkpoints) -> None:
    """Raises TrainingDiverged if a parameter is not finite: the last update may have spoilt it.

    Looks at each process's part; every process must call it.
    """
    spoilt = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(
            {"params": state.params, "ema_params": state.ema_params}
        )
        if not all(np.isfinite(np.asarray(s.data)).all() for s in leaf.addressable_shards)
    ]
    if anywhere(bool(spoilt)):
        what = spoilt[0] if spoilt else "a parameter"
        raise diverged(step, f"{what} is not finite", checkpoints)


def check_finite(step: int, scalars: dict[str, float], checkpoints: Checkpoints) -> None:
    """Raises TrainingDiverged with step, term and last good checkpoint at the first NaN or inf."""
    # Terms before their sum: the message names the term, not the loss that it makes NaN.
    for name in sorted(scalars, key=lambda n: (n == "loss", n == "grad_norm")):
        if not math.isfinite(scalars[name]):
            raise diverged(step, f"{name} is {scalars[name]}", checkpoints)


class _Pending:
    """Queue of metrics that are still on the device, oldest first."""

    def __init__(self, checkpoints: Checkpoints):
        self._entries: list[tuple[int, dict[str, jax.Array]]] = []
        self._checkpoints = checkpoints

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self._entries.append((step, metrics))

    def collect(self, *, leave: int) -> tuple[int, dict[str, float]] | None:
        """Returns (last step, means) of all but the newest `leave` entries; checks each for NaN."""
        ready = self._entries[: len(self._entries) - leave]
        self._entries = self._entries[len(ready) :]
        if not ready:
            return None
        values = [jax.tree.map(float, jax.device_get(metrics)) for _, metrics in ready]
        for (step, _), scalars in zip(ready, values, strict=True):
            check_finite(step, scalars, self._checkpoints)
        return ready[-1][0], {k: sum(v[k] for v in values) / len(values) for k in values[0]}


def train_loop(
    state: TrainState,
    step_fn: Callable,
    feed: TrainFeed,
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
    """Trains from `state.step` to `num_steps` and saves, also at the end and after SIGTERM.

    Dispatches ahead of the device: the next batch is decoded and transferred while the device runs
    a step. Only the log line waits, for the steps before the newest; saving and evaluating wait for
    all steps and check them for NaN, so that no diverged state is saved. Waits once for the first
    step, to measure the time to it. Raises TrainingDiverged, or Preempted after a save.
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
            raise Preempted(f"preempted, saved step {step} in {checkpoints.directory}")
    checkpoints.wait()
    progress.close()
    say(f"trained to step {step} in {format_duration(time.perf_counter() - start)}")
    return state
