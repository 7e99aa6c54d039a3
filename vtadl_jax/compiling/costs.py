"""What a compiled program does, counted from its text: cycles, collectives, copies."""

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

# What runs its computation as a part of the schedule. Fusions and reducers are not among them:
# the compiler's estimate of a fusion is for all that is in it.
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
    """How often a loop's body runs, read from its condition `i < n`, i from 0; None if unclear."""
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
    """An instruction of the schedule and how often a run of the program executes it."""

    computation: Computation
    instruction: Instruction
    times: int


def schedule(module: Module) -> tuple[list[Scheduled], int]:
    """All instructions that a run executes one by one, and the number of loops whose trip count
    the text does not tell; the bodies of those are counted once. Every branch of a conditional is
    counted."""
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
    """Summed estimated cycles: 'total' with loop bodies as often as they run, 'once' with each
    instruction of the text once; None where the compiler gives no estimates. 'without_estimate':
    fusions that it gives none for, as those that take part in a collective."""
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


def by_module(origins: Origins, scheduled: list[Scheduled]) -> dict[str, dict[str, int]]:
    """module → cycles {forward, backward}, dearest first."""
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


def dearest(origins: Origins, scheduled: list[Scheduled], count: int) -> list[dict]:
    """The instructions that cost most, each with its module and source line."""
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


def printed_shapes(instruction: Instruction, most: int = 3) -> str:
    shapes = [f"{t}[{','.join(map(str, sides))}]" for t, sides in instruction.arrays]
    return ", ".join(shapes[:most]) + (f" and {len(shapes) - most} more" * (len(shapes) > most))


def find_collectives(module: Module, scheduled: list[Scheduled]) -> Iterator[tuple[str, Scheduled]]:
    """(kind, where) of every collective. What overlaps with other work stands in the fusions that
    begin it, go on with it and end it, each with its channel: it is one. An all-reduce in a fusion
    of which each device keeps a part is a reduce-scatter."""
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
    """Every collective: how often, over how many devices, bytes and what it carries.

    bytes: of the data a run's executions reduce, gather or send, on one device; wire_bytes: what
    then leaves a device in a ring, 2 (n - 1) / n of an all-reduce's and (n - 1) / n of the
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


SMALL = 4096  # values, of what cannot be an activation of a batch


def carries(kind: str, operands: list[Instruction]) -> str:
    """'gradients', 'sums' (of statistics and metrics) or 'both', by the arrays' sizes; 'weights' if
    something large is gathered.

    A gradient as small as a channel's statistic counts as a sum where it travels alone.
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
    """Devices that take part in one group of a collective, from its printed `replica_groups`."""
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
    """How many instructions of the schedule are of each kind that costs or tells; copies between
    memories that overlap with other work are apart."""
    seen = Counter(s.instruction.opcode for s in scheduled)
    found = {name: seen[name] for name in COUNTED}
    found["async copy"] = seen["copy-start"] + seen["slice-start"]
    found["instructions"] = len({id(s.instruction) for s in scheduled})
    return found


def activations_gathered(
    found_collectives: Iterable[tuple[str, Scheduled]], batch: int
) -> list[str]:
    """Names of all-gathers whose result's leading axis is the whole batch."""
    return [
        s.instruction.name
        for kind, s in found_collectives
        if kind == "all-gather"
        and any(shape[:1] == (batch,) for _, shape in shapes_in(s.instruction.type))
    ]


def of_module(scheduled: list[Scheduled], origins: Origins, prefix: str) -> list[Scheduled]:
    """What belongs to a module and those within it."""
    return [
        s
        for s in scheduled
        if f"{module_of(s.instruction.op_name)}/".startswith(f"{prefix.rstrip('/')}/")
    ]
