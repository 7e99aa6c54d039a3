"""Finds what the devices of a compiled program exchange: kinds, groups, bytes, transfers between
slices."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from vtadl_jax.compiling.costs import Scheduled
from vtadl_jax.compiling.hlo import Instruction, Module, array_bytes, shapes_in
from vtadl_jax.compiling.origin import Origins

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
SMALL = 4096  # values; smaller arrays are no activations of a batch


def find_collectives(module: Module, scheduled: list[Scheduled]) -> Iterator[tuple[str, Scheduled]]:
    """Yields (kind, instruction) of every collective.

    An asynchronous collective is split over several fusions (start, progress, end) with the same
    channel and is counted once. An all-reduce in a fusion in which each device keeps only a part of
    the result is a reduce-scatter.
    """
    seen: set[str] = set()
    for s in scheduled:
        if (kind := _kind(s.instruction)) is not None:
            yield kind, s
        if s.instruction.opcode != "fusion":
            continue
        for name in s.instruction.called.get("calls", []):
            computation = module.computations[name]
            opcodes = {i.opcode for i in computation.instructions}
            for inner in computation.instructions:
                channel = re.search(r"channel_id=\d+", inner.rest)
                if (kind := _kind(inner)) is None or (channel and channel.group() in seen):
                    continue
                seen |= {channel.group()} if channel else set()
                if kind == "all-reduce" and {"partition-id", "dynamic-slice"} <= opcodes:
                    kind = "reduce-scatter"
                yield kind, Scheduled(computation, inner, s.times)


def _kind(instruction: Instruction) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def tabulate(
    origins: Origins,
    found_collectives: Iterable[tuple[str, Scheduled]],
    num_devices: int,
    most: int = 6,
) -> list[dict]:
    """Returns every collective: executions, group size, bytes and what it carries.

    bytes: data that one run reduces, gathers or sends, on one device; wire_bytes: bytes that leave
    a device in a ring algorithm, 2 (n - 1) / n of an all-reduce's bytes and (n - 1) / n of the
    others'.
    """
    found = []
    for kind, s in found_collectives:
        group = group_size(s.instruction.rest, num_devices)
        carried = list(_operands(s))
        arrays = [array for operand in carried for array in operand.arrays]
        size = sum(array_bytes(*array) for array in arrays)
        if kind == "all-gather":
            size *= group
        sent = size * (group - 1) / group
        if kind == "all-reduce":
            sent *= 2
        elif kind == "collective-permute":
            sent = size
        modules = Counter(origins.module(s.computation, operand) for operand in carried)
        dtypes: Counter[str] = Counter()
        for dtype, shape in arrays:
            dtypes[dtype] += array_bytes(dtype, shape)
        largest = max(arrays, key=lambda array: array_bytes(*array), default=None)
        found.append(
            {
                "kind": kind,
                "name": s.instruction.name,
                "times": s.times,
                "group_size": group,
                "arrays": len(arrays),
                "bytes": size * s.times,
                "wire_bytes": round(sent * s.times),
                "bytes_by_dtype": dict(dtypes),
                "largest": f"{largest[0]}[{','.join(map(str, largest[1]))}]" if largest else "",
                "modules": [name for name, _ in modules.most_common(most)],
                "carries": carries(kind, carried),
                "source": origins.source(s.computation, s.instruction),
            }
        )
    return sorted(found, key=lambda c: -c["bytes"])


def _operands(s: Scheduled) -> Iterator[Instruction]:
    for name in s.instruction.operands:
        if name in s.computation.by_name:
            yield s.computation.by_name[name]


def between_slices(scheduled: Iterable[Scheduled], num_slices: int) -> dict[str, float]:
    """Counts what a device sends over the network between slices.

    The compiler splits a collective of several slices: each slice has its own over its links, and
    the rest is a transfer by the host. bytes: handed to the host in a call; wire_bytes: of a ring
    over the slices, 2 (s - 1) / s of a sum's bytes, s - 1 times those of other transfers.
    """
    found = {"instructions": 0, "executed": 0, "bytes": 0, "wire_bytes": 0.0}
    for s in scheduled:
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', s.instruction.rest)
        if s.instruction.opcode != "send" or kind is None:
            continue
        # A send's result begins with the data.
        size = array_bytes(*s.instruction.arrays[0]) * s.times
        others = num_slices - 1
        share = 2 * others / num_slices if kind.group(1) == "ALL_REDUCE" else others
        found["instructions"] += 1
        found["executed"] += s.times
        found["bytes"] += size
        found["wire_bytes"] += share * size
    return found


def carries(kind: str, operands: list[Instruction]) -> str:
    """Classifies a collective by its arrays' sizes: 'gradients', 'sums' (of statistics and metrics)
    or 'both'; 'weights' if a large array is gathered.

    Limit: a gradient as small as a per-channel statistic counts as a sum if it is sent alone.
    """
    sizes = [math.prod(shape) for operand in operands for _, shape in operand.arrays]
    large = any(size > SMALL for size in sizes)
    scalars = any(size == 1 for size in sizes)
    if large and kind == "all-gather":
        return "weights"
    if large:
        return "both" if scalars else "gradients"
    return "sums"


def group_size(text: str, num_devices: int) -> int:
    """Returns the number of devices per group of a collective, from its `replica_groups` text."""
    if found := re.search(r"source_target_pairs=", text):
        return num_devices
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", found.group(1))}
        size = 1
        for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found.group(2)):
            size *= int(part) if part else sizes[name]
        return size
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text):
        return int(found.group(2))
    if found := re.search(r"replica_groups=\{\{([0-9,]+)\}", text):
        return len(found.group(1).split(","))
    return num_devices


def activations_gathered(
    found_collectives: Iterable[tuple[str, Scheduled]], batch: int
) -> list[str]:
    """Returns the names of all-gathers whose result's leading axis is the whole batch."""
    return [
        s.instruction.name
        for kind, s in found_collectives
        if kind == "all-gather"
        and any(shape[:1] == (batch,) for _, shape in shapes_in(s.instruction.type))
    ]
