"""Measures the authors' other networks, and those they compare with, beside the same in PyTorch.

    python -m vtadl_jax.benchmarks.networks [--only capsnet,segnet] [--repeats 5] [--json OUT]

A training step, one image scored and a batch scored, with the sizes of the network's config. Checks
that both sides compute the same numbers, then times them in turns: seconds are medians, a ratio is
torch's seconds / ours. torch runs on every core, in the faster of its two memory layouts.
Needs the extra `bench`.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from vtadl_jax.benchmarks.arguments import measure_chosen
from vtadl_jax.benchmarks.kernels import describe, environment, table
from vtadl_jax.benchmarks.measures import Group
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.runtime.allocator import reuse_host_buffers


def main(argv: list[str] | None = None) -> int:
    """Measures, prints tables and writes JSON; returns the exit code."""
    from vtadl_jax.benchmarks.measures.networks import WORKLOADS

    return measure_chosen(
        "vtadl_jax.benchmarks.networks",
        tuple(WORKLOADS),
        ("--compile", "also measure torch.compile"),
        lambda chosen, args: run(chosen, args.repeats, args.compile, show=print),
        argv,
    )


def run(
    chosen: Iterable[str],
    repeats: int,
    compiled: bool = False,
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs the chosen measures and prints each table as soon as it is complete, then all ratios.

    Returns {environment, repeats, groups: as `timing.compare`, with 'network'}. Raises UserError if
    torch is missing.
    """
    kept = reuse_host_buffers()
    require_torch()
    from vtadl_jax.benchmarks.measures import networks

    surroundings = environment() | {"freed_memory_kept": kept}
    show(describe(surroundings))
    groups: list[Group] = []
    for name in chosen:
        for group in networks.measure(repeats, name, compiled):
            groups.append(group | {"network": name})
            show("\n" + table(group))
    show("\n" + summary(groups))
    return {"environment": surroundings, "repeats": repeats, "groups": groups}


def summary(groups: Iterable[Group]) -> str:
    """Returns one line of Markdown for each group: ours, torch's, and torch's / ours."""
    lines = ["| work | ours, ms | torch, ms | torch / ours |", "|---|--:|--:|--:|"]
    for group in groups:
        rows = [row for row in group["rows"] if "seconds" in row]
        if len(rows) < 2:
            continue
        ours, theirs = rows[0]["seconds"], min(row["seconds"] for row in rows[1:])
        lines.append(
            f"| {group['title']} | {ours * 1e3:,.1f} | {theirs * 1e3:,.1f} | {theirs / ours:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
