"""Counts the work of a compiled program from its text: cycles, collectives, copies."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from vtadl_jax.compiling.hlo import (
    Computation,
    Instruction,
    Module,
    array_bytes,
    shapes_in,
)
from vtadl_jax.compiling.origin import Origins, module_of

# Attributes whose computations are part of the schedule. Not fusions and reducers: the compiler's
# estimate of a fusion covers its whole computation.
_INLINE = ("call", "conditional", "async-start")
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
COUNTED = ("fusion", "convolution", "dot", "custom-call", "copy", "transpose", "convert", "while")


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Returns a loop's trip count, read from its condition `i < n`, i from 0; None if unclear."""
    known = re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.rest)
    if known:
        return int(known.group(1))
    (name,) = loop.called["condition"]
    names, compared, limits = [name], [], []
    while names:
        computation = module.computations[names.pop()]
        for instruction in computation.instructions:
            names += instruction.called.get("calls", [])
            if instruction.opcode == "compare":
                compared.append(instruction)
            if instruction.opcode == "constant" and instruction.type.startswith("s32[]"):
                limits.append(int(instruction.rest.partition(",")[0]))
    if len(compared) == 1 and "direction=LT" in compared[0].rest and len(limits) == 1:
        return limits[0]
    return None


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """An instruction of the schedule and how often one run of the program executes it."""

    computation: Computation
    instruction: Instruction
    times: int


def schedule(module: Module) -> tuple[list[Scheduled], int]:
    """Returns all instructions that a run executes, and the number of loops of unknown trip count.

    Bodies of loops of unknown trip count are counted once; all branches of a conditional are
    counted.
    """
    found: list[Scheduled] = []
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        computation = module.computations[name]
        for instruction in computation.instructions:
            found.append(Scheduled(computation, instruction, times))
            called = instruction.called
            if instruction.opcode == "while":
                trips = trip_count(module, instruction)
                unknown += trips is None
                (condition,), (body,) = called["condition"], called["body"]
                visit(condition, times * ((trips or 1) + 1))
                visit(body, times * (trips or 1))
            elif instruction.opcode in _INLINE:
                for names in called.values():
                    for inner in names:
                        visit(inner, times)

    visit(module.entry, 1)
    return found, unknown


def cycles(scheduled: list[Scheduled]) -> dict[str, int | None]:
    """Sums the estimated cycles; values are None if the compiler gives no estimates.

    'total': loop bodies times their trip count; 'once': each instruction of the text once;
    'without_estimate': number of fusions without an estimate, such as those of a collective.
    """
    costs = [(s.instruction.cycles, s.times) for s in scheduled]
    known = [(cost, times) for cost, times in costs if cost is not None]
    missing = sum(
        s.instruction.opcode == "fusion" and s.instruction.cycles is None for s in scheduled
    )
    if not known:
        return {"total": None, "once": None, "without_estimate": missing}
    return {
        "total": sum(cost * times for cost, times in known),
        "once": sum(cost for cost, _ in known),
        "without_estimate": missing,
    }


_LIBRARY = re.compile(r'custom_call_target="__(cudnn|cublas)')


def library_calls(scheduled: Iterable[Scheduled]) -> int:
    """Counts calls of a GPU's libraries, which have no estimate: most of the work may be there."""
    return sum(
        s.times
        for s in scheduled
        if s.instruction.opcode == "custom-call" and _LIBRARY.search(s.instruction.rest)
    )


def by_module(origins: Origins, scheduled: list[Scheduled]) -> dict[str, dict[str, int]]:
    """Returns module → cycles {forward, backward}, most expensive first."""
    found: dict[str, dict[str, int]] = {}
    for s in scheduled:
        cost = s.instruction.cycles
        if not cost:
            continue
        row = found.setdefault(
            origins.module(s.computation, s.instruction), {"forward": 0, "backward": 0}
        )
        way = "backward" if origins.backward(s.computation, s.instruction) else "forward"
        row[way] += cost * s.times
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def most_expensive(origins: Origins, scheduled: list[Scheduled], count: int) -> list[dict]:
    """Returns the most expensive instructions, each with its module and source line."""
    priced = [s for s in scheduled if s.instruction.cycles]
    priced.sort(key=lambda s: -(s.instruction.cycles or 0) * s.times)
    found = []
    for s in priced[:count]:
        at = s.computation, s.instruction
        named = origins.named(*at)
        found.append(
            {
                "name": s.instruction.name,
                "opcode": s.instruction.opcode,
                "cycles": (s.instruction.cycles or 0) * s.times,
                "times": s.times,
                "module": origins.module(*at),
                "backward": origins.backward(*at),
                "source": origins.source(*at),
                "operation": named.op_name.rpartition("/")[2] if named else "",
                "result": printed_shapes(s.instruction),
            }
        )
    return found


# Instructions that take no time of their own.
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call")
)


def instructions(origins: Origins, scheduled: list[Scheduled]) -> list[dict]:
    """Returns every instruction that takes time, in the order of the schedule.

    Each with its name, opcode, module, direction, source line and operation; cycles: of one
    execution, None without an estimate; times: its executions in a call.
    """
    found = []
    for s in scheduled:
        if s.instruction.opcode in _FREE:
            continue
        at = s.computation, s.instruction
        named = origins.named(*at)
        found.append(
            {
                "name": s.instruction.name,
                "opcode": s.instruction.opcode,
                "cycles": s.instruction.cycles,
                "times": s.times,
                "module": origins.module(*at),
                "backward": origins.backward(*at),
                "source": origins.source(*at),
                "operation": named.op_name.rpartition("/")[2] if named else "",
            }
        )
    return found


def printed_shapes(instruction: Instruction, most: int = 3) -> str:
    shapes = [f"{t}[{','.join(map(str, sides))}]" for t, sides in instruction.arrays]
    return ", ".join(shapes[:most]) + (f" and {len(shapes) - most} more" * (len(shapes) > most))


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


def collectives(
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


SMALL = 4096  # values; smaller arrays are no activations of a batch


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


def counts(scheduled: list[Scheduled]) -> dict[str, int]:
    """Counts the instructions of the schedule by kind; asynchronous copies are counted apart."""
    seen = Counter(s.instruction.opcode for s in scheduled)
    found = {name: seen[name] for name in COUNTED}
    found["async copy"] = seen["copy-start"] + seen["slice-start"]
    found["instructions"] = len({id(s.instruction) for s in scheduled})
    return found


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


def of_module(scheduled: list[Scheduled], origins: Origins, prefix: str) -> list[Scheduled]:
    """Returns the instructions of a module and its submodules."""
    return [
        s
        for s in scheduled
        if f"{module_of(s.instruction.op_name)}/".startswith(f"{prefix.rstrip('/')}/")
    ]
