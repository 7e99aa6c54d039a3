"""Counts the work of a compiled program from its text: cycles, collectives, copies."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

from vtadl_jax.compiling.hlo import (
    Computation,
    Instruction,
    Module,
)
from vtadl_jax.compiling.origin import Origins, module_of

# Attributes whose computations are part of the schedule. Not fusions and reducers: the compiler's
# estimate of a fusion covers its whole computation.
_INLINE = ("call", "conditional", "async-start")
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


def count_library_calls(scheduled: Iterable[Scheduled]) -> int:
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


def counts(scheduled: list[Scheduled]) -> dict[str, int]:
    """Counts the instructions of the schedule by kind; asynchronous copies are counted apart."""
    seen = Counter(s.instruction.opcode for s in scheduled)
    found = {name: seen[name] for name in COUNTED}
    found["async copy"] = seen["copy-start"] + seen["slice-start"]
    found["instructions"] = len({id(s.instruction) for s in scheduled})
    return found


def of_module(scheduled: list[Scheduled], origins: Origins, prefix: str) -> list[Scheduled]:
    """Returns the instructions of a module and its submodules."""
    return [
        s
        for s in scheduled
        if f"{module_of(s.instruction.op_name)}/".startswith(f"{prefix.rstrip('/')}/")
    ]
