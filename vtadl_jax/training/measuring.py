"""Measures what a run will take: a few real steps, a few batches of the fit. Writes nothing.

The programs are those of training, compiled for the run's shapes and shardings, and the images are
training images, read as in training.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import psutil

from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.detectors.contract import Variables
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.distributed import barrier
from vtadl_jax.training.fitting import gather_batch, jit_gather
from vtadl_jax.training.setup import TrainSetup
from vtadl_jax.training.state import TrainState

resource: Any = None
with contextlib.suppress(ImportError):  # Windows has none
    import resource

SECONDS = 1.0  # of measuring, and of emptying the buffer of batches that were read ahead
LEAST = 2  # measured repetitions, after one that warms up


@dataclasses.dataclass(frozen=True)
class Cost:
    """Time of a repeated piece of work. seconds: mean of `count` repetitions after the warm-up.

    compiling: seconds of compiling. memory: bytes per device by kind, {} if the backend does not
    tell.
    """

    seconds: float
    count: int
    compiling: float
    memory: dict[str, int] = dataclasses.field(default_factory=dict)


def measure_steps(setup: TrainSetup, state: TrainState) -> tuple[Cost, TrainState]:
    """Compiles the train step and runs it for about a second; returns its cost and the last state.

    Reading of images is included: batches that were read ahead are dropped first. state: in this
    process's memory. Raises UserError if the step does not fit into memory.
    """
    shapes = setup.assembly.state_shapes(setup.mesh)
    step = setup.assembly.make_step(setup.mesh, shapes)
    with refusing_too_large():
        start = time.perf_counter()
        compiled = step.lower(shapes, setup.feed.shapes).compile()
        compiling = time.perf_counter() - start
        barrier("compiled")
        state = sharding.put_state(setup.mesh, state, setup.assembly.shard_optimizer)
        state, metrics = compiled(state, next(setup.feed))
        jax.block_until_ready(metrics)
        _drop_read_ahead(setup)

        def once() -> None:
            nonlocal state
            state, metrics = compiled(state, next(setup.feed))
            jax.block_until_ready(metrics)

        seconds, count = mean_seconds(once)
    return Cost(seconds, count, compiling, memory_of(compiled)), state


def measure_fit(setup: TrainSetup, variables: Variables) -> Cost:
    """Compiles the pass over the training images and runs it on a few batches.

    variables: in this process's memory. Moments that the host accumulates are part of it; the
    solution, which follows the pass, is not.
    """
    detector, config = setup.assembly.detector, setup.config
    assert detector.fit is not None, "nothing to fit"
    batches = endless_batches(setup, fit_batch(setup))
    key, first = jax.random.key(config.seed), next(batches)
    has_regions = setup.geometry.regions is not None
    given = ((first["inside"],) if has_regions else ()) + (variables, first["image"], key)
    with refusing_too_large():
        start = time.perf_counter()
        gather = jit_gather(detector.fit.gather, has_regions).lower(*given).compile()
        compiling = time.perf_counter() - start
        reduce = detector.fit.reduce or (lambda accumulated, rows: None)
        accumulated = None

        def once() -> None:
            nonlocal accumulated
            batch = next(batches)
            rows = jax.device_get(gather_batch(gather, batch, variables, batch["image"], key))
            accumulated = reduce(accumulated, rows)

        for _ in range(2):  # read ahead
            once()
        seconds, count = mean_seconds(once)
    return Cost(seconds, count, compiling, memory_of(gather))


def fit_batch(setup: TrainSetup) -> int:
    """Returns the number of images that the fit reads at once."""
    return min(setup.config.eval.batch_size, len(setup.fitted))


def endless_batches(setup: TrainSetup, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of the training images, again and again."""
    data = setup.config.data
    while True:
        yield from eval_batches(setup.fitted, setup.geometry, data.channels, size, data.num_threads)


def mean_seconds(work: Callable[[], Any]) -> tuple[float, int]:
    """Repeats work for about `SECONDS`, at least `LEAST` times; returns (mean seconds, count)."""
    start, count = time.perf_counter(), 0
    while count < LEAST or time.perf_counter() - start < SECONDS:
        work()
        count += 1
    return (time.perf_counter() - start) / count, count


def _drop_read_ahead(setup: TrainSetup) -> None:
    """Empties the buffer of batches, whose reading cost no time now, for at most `SECONDS`."""
    start = time.perf_counter()
    for _ in range(setup.config.data.prefetch):
        if time.perf_counter() - start > SECONDS:
            break
        next(setup.feed)


def memory_of(compiled: Any) -> dict[str, int]:
    """Returns bytes per device of a program: 'state' and batch, with results; 'temporary'."""
    found = compiled.memory_analysis()
    if found is None:
        return {}
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "state": found.argument_size_in_bytes + results,
        "temporary": found.temp_size_in_bytes,
    }


def peak_of_process() -> int:
    """Returns the largest memory of this process so far, in bytes; on Windows its memory now."""
    if resource is None:
        return psutil.Process().memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


@contextlib.contextmanager
def refusing_too_large() -> Iterator[None]:
    """Raises UserError for a program that does not fit into memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the program does not fit into the memory of the devices ({reason}): use a smaller "
            f"--config.batch_size, or --config.train.accumulate=2 or more"
        ) from error
