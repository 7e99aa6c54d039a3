"""Parses the compiler's text of a program into computations and instructions; no analysis.

XLA has no public Python reader of its optimized modules, only this text. Parsed are names, types,
opcodes, operands, called computations, scheduling costs and the source of each instruction; the
rest of a line is kept as text.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator

NO_ESTIMATE = 2**62  # the compiler prints the largest integer there is
BITS = {"pred": 8, "token": 0, "bf16": 16, "opaque": 0}  # others end in their width
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation"
    r"|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_GPU_COST = re.compile(r'\{"end_to_end_cycles":([0-9.e+]+)[^{}]*"name":"([^"]*)"\}')
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


@dataclasses.dataclass(frozen=True)
class Frame:
    """A source location of an instruction."""

    file: str
    line: int
    function: str


@dataclasses.dataclass(frozen=True)
class Instruction:
    """name, type and opcode as printed; operands: their names; rest: the attributes' text."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """Returns the path that JAX gave it: transformations, modules and the primitive."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found.group(1) if found else ""

    @property
    def cycles(self) -> int | None:
        """Returns the compiler's estimate of its cycles; None if it gives none.

        For GPUs XLA writes the estimates of several models: that of indexing if there is one (the
        other knows no Triton kernels), else the one without a name.
        """
        models = {name: float(cost) for cost, name in _GPU_COST.findall(self.rest)}
        for name in ("indexing-cost-model", ""):
            if name in models:
                return round(models[name])
        found = re.search(r'"estimated_cycles":"?(\d+)', self.rest)
        if not found or int(found.group(1)) >= NO_ESTIMATE:
            return None
        return int(found.group(1))

    @property
    def fusion_kind(self) -> str:
        found = re.search(r"kind=(\w+)", self.rest)
        return found.group(1) if found else ""

    @property
    def called(self) -> dict[str, list[str]]:
        """Returns computations by the attribute that names them: calls, body, condition, …"""
        found: dict[str, list[str]] = {}
        for attribute, names in _CALLED.findall(self.rest):
            found.setdefault(attribute, []).extend(re.findall(r"[\w.\-]+", names))
        return found

    @functools.cached_property
    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """Returns (element type, shape) of every array in its type."""
        return shapes_in(self.type)

    @property
    def num_bytes(self) -> int:
        return sum(array_bytes(dtype, shape) for dtype, shape in self.arrays)


def shapes_in(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the arrays of a printed type: 'f32[8,2]{1,0}' → [('f32', (8, 2))]; no layouts."""
    return [
        (dtype, tuple(int(side) for side in sides.split(",") if side))
        for dtype, sides in _ARRAY.findall(text)
    ]


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    bits = BITS.get(dtype)
    if bits is None:
        width = re.search(r"\d+", dtype)  # s32, f8e4m3fn
        bits = int(width.group()) if width else 0
    return math.prod(shape) * bits // 8


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        roots = [i for i in self.instructions if i.is_root]
        return roots[0] if roots else self.instructions[-1]


@dataclasses.dataclass(frozen=True)
class Module:
    """An HLO module. header: the first line, with the aliasing of inputs and outputs."""

    header: str
    entry: str
    computations: dict[str, Computation]
    frames: dict[int, tuple[Frame, ...]]

    def instructions(self) -> Iterator[Instruction]:
        for computation in self.computations.values():
            yield from computation.instructions

    def stack(self, instruction: Instruction) -> tuple[Frame, ...]:
        """Returns its source, innermost call first; empty if the compiler created it."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        if found:
            return self.frames.get(int(found.group(1)), ())
        found = re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.rest)
        return (Frame(found.group(1), int(found.group(2)), ""),) if found else ()

    @functools.cached_property
    def num_aliased(self) -> int:
        """Returns the number of outputs in the buffers of donated inputs."""
        return len(re.findall(r"\((\d+), \{[^}]*\}, (?:may|must)-alias\)", self.header))


def parse(text: str) -> Module:
    """Parses `compiled.as_text()`. Raises ValueError if it has no entry computation."""
    header, entry = "", ""
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    current: list[Instruction] | None = None
    name, table = "", ""
    for line in text.splitlines():
        if line.startswith("HloModule"):
            header = line
        elif line in _TABLES:
            table = line
        elif current is None and (found := _HEADER.match(line)):
            name, current, table = found.group(2), [], ""
            entry = name if found.group(1) else entry
        elif current is not None and line.startswith("}"):
            computations[name] = Computation(name, tuple(current))
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(found.group(2), found.group(3), bool(found.group(1))))
        elif table and (found := re.match(r"^(\d+) (.*)$", line)):
            tables[table][int(found.group(1))] = found.group(2)
    if entry not in computations:
        raise ValueError("no ENTRY computation: this is not the text of an HLO module")
    return Module(header, entry, computations, _stacks(tables))


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _matching(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    stop = _matching(text, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", text[start : stop + 1]))
    rest = text[stop + 1 :]
    if text[:start] in ("constant", "parameter"):  # the text has the value in the place of operands
        rest = text[start + 1 : stop] + rest
    return Instruction(name, kind, text[:start], operands, rest, is_root)


def _matching(text: str, start: int) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return start + found.start()
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def _stacks(tables: dict[str, dict[int, str]]) -> dict[int, tuple[Frame, ...]]:
    def unquoted(text: str) -> str:
        return json.loads(text) if text.startswith('"') else text

    def numbers(text: str) -> dict[str, int]:
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text)}

    files, functions = (
        {key: unquoted(value) for key, value in tables[table].items()}
        for table in ("FileNames", "FunctionNames")
    )
    places = {}
    for key, text in tables["FileLocations"].items():
        fields = numbers(text)
        file = files.get(fields.get("file_name_id", 0), "")
        function = functions.get(fields.get("function_name_id", 0), "")
        places[key] = Frame(file, fields.get("line", 0), function)
    frames = {key: numbers(text) for key, text in tables["StackFrames"].items()}
    # Some versions print a parent as its number plus one, so that 0 can be left out: there a frame
    # without a parent shows 1, and the first frame names itself.
    shift = int(any(fields.get("parent_frame_id") == key for key, fields in frames.items()))
    found: dict[int, tuple[Frame, ...]] = {}
    for key in frames:
        chain, at, seen = [], key, set()
        while at in frames and at not in seen:
            seen.add(at)
            if (place := places.get(frames[at].get("file_location_id", 0))) is not None:
                chain.append(place)
            at = frames[at].get("parent_frame_id", 0) - shift
        found[key] = tuple(chain)
    return found
