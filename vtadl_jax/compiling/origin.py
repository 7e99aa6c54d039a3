"""Maps an instruction to its part of the model and its source line."""

import re
from collections.abc import Sequence

from vtadl_jax.compiling.hlo import Computation, Frame, Instruction, Module

PACKAGE = "vtadl_jax"
OTHER = "other"
_WRAPPED = re.compile(r"^[\w\-]*\((.*)\)$")
# Path components that control flow and transformations add.
_NOT_MODULES = re.compile(
    r"^(while|body|cond|closed_call|branch_\d+_fun|checkpoint|remat\w*|rematted_computation"
    r"|custom_[jv]vjp_call\w*|custom_[jv]jp_call\w*|shard_map|pmap|vmap|scan|\w+\._?\w+)$"
)
_MAX_STEPS = 8


def module_of(op_name: str) -> str:
    """Returns the module of a path, '' if it has none.

    'jit(step)/transpose(jvp(VTADL))/decoder/layer4/add' → 'decoder/layer4'.
    """
    kept: list[str] = []
    # A merged instruction has all names, joined by ';'.
    parts = _split(op_name.partition(";")[0])
    for part in parts[:-1]:  # the last is the primitive
        while not part.startswith("jit(") and (wrapped := _WRAPPED.match(part)):
            part = wrapped.group(1)
        # Flax names the outermost module by its class, the others by their attribute.
        if not part or "(" in part or _NOT_MODULES.match(part) or part[0].isupper():
            continue
        if "->" not in part and (not kept or kept[-1] != part):
            kept.append(part)
    return "/".join(kept)


def _split(path: str) -> list[str]:
    """Splits a path at slashes outside parentheses."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(path):
        depth += (letter == "(") - (letter == ")")
        if letter == "/" and depth == 0:
            parts.append(path[start:i])
            start = i + 1
    return [*parts, path[start:]]


def is_backward(op_name: str) -> bool:
    return "transpose(" in op_name


def own_frame(stack: Sequence[Frame]) -> Frame | None:
    """Returns the innermost call in this package, else the innermost call."""
    own = [f for f in stack if f"/{PACKAGE}/" in f.file]
    return own[0] if own else (stack[0] if stack else None)


def place_of(frame: Frame | None) -> str:
    """Returns 'ops/ssim.py:150'; files of other packages by their last two folders."""
    if frame is None:
        return ""
    if f"/{PACKAGE}/" in frame.file:
        return f"{frame.file.rpartition(f'/{PACKAGE}/')[2]}:{frame.line}"
    return f"{'/'.join(frame.file.split('/')[-2:])}:{frame.line}"


class Origins:
    """Module and source of the instructions of a program, by the names JAX gave them.

    A fusion has the name of its most expensive part: its convolution or product if it has one, else
    its root. An instruction that the compiler created without a name has its operands' name.
    """

    def __init__(self, module: Module):
        self._module = module

    def named(self, computation: Computation, instruction: Instruction) -> Instruction | None:
        """Returns the instruction whose name identifies the origin of this one; None if none."""
        for name in instruction.called.get("calls", []):
            inner = self._module.computations.get(name)
            for candidate in inner.instructions if inner else ():
                if candidate.opcode in ("convolution", "dot") and candidate.op_name:
                    return candidate
        seen: set[str] = set()
        level = [instruction]
        for _ in range(_MAX_STEPS):
            for candidate in level:
                if "/" in candidate.op_name:
                    return candidate
            seen |= {candidate.name for candidate in level}
            level = [
                computation.by_name[name]
                for candidate in level
                for name in candidate.operands
                if name in computation.by_name and name not in seen
            ]
        return None

    def module(self, computation: Computation, instruction: Instruction) -> str:
        """Returns the path of flax modules and named scopes, else the file, else 'other'."""
        named = self.named(computation, instruction)
        if named is None:
            return OTHER
        if path := module_of(named.op_name):
            return path
        frame = own_frame(self._module.stack(named))
        return place_of(frame).partition(":")[0] or OTHER

    def source(self, computation: Computation, instruction: Instruction) -> str:
        named = self.named(computation, instruction)
        return place_of(own_frame(self._module.stack(named))) if named else ""

    def backward(self, computation: Computation, instruction: Instruction) -> bool:
        named = self.named(computation, instruction)
        return bool(named and is_backward(named.op_name))
