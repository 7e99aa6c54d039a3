"""Measures a trained run: parameters, memory of its scoring program, latency of one image.

Memory is what the compiler plans for the program that scores one image; nothing is timed for it.
Latency is the compiled scoring of one image, without reading and resizing it.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtadl_jax import options as options_lib
from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.reading import memory_of, read_step, work_of
from vtadl_jax.compiling.topology import find_target
from vtadl_jax.config import Config
from vtadl_jax.detectors.contract import Variables
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.trained_run import Run
from vtadl_jax.experiment import make_detector
from vtadl_jax.ops.platform import on_platform

DTYPES = ("float32", "bfloat16")
CALLS, SECONDS = 20, 10.0  # of timing: that many calls, or as many as this time allows
LEAST_CALLS = 3

Found = dict[str, Any]


def parameters(variables: Mapping[str, Any]) -> dict[str, int]:
    """Counts the values of a run: trained, frozen, and statistics that a pass or steps wrote."""
    parts = {"trained": "params", "frozen": "frozen", "statistics": "stats"}
    return {name: _values(variables.get(part)) for name, part in parts.items()}


def num_bytes(variables: Mapping[str, Any]) -> int:
    """Returns the bytes of all variables of a run."""
    return sum(int(x.size) * x.dtype.itemsize for x in jax.tree.leaves(dict(variables)))


def _values(tree: Any) -> int:
    return sum(int(x.size) for x in jax.tree.leaves(tree))


def compile_scoring(
    config: Config, variables: Variables, device: jax.Device, dtype: str
) -> tuple[Any, Variables, jax.Array]:
    """Returns the program that scores one image on a device, and its arguments there."""
    detector = make_detector(options_lib.replace(config, {"dtype": dtype}))
    shape = (1, *config.image_size, config.data.channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    placed = jax.device_put(variables, device), jax.device_put(image, device)
    score = jax.jit(on_platform(device.platform, detector.score))
    return score.lower(*placed).compile(), *placed


def scoring_memory(compiled: Any, variables: Variables) -> Found:
    """Returns bytes of a program that scores one image.

    forward: its temporaries, which are its activations. model: all variables. whole: variables,
    image, results, temporaries and code.
    """
    memory = memory_of(compiled)
    return {
        "forward": memory.get("temporary"),
        "model": num_bytes(variables),
        "whole": memory.get("needed"),
        "flops": work_of(compiled)["flops"],
    }


def time_scoring(call: Any) -> Found:
    """Returns the median seconds of a call, after one that warms up."""
    jax.block_until_ready(call())
    start, times = time.perf_counter(), list[float]()
    while len(times) < CALLS:
        before = time.perf_counter()
        if len(times) >= LEAST_CALLS and before - start > SECONDS:
            break
        jax.block_until_ready(call())
        times.append(time.perf_counter() - before)
    return {"seconds": statistics.median(times), "calls": len(times), "load": load()}


def load() -> float | None:
    """Returns the mean number of processes that waited for a core in the last minute."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has none
        return round(os.getloadavg()[0], 1)
    return None


def devices() -> dict[str, jax.Device]:
    """Returns the CPU, and the accelerator that this process uses, if there is one."""
    found = {"cpu": jax.devices("cpu")[0]}
    default = jax.devices()[0]
    return found | ({} if default.platform == "cpu" else {default.platform: default})


def measure_scoring(run: Run) -> tuple[Found, dict[str, Found]]:
    """Returns memory, and latencies by 'cpu float32' and so on; a reason where it can't be had."""
    memory: Found = {}
    latency: dict[str, Found] = {}
    for place, device in devices().items():
        for dtype in DTYPES:
            try:
                score, variables, image = compile_scoring(run.config, run.variables, device, dtype)
                found = time_scoring(lambda f=score, v=variables, x=image: f(v, x))
            except (UserError, jax.errors.JaxRuntimeError, TypeError, ValueError) as error:
                latency[f"{place} {dtype}"] = {"seconds": None, "reason": one_line(error)}
                continue
            kind = {"device": device.device_kind, "cores": os.cpu_count()}
            latency[f"{place} {dtype}"] = found | kind
            if dtype == DTYPES[0]:
                memory[place] = scoring_memory(score, variables)
    return memory, latency


def estimate_latency(config: Config, name: str, topology: str, cache: Path) -> dict[str, Found]:
    """Returns the compiler's estimates for one image on a chip of a topology, as 'v5e:1x1'."""
    found: dict[str, Found] = {}
    for dtype in DTYPES:
        key = f"{topology.partition(':')[0]} {dtype}"
        try:
            one = options_lib.replace(config, {"dtype": dtype})
            reading = read_step(one, name, find_target(topology), "predict", 1, cache)
            if not reading["fits"]:
                raise UserError("the program does not fit into the memory of a chip")
            seconds = figures_lib.figures(reading).call
            if seconds is None:
                raise UserError("the compiler gives no estimate")
            found[key] = {"seconds": seconds, "cycles": reading["cycles"]["total"]}
        except (UserError, jax.errors.JaxRuntimeError, TypeError, ValueError) as error:
            found[key] = {"seconds": None, "reason": one_line(error)}
    return found


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 300 else f"{text[:299]}…"
