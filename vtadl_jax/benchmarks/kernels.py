"""Measures our array functions and steps against their peers, alternating in one process.

    python -m vtadl_jax.benchmarks.kernels [--only mixture,ssim] [--json OUT] [--repeats N]

Each table shows the workload, the differences of the results and the times: ratios are peer seconds
/ our seconds, from medians. torch runs on every core, in the faster of its two memory layouts. All
sides reuse freed memory, as our training does (`allocator.py`): on a virtual machine the cost of
page faults varies more than the ratios. Steps are those of configs/mvtec.py.
Needs the extra `bench`.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.benchmarks.arguments import measure_chosen
from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, compare
from vtadl_jax.benchmarks.workloads import load_packaged
from vtadl_jax.runtime.allocator import reuse_host_buffers

MEASURES = (
    "gemm", "mixture", "transposed_conv", "ssim", "routing", "search", "gaussian", "step", "image",
)  # fmt: skip
GEMM_SIDE = 2048


def main(argv: list[str] | None = None) -> int:
    """Runs the chosen measures, prints the tables and writes JSON; returns the exit code."""
    return measure_chosen(
        "vtadl_jax.benchmarks.kernels",
        MEASURES,
        ("--no-compile", "leave torch.compile out"),
        lambda chosen, args: run(chosen, args.repeats, compiled=not args.no_compile, show=print),
        argv,
    )


def run(
    chosen: list[str], repeats: int, compiled: bool = True, show: Callable[[str], None] = print
) -> dict[str, Any]:
    """Runs the chosen measures and prints each table as soon as it is complete.

    Returns {environment, repeats, groups: as `timing.compare`}. Raises UserError if torch is
    missing.
    """
    kept = reuse_host_buffers()
    require_torch()
    from vtadl_jax.benchmarks.measures import (
        convolution,
        frozen_features,
        mixture,
        network,
        routing,
    )

    measures: dict[str, list[Callable[[], list[Group]]]] = {
        "gemm": [lambda: gemm(repeats, GEMM_SIDE)],
        "mixture": [lambda: mixture.conditional(repeats), lambda: mixture.shared(repeats)],
        "transposed_conv": [lambda: convolution.transposed_convs(repeats)],
        "ssim": [lambda: convolution.ssim(repeats)],
        "routing": [lambda: routing.routing(repeats)],
        "search": [lambda: frozen_features.search(repeats)],
        "gaussian": [lambda: frozen_features.gaussian(repeats)],
        "step": [lambda: network.training_step(repeats, load_packaged("mvtec"), compiled)],
        "image": [lambda: network.one_image(repeats, load_packaged("mvtec"), compiled)],
    }
    surroundings = environment() | {"freed_memory_kept": kept}
    show(describe(surroundings))
    groups = []
    for name in MEASURES:
        for measure in measures[name] if name in chosen else ():
            for group in measure():
                groups.append(group | {"measure": name})
                show("\n" + table(group))
    return {"environment": surroundings, "repeats": repeats, "groups": groups}


def gemm(repeats: int, side: int) -> list[Group]:
    """Measures a float32 matrix product, as a reference for the other rates."""
    title = f"matrix product {side}³, float32"
    progress(title)
    torch = require_torch()
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), jnp.float32)
    product = jax.jit(jnp.matmul)
    ta, tb = torch.tensor(jax.device_get(a)), torch.tensor(jax.device_get(b))
    candidates = [
        Candidate("jax matmul", lambda: product(a, b), lambda c: [c]),
        Candidate("torch matmul", lambda: ta @ tb, lambda c: [c]),
    ]
    return [compare(title, candidates, repeats, 2 * side**3)]


def environment() -> dict[str, Any]:
    """Returns what the results depend on besides the code: machine and versions."""
    torch = require_torch()
    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "torch", "distrax", "tfp-nightly", "tensorflow-probability"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    variables = ("XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GLIBC_TUNABLES")
    return {
        "versions": versions,
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "variables": {name: os.environ[name] for name in variables if name in os.environ},
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def describe(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    text = f"{environment['cores']} cores, {environment['processor']}; {versions}"
    if (load := environment["load_average"]) > 0.5:
        text += (
            f"\nThe machine is not idle (load {load:.1f}): threads of torch that wait for each "
            "other suffer most from that, so the ratios flatter us"
        )
    return text


def table(group: Group) -> str:
    """Returns a group as text: one line per candidate, ours first."""
    work = f"; {group['gflop']:.3g} GFLOP" if group["gflop"] else ""
    lines = [group["title"] + work]
    lines.append(f"  {'':50}{'ms':>10}{'least':>10}{'ratio':>8}{'GFLOP/s':>9}{'difference':>12}")
    for row in group["rows"]:
        cells = "".join(
            format(row[key] * factor, spec) if row.get(key) is not None else " " * width
            for key, factor, spec, width in (
                ("seconds", 1e3, "10.3f", 10),
                ("least_seconds", 1e3, "10.3f", 10),
                ("ratio", 1, "8.2f", 8),
                ("gflops", 1, "9.1f", 9),
                ("difference", 1, "12.1e", 12),
            )
        )
        lines.append(f"  {row['name']:50}{cells}  {row['note']}".rstrip())
    if checked := group.get("differences"):
        values = ", ".join(f"{name} {value:.0e}" for name, value in checked.items())
        lines.append(f"  same parameters and batch, noise off, relative difference: {values}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
