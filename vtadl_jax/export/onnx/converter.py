"""Writes a traced program as an ONNX graph: operations one by one, calls and loops by their bodies.

What only depends on constants is computed while writing.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from vtadl_jax.export.onnx.elementwise import ELEMENTWISE, UNCHANGED, elementwise
from vtadl_jax.export.onnx.graph import Graph, Shape, Unsupported, Value, known
from vtadl_jax.export.onnx.indexing import INDEXING
from vtadl_jax.export.onnx.loops import LOOPS
from vtadl_jax.export.onnx.products import PRODUCTS
from vtadl_jax.export.onnx.shapes import SHAPES
from vtadl_jax.export.onnx.tracing import (
    Equation,
    Pair,
    dtype_of,
    equations,
)

WRITERS = {**SHAPES, **PRODUCTS, **INDEXING}
# Constants are computed while writing if they have so many elements at most, or fewer than what
# they are computed from.
MOST = 2**20
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
NEVER_FOLDED = ("broadcast_in_dim", "copy", "optimization_barrier")


def write_program(graph: Graph, program: Pair, inputs: Sequence[Value]) -> list[Value]:
    """Writes a program's operations to a graph and returns the values of its outputs.

    Raises Unsupported for what this converter or ONNX does not have; the message names it.
    """
    first = getattr(program.first, "jaxpr", program.first)
    values: dict[Any, Value] = dict(zip(first.invars, inputs, strict=True))
    consts = [getattr(p, "consts", ()) for p in program]
    for variable, one, other in zip(first.constvars, *consts, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape or not np.array_equal(one, other, equal_nan=True):
            raise Unsupported("a constant that depends on the number of images")
        values[variable] = known(one)

    def value_of(variable: Any) -> Value:
        if isinstance(variable, core.Literal):
            return known(np.asarray(variable.val, dtype_of(variable.aval)))
        return values[variable]

    caller = graph.caller
    for equation in equations(program):
        # A function that JAX traced before keeps the calls that it had then.
        known_caller = equation.part[len(equation.part) - len(caller) :] == caller
        graph.caller = equation.part if known_caller else caller
        made = _write(graph, equation, [value_of(v) for v in equation.inputs])
        for variable, value in zip(equation.outputs, made, strict=True):
            values[variable] = value
    graph.caller = caller
    return [value_of(variable) for variable in first.outvars]


def _write(graph: Graph, equation: Equation, inputs: list[Value]) -> list[Value]:
    kind = equation.kind
    if kind in UNCHANGED:
        return inputs
    if (found := _computed(equation, inputs)) is not None:
        return found
    if equation.shapes and all(0 in shape for shape in equation.shapes):
        return [_empty(*of) for of in zip(equation.shapes, equation.dtypes, strict=True)]
    if kind in LOOPS:
        return LOOPS[kind](graph, equation, inputs, write_program)
    if kind in ELEMENTWISE:
        return [elementwise(graph, equation, *inputs)]
    if kind in WRITERS:
        made = WRITERS[kind](graph, equation, *inputs)
        made = made if isinstance(made, list) else [made]
        return [
            one if isinstance(one, Value) else Value(shape, dtype, shape, one)
            for one, shape, dtype in zip(made, equation.shapes, equation.dtypes, strict=True)
        ]
    for name in BODIES:
        body = equation.params.get(name)
        if isinstance(body, Pair):
            return write_program(graph, body, inputs)
    raise Unsupported(f"the operation {kind!r}")


def _empty(shape: Shape, dtype: np.dtype) -> Value:
    """Returns a value without elements: a constant, which operators may repeat no times."""
    held = tuple(0 if size == 0 else 1 for size in shape)
    return Value(shape, dtype, held, array=np.zeros(held, dtype))


def _computed(equation: Equation, inputs: list[Value]) -> list[Value] | None:
    """Returns the values of an operation on constants; None for others and for large results."""
    kind = equation.kind
    if kind in NEVER_FOLDED or any(value.array is None for value in inputs):
        return None
    if any(not isinstance(size, int) for shape in equation.shapes for size in shape):
        return None
    if any(isinstance(param, Pair) for param in equation.params.values()):
        return None  # its body is computed, operation by operation
    size = sum(int(np.prod(shape)) for shape in equation.shapes)
    given = sum(value.array.size for value in inputs if value.array is not None)
    if size > max(MOST, given):
        return None
    primitive = PRIMITIVES.get(kind)
    if primitive is None:
        return None
    arrays = [np.broadcast_to(v.array, v.shape) for v in inputs]  # type: ignore[arg-type]
    made = primitive.bind(*(jax.numpy.asarray(a) for a in arrays), **equation.params)
    several = made if primitive.multiple_results else [made]
    return [known(np.asarray(one)) for one in several]


def _primitives() -> dict[str, Any]:
    from jax import lax
    from jax.extend.core import primitives as found

    listed = [*vars(lax).values(), *vars(found).values()]
    return {p.name: p for p in listed if isinstance(p, core.Primitive)}


PRIMITIVES = _primitives()
