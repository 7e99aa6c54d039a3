"""Loops and choices: operations that have programs inside, by the name of JAX's primitive."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from vtadl_jax.export.onnx.elementwise import SELECTED, widened
from vtadl_jax.export.onnx.graph import Graph, Unsupported, Value, type_of
from vtadl_jax.export.onnx.tracing import Equation, Pair, dtype_of, merged_shape

LONGEST = 64  # scans over weights of so many layers are written layer by layer
# Writes a program to a graph: (graph, program, values of its inputs) → values of its outputs.
Write = Callable[[Graph, Pair, Sequence[Value]], list[Value]]


def _arguments(graph: Graph, program: Pair, first: int, count: int) -> list[Value]:
    """Returns values for a body's inputs, of fresh names."""
    one, other = (getattr(p, "jaxpr", p) for p in program)
    made = []
    for a, b in zip(one.invars[first:][:count], other.invars[first:][:count], strict=True):
        shape = merged_shape(a.aval, b.aval)
        made.append(Value(shape, dtype_of(a.aval), shape, graph.fresh("input")))
    return made


def _declared(value: Value) -> Any:
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    return helper.make_tensor_value_info(str(value.name), type_of(value.dtype), sizes)


def _returned(graph: Graph, value: Value) -> Value:
    """Returns a value under a name of its own, as an output of a body needs it."""
    full = graph.full(value)
    return Value(full.shape, full.dtype, full.shape, graph.op("Identity", full))


def scan(graph: Graph, equation: Equation, inputs: list[Value], write: Write) -> list[Value]:
    """Writes a scan over the first axis of some inputs."""
    params, body = equation.params, equation.params["jaxpr"]
    num_consts, num_carry = _counts(params)
    graph.batch_size()  # outside of the loop
    length = params["length"]
    if (
        isinstance(length, int)
        and length <= LONGEST
        and any(x.array is not None and x.array.ndim > 2 for x in inputs[num_consts + num_carry :])
    ):
        return _unrolled(graph, equation, inputs, write)
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    rows = inputs[num_consts + num_carry :]
    inside = graph.inner()
    given = _arguments(inside, body, num_consts, num_carry + len(rows))
    if not rows:  # ONNX's scan needs something to scan over
        return _counted(graph, equation, consts, carry, graph.sizes((length,)), write)
    made = [_returned(inside, v) for v in write(inside, body, [*consts, *given])]
    inner = helper.make_graph(
        inside.nodes,
        graph.fresh("body"),
        [_declared(v) for v in given],
        [_declared(v) for v in made],
    )
    backward = int(params["reverse"])
    names = graph.op(
        "Scan",
        *(graph.full(v) for v in (*carry, *rows)),
        outputs=len(made),
        body=inner,
        num_scan_inputs=len(rows),
        scan_input_directions=[backward] * len(rows),
        **({"scan_output_directions": [backward] * n} if (n := len(made) - num_carry) else {}),
    )
    names = [names] if len(made) == 1 else names
    return _named(equation, names)


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """Returns how many inputs of a scan are constants, and how many it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # from jax 0.12 on
    return len(consts), len(carry)


def _unrolled(graph: Graph, equation: Equation, inputs: list[Value], write: Write) -> list[Value]:
    """Writes the turns of a scan over weights one after another: each layer has its constants."""
    params = equation.params
    num_consts, num_carry = _counts(params)
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    turns = list(range(params["length"]))
    each: dict[int, list[Value]] = {}
    for turn in reversed(turns) if params["reverse"] else turns:
        rows = [_row(graph, x, turn) for x in inputs[num_consts + num_carry :]]
        made = write(graph, params["jaxpr"], [*consts, *carry, *rows])
        carry, each[turn] = made[:num_carry], made[num_carry:]
    stacked = []
    for number, (shape, dtype) in enumerate(
        zip(equation.shapes[num_carry:], equation.dtypes[num_carry:], strict=True)
    ):
        first = graph.ints([0])
        rows = [graph.op("Unsqueeze", graph.full(each[turn][number]), first) for turn in turns]
        stacked.append(Value(shape, dtype, shape, graph.op("Concat", *rows, axis=0)))
    return [*carry, *stacked]


def _row(graph: Graph, x: Value, turn: int) -> Value:
    if x.array is not None:
        array = x.array[turn if x.held[0] != 1 else 0]
        return Value(x.shape[1:], x.dtype, array.shape, array=array)
    full = graph.full(x)
    name = graph.op("Gather", full, np.asarray(turn, np.int64), axis=0)
    return Value(x.shape[1:], x.dtype, x.shape[1:], name)


def _named(equation: Equation, names: Sequence[str]) -> list[Value]:
    return [
        Value(shape, dtype, shape, name)
        for name, shape, dtype in zip(names, equation.shapes, equation.dtypes, strict=True)
    ]


def _loop(
    graph: Graph,
    inside: Graph,
    given: list[Value],
    made: list[Value],
    again: str,
    length: Any,
    start: Any,
    carry: list[Value],
    equation: Equation,
) -> list[Value]:
    """Writes a loop with a body: it has the nodes of `inside` and returns `made`."""
    count = helper.make_tensor_value_info(graph.fresh("turn"), type_of(np.int64), [])
    before = helper.make_tensor_value_info(graph.fresh("before"), type_of(np.bool_), [])
    after = helper.make_tensor_value_info(again, type_of(np.bool_), [])
    inner = helper.make_graph(
        inside.nodes,
        graph.fresh("body"),
        [count, before, *(_declared(v) for v in given)],
        [after, *(_declared(v) for v in made)],
    )
    names = graph.op(
        "Loop", length, start, *(graph.full(v) for v in carry), outputs=len(made), body=inner
    )
    return _named(equation, [names] if len(made) == 1 else names)


def _counted(
    graph: Graph,
    equation: Equation,
    consts: list[Value],
    carry: list[Value],
    length: str,
    write: Write,
) -> list[Value]:
    """Writes a scan over nothing: a loop of so many turns; it returns what it carries only."""
    body, num_carry = equation.params["jaxpr"], len(carry)
    inside = graph.inner()
    given = _arguments(inside, body, len(consts), num_carry)
    made = [_returned(inside, v) for v in write(inside, body, [*consts, *given])]
    again = inside.op("Identity", np.ones((), np.bool_))
    if len(made) > num_carry and equation.params["reverse"]:
        raise Unsupported("a scan over nothing that is reversed")
    return _loop(graph, inside, given, made, again, graph.op("Squeeze", length), None, carry,
                 equation)  # fmt: skip


def while_loop(graph: Graph, equation: Equation, inputs: list[Value], write: Write) -> list[Value]:
    """Writes a loop that ends when a condition on what it carries is false.

    Under `jax.vmap` each image has a condition of its own: images that are done stay as they are
    while others go on.
    """
    params = equation.params
    num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
    graph.batch_size()
    of_cond, of_body = inputs[:num_cond], inputs[num_cond : num_cond + num_body]
    carry = inputs[num_cond + num_body :]
    (start,) = write(graph, params["cond_jaxpr"], [*of_cond, *carry])
    inside = graph.inner()
    given = _arguments(inside, params["body_jaxpr"], num_body, len(carry))
    made = write(inside, params["body_jaxpr"], [*of_body, *given])
    if start.rank:
        (going,) = write(inside, params["cond_jaxpr"], [*of_cond, *given])
        made = [_chosen(inside, going, *pair) for pair in zip(made, given, strict=True)]
    made = [_returned(inside, value) for value in made]
    (again,) = write(inside, params["cond_jaxpr"], [*of_cond, *made])
    after = inside.op("Identity", _any(inside, again))
    first = _any(graph, start)
    return _loop(graph, inside, given, made, after, None, first, carry, equation)


def _any(graph: Graph, condition: Value) -> Value | str:
    """Returns whether any of the conditions, of images, is true."""
    full = graph.full(condition)
    if not condition.rank:
        return full
    axes = graph.ints(range(condition.rank))
    return graph.cast(graph.op("ReduceMax", graph.cast(full, np.int32), axes, keepdims=0), np.bool_)


def _chosen(graph: Graph, condition: Value, yes: Value, no: Value) -> Value:
    """Returns one of two values for each image. condition: [B], of values [B, ...]."""
    axes = graph.ints(range(condition.rank, yes.rank))
    wide = graph.op("Unsqueeze", graph.full(condition), axes)
    cases = [widened(graph, graph.full(case), SELECTED) for case in (yes, no)]
    name = graph.cast(graph.op("Where", wide, *cases), yes.dtype)
    return Value(yes.shape, yes.dtype, yes.shape, name)


def branch(graph: Graph, equation: Equation, inputs: list[Value], write: Write) -> list[Value]:
    """Writes a choice between programs: the one chosen if it is known, else two by `If`."""
    which, arguments, branches = inputs[0], inputs[1:], equation.params["branches"]
    if which.array is not None:
        number = int(np.clip(int(which.array), 0, len(branches) - 1))
        return write(graph, branches[number], arguments)
    if len(branches) != 2:
        raise Unsupported(f"a choice between {len(branches)} programs")
    graph.batch_size()
    bodies = []
    for program in branches:
        inside = graph.inner()
        made = [_returned(inside, v) for v in write(inside, program, arguments)]
        outputs = [_declared(value) for value in made]
        bodies.append(helper.make_graph(inside.nodes, graph.fresh("branch"), [], outputs))
    second = graph.cast(
        graph.op("Max", graph.cast(which, np.int32), np.zeros((), np.int32)), np.bool_
    )
    names = graph.op(
        "If", second, outputs=len(equation.outputs), then_branch=bodies[1], else_branch=bodies[0]
    )
    return _named(equation, [names] if len(equation.outputs) == 1 else names)


LOOPS: dict[str, Callable[..., list[Value]]] = {"scan": scan, "while": while_loop, "cond": branch}
