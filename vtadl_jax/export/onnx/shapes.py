"""Operations that move, join, repeat and reduce axes, by the name of JAX's primitive."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtadl_jax.export.onnx.elementwise import SELECTED, widened
from vtadl_jax.export.onnx.graph import Dim, Graph, Input, Shape, Unsupported, Value
from vtadl_jax.export.onnx.tracing import Equation

END = np.iinfo(np.int64).max  # a slice's end for 'to the end'


def broadcast_in_dim(graph: Graph, equation: Equation, x: Value, *sizes: Value) -> Value:
    """Sets the axes; what is to be repeated stays of size 1."""
    shape, places = equation.shapes[0], equation.params["broadcast_dimensions"]
    held: list[Any] = [1] * len(shape)
    for axis, place in enumerate(places):
        held[place] = x.held[axis]
    if x.array is not None:
        array = x.array.reshape(held)
        return Value(shape, x.dtype, array.shape, array=array)
    name = graph.name(x) if tuple(held) == x.held else graph.reshape(x, tuple(held))
    return Value(shape, x.dtype, tuple(held), name)


def reshape(graph: Graph, equation: Equation, x: Value) -> str:
    """Reshapes, after a transposition if the primitive has one in its parameters."""
    full: Any = graph.full(x)
    if (order := equation.params.get("dimensions")) is not None:
        full = graph.op("Transpose", full, perm=list(order))
    return graph.reshape(full, equation.shapes[0])


def squeeze(graph: Graph, equation: Equation, x: Value) -> Value:
    """Drops axes of size 1; what is to be repeated stays so."""
    gone = {axis % x.rank for axis in equation.params["dimensions"]}
    held = tuple(size for axis, size in enumerate(x.held) if axis not in gone)
    name = graph.op("Squeeze", x, graph.ints(sorted(gone)))
    return Value(equation.shapes[0], x.dtype, held, name)


def expand_dims(graph: Graph, equation: Equation, x: Value) -> str:
    return graph.reshape(graph.full(x), equation.shapes[0])


def transpose(graph: Graph, equation: Equation, x: Value) -> Value:
    order = equation.params["permutation"]
    name = graph.op("Transpose", x, perm=list(order))
    return Value(equation.shapes[0], x.dtype, tuple(x.held[axis] for axis in order), name)


def concatenate(graph: Graph, equation: Equation, *inputs: Value) -> str:
    parts = [graph.full(x) for x in inputs if 0 not in x.shape]
    return graph.op("Concat", *parts, axis=equation.params["dimension"])


def stack(graph: Graph, equation: Equation, *inputs: Value) -> str:
    axis = equation.params["axis"]
    place = graph.ints([axis])
    return graph.op(
        "Concat", *(graph.op("Unsqueeze", graph.full(x), place) for x in inputs), axis=axis
    )


def split(graph: Graph, equation: Equation, x: Value) -> list[str]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    made = graph.op("Split", graph.full(x), graph.ints(sizes), outputs=len(sizes), axis=axis)
    return [made] if len(sizes) == 1 else made


def sliced(
    graph: Graph, x: Input, axes: Sequence[int], starts: Shape, ends: Shape, steps: Sequence[int]
) -> str:
    """Writes x[start:end:step] along some axes."""
    return graph.op(
        "Slice", x, graph.sizes(starts), graph.sizes(ends), graph.ints(axes), graph.ints(steps)
    )


def slice_(graph: Graph, equation: Equation, x: Value) -> Value:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * x.rank
    axes, ends, held = [], [], list(x.held)
    for axis, (start, limit, step) in enumerate(zip(starts, limits, steps, strict=True)):
        if x.held[axis] == 1 and x.shape[axis] != 1:
            continue  # equal values: still to be repeated
        if (start, step) == (0, 1) and limit == x.shape[axis]:
            continue
        axes.append(axis)
        ends.append(END if limit == x.shape[axis] else limit)
        held[axis] = equation.shapes[0][axis]
    if not axes:
        return Value(equation.shapes[0], x.dtype, tuple(held), graph.name(x))
    first = tuple(starts[axis] for axis in axes)
    name = sliced(graph, x, axes, first, tuple(ends), [steps[axis] for axis in axes])
    return Value(equation.shapes[0], x.dtype, tuple(held), name)


def rev(graph: Graph, equation: Equation, x: Value) -> str:
    axes = list(equation.params["dimensions"])
    count = len(axes)
    return sliced(graph, graph.full(x), axes, (-1,) * count, (-END,) * count, [-1] * count)


def pad(graph: Graph, equation: Equation, x: Value, value: Value) -> str:
    return padded(graph, graph.full(x), equation.params["padding_config"], value)


def padded(graph: Graph, x: Value, config: Sequence[Sequence[int]], value: Input) -> str:
    """Pads axes by (low, high, interior), which may be negative or between elements."""
    name, shape = graph.name(x), list(x.shape)
    for axis, (_, _, interior) in enumerate(config):
        if interior:  # behind each element, along an axis of its own; then without the last
            wide = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
            name = graph.reshape(name, tuple(wide))
            name = _pad(graph, name, [0] * len(wide), [i == axis + 1 for i in range(len(wide))],
                        interior, value)  # fmt: skip
            size = shape[axis]
            step = interior + 1
            grown = (
                Dim(size.scale * step, size.offset * step) if isinstance(size, Dim) else size * step
            )
            shape[axis] = grown
            name = sliced(graph, graph.reshape(name, tuple(shape)), [axis], (0,), (-interior,), [1])
            shape[axis] = (
                Dim(grown.scale, grown.offset - interior)
                if isinstance(grown, Dim)
                else grown - interior
            )
    low, high = ([entry[i] for entry in config] for i in (0, 1))
    cut = [axis for axis in range(len(config)) if low[axis] < 0 or high[axis] < 0]
    if cut:
        starts = tuple(max(-low[axis], 0) for axis in cut)
        ends = tuple(min(high[axis], 0) or END for axis in cut)
        name = sliced(graph, name, cut, starts, ends, [1] * len(cut))
    if any(size > 0 for size in (*low, *high)):
        pads = [max(size, 0) for size in (*low, *high)]
        name = graph.op("Pad", name, graph.ints(pads), value)
    return name


def _pad(graph: Graph, x: str, low: list[int], high: list[bool], amount: int, value: Input) -> str:
    return graph.op("Pad", x, graph.ints([*low, *(amount * one for one in high)]), value)


def iota(graph: Graph, equation: Equation) -> Value:
    """Counts along an axis whose size may depend on the number of images."""
    shape, axis = equation.shapes[0], equation.params["dimension"]
    held: Shape = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    zero, one = np.zeros((), np.int64), np.ones((), np.int64)
    end = graph.op("Squeeze", graph.sizes((shape[axis],)))
    name = graph.cast(graph.op("Range", zero, end, one), equation.dtypes[0])
    return Value(shape, equation.dtypes[0], held, graph.reshape(name, held))


def reduction(kind: str) -> Callable[..., str]:
    """Returns the writer of a reduction over axes."""

    def write(graph: Graph, equation: Equation, x: Value) -> str:
        axes = list(equation.params["axes"])
        if not axes:
            return graph.op("Identity", graph.full(x))
        wide = widened(graph, graph.full(x))
        # ONNX Runtime adds the numbers of several axes one after another, and loses three digits
        # in a mean over an image: axis by axis, the last first.
        groups = [[axis] for axis in sorted(axes, reverse=True)] if kind == "ReduceSum" else [axes]
        made: Any = wide
        for group in groups:
            made = graph.op(kind, made, graph.ints(group), keepdims=0)
        return made if wide is x or x.dtype.kind in "fV" else graph.cast(made, equation.dtypes[0])

    return write


def extreme(kind: str) -> Callable[..., str]:
    """Returns the writer of the index of the largest or smallest value, the first of equal ones."""

    def write(graph: Graph, equation: Equation, x: Value) -> str:
        (axis,) = equation.params["axes"]
        made = graph.op(kind, widened(graph, graph.full(x)), axis=axis, keepdims=0)
        return graph.cast(made, equation.dtypes[0])

    return write


def cumsum(graph: Graph, equation: Equation, x: Value) -> str:
    axis, backward = equation.params["axis"], int(equation.params["reverse"])
    wide = widened(graph, graph.full(x))
    made = graph.op("CumSum", wide, np.asarray(axis, np.int64), reverse=backward)
    return made if x.dtype.kind in "fV" else graph.cast(made, equation.dtypes[0])


def top_k(graph: Graph, equation: Equation, x: Value) -> list[str]:
    axis = equation.params.get("axis", x.rank - 1)
    wide, count = widened(graph, graph.full(x)), graph.ints([equation.params["k"]])
    values, places = graph.op("TopK", wide, count, outputs=2, axis=axis)
    return [graph.cast(values, x.dtype), graph.cast(places, equation.dtypes[1])]


def sort(graph: Graph, equation: Equation, *inputs: Value) -> list[str]:
    """Sorts by the first input; equal values keep their order."""
    axis = equation.params["dimension"]
    if equation.params["num_keys"] != 1:
        raise Unsupported("a sort by several keys")
    keys = inputs[0]
    count = graph.sizes((keys.shape[axis],))
    wide = widened(graph, graph.full(keys))
    values, places = graph.op("TopK", wide, count, outputs=2, axis=axis, largest=0)
    made = [graph.cast(values, keys.dtype)]
    for x in inputs[1:]:
        wide = widened(graph, graph.full(x), SELECTED)
        found = graph.op("GatherElements", wide, places, axis=axis)
        made.append(graph.cast(found, x.dtype))
    return made


def tile(graph: Graph, equation: Equation, x: Value) -> str:
    return graph.op("Tile", graph.full(x), graph.ints(equation.params["reps"]))


SHAPES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "transpose": transpose,
    "tile": tile,
    "concatenate": concatenate,
    "stack": stack,
    "split": split,
    "slice": slice_,
    "rev": rev,
    "pad": pad,
    "iota": iota,
    "reduce_sum": reduction("ReduceSum"),
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_prod": reduction("ReduceProd"),
    "reduce_and": reduction("ReduceMin"),
    "reduce_or": reduction("ReduceMax"),
    "argmax": extreme("ArgMax"),
    "argmin": extreme("ArgMin"),
    "cumsum": cumsum,
    "top_k": top_k,
    "sort": sort,
}
