"""Compares the authors' network in PyTorch with ours: the same parameters and images, in one run.

    python -m vtadl_jax.benchmarks.peer [--batch 8] [--repeats 5] [--json OUT] [--no-compile]

Prints the differences of outputs, loss terms and gradients, the times of a training step and of one
image's score, alternating in one process, and each side's peak memory in a process of its own.
configs/mvtec.py, the paper's network, is timed with them. Ratios are the row's seconds / ours, from
medians. torch runs on every core, in the faster of its two memory layouts. Needs the extra `bench`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from vtadl_jax.benchmarks.kernels import describe, environment, table
from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.benchmarks.workloads import load_packaged
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.allocator import reuse_host_buffers

WORKERS = ("ours", "paper", "torch")


def main(argv: list[str] | None = None) -> int:
    """Measures, prints tables and writes JSON; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vtadl_jax.benchmarks.peer")
    parser.add_argument("--batch", type=int, default=8, help="images a step (default: 8)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--json", default="", metavar="OUT", help="write the results here")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("batch", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    try:
        check_json(args.json)
        reuse_host_buffers()
        if args.worker:
            from vtadl_jax.benchmarks.measures.official import work_alone

            print(json.dumps(work_alone(args.worker, args.batch, configs())))
            return 0
        results = run(args.batch, args.repeats, compiled=not args.no_compile, show=print)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(results, args.json)
    return 0


def configs() -> dict[str, Config]:
    """Returns the configs of our networks."""
    return {"ours": load_packaged("official"), "paper": load_packaged("mvtec")}


def run(
    batch: int, repeats: int, compiled: bool = True, show: Callable[[str], None] = print
) -> dict[str, Any]:
    """Runs all measures and prints each table as soon as it is complete.

    Returns {environment, repeats, groups: as `timing.compare`; the last one's rows have peak_mib
    and imports_mib}. Raises UserError if torch is missing.
    """
    require_torch()
    from vtadl_jax.benchmarks.measures import official

    found = configs()
    surroundings = environment()
    show(describe(surroundings))
    memory = official.peak_memory(batch)  # before this process allocates memory itself
    pair = official.Pair(found["ours"], batch)
    groups: list[Group] = []
    for measure in (official.training_step, official.one_image):
        for group in measure(repeats, pair, found["paper"], compiled):
            groups.append(group)
            show("\n" + table(group))
    show("\n" + memory_table(memory))
    progress("done")
    return {"environment": surroundings, "repeats": repeats, "groups": [*groups, memory]}


def memory_table(group: Group) -> str:
    """Returns one line per side."""
    lines = [group["title"], f"  {'':50}{'MiB':>10}{'of it imports':>15}"]
    for row in group["rows"]:
        lines.append(f"  {row['name']:50}{row['peak_mib']:10.0f}{row['imports_mib']:15.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
