"""Fits a detector in one pass over the training images, before the first step."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.turned import Copy
from vtadl_jax.detectors.contract import Detector, Fit, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.ops.inspected import inspecting
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.runtime.console import format_duration, say, track
from vtadl_jax.runtime.text_table import plural


def check_steps(detector: Detector, num_steps: int) -> None:
    """Raises UserError for a run that neither fits nor trains, and for steps without a loss."""
    if num_steps == 0 and (detector.fit is None or detector.steps_required):
        raise UserError(
            "num_train_steps 0 and num_epochs 0: this detector is trained, not fitted: set one"
        )
    if num_steps > 0 and detector.loss is None:
        raise UserError(
            f"{num_steps} training steps: this detector is fitted, not trained: use "
            f"--config.num_train_steps=0 --config.num_epochs=0"
        )


def fit_variables(
    detector: Detector,
    variables: Variables,
    records: Sequence[Record],
    geometry: Geometry,
    config: Config,
) -> Variables:
    """Returns the detector's variables fitted to all records.

    variables: in this process's memory. Every process reads all images and gets the same result.
    """
    assert detector.fit is not None, "nothing to fit"
    start = time.perf_counter()
    rows = gather_rows(detector.fit, variables, records, geometry, config, "fit")
    fitted = solve(detector.fit, variables, rows, config)
    took = format_duration(time.perf_counter() - start)
    copies = sum(isinstance(record.image, Copy) for record in records)
    more = f" and {plural(copies, 'turned copy', 'turned copies')}" if copies else ""
    say(f"fitted to {plural(len(records) - copies, 'image')}{more} in {took}")
    return fitted


def solve(fit: Fit, variables: Variables, batches: Iterable[Any], config: Config) -> Variables:
    """Returns variables fitted to rows. batches: trees of numpy arrays, in order. At least one."""
    return fit.solve(variables, collect(fit, batches), np.random.default_rng(config.seed))


def gather_rows(
    fit: Fit,
    variables: Variables,
    records: Sequence[Record],
    geometry: Geometry,
    config: Config,
    what: str = "",
    size: int = 0,
) -> Iterator[Any]:
    """Yields what `Fit.gather` returns for each batch of records, in numpy, without padding.

    what: for the progress; '' shows none. size: of the batches; 0: up to `eval.batch_size`.
    """
    data, size = config.data, size or min(config.eval.batch_size, len(records))
    gather = jit_gather(fit.gather, geometry.regions is not None)
    batches = eval_batches(records, geometry, data.channels, size, data.num_threads)
    shown = track(batches, -(-len(records) // size), what) if what else batches
    for number, batch in enumerate(shown):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        found = jax.device_get(gather_batch(gather, batch, variables, batch["image"], key))
        yield jax.tree.map(lambda x, valid=batch["valid"]: x[valid], found)


@functools.lru_cache(maxsize=4)
def jit_gather(gather: Callable[..., Any], has_regions: bool = False) -> Any:
    """Returns the `gather` of a fit or of tails, jitted for this process's devices.

    The same one for the same function: each calibration of a run gathers, and compiles once.
    has_regions: it takes where images are inspected, bool [B, H, W], before its arguments.
    """
    return jax.jit(
        on_platform(jax.default_backend(), inspecting(gather) if has_regions else gather)
    )


def gather_batch(gather: Any, batch: Mapping[str, np.ndarray], *args: Any) -> Any:
    """Returns what a function of `jit_gather` finds for a batch of `eval_batches`."""
    return gather(batch["inside"], *args) if "inside" in batch else gather(*args)


def collect(fit: Fit, batches: Iterable[Any]) -> Any:
    """Returns what `Fit.solve` takes: all rows, or what `Fit.reduce` makes of them.

    batches: trees of numpy arrays, the rows of each batch, in order. At least one.
    """
    return fit.gathered(functools.reduce(fit.add, batches, None))
