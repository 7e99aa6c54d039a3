"""Operations that read and write at computed places, by the name of JAX's primitive."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtadl_jax.export.onnx.elementwise import SELECTED, widened
from vtadl_jax.export.onnx.graph import Graph, Input, Shape, Size, Unsupported, Value
from vtadl_jax.export.onnx.products import transposed
from vtadl_jax.export.onnx.tracing import Equation


def _mode(equation: Equation) -> str:
    """Returns what is done about places outside: 'clip', 'fill' or nothing ('promise')."""
    return str(equation.params["mode"]).rpartition(".")[2].split("_")[0].lower()


def _range(graph: Graph, size: Size) -> Input:
    """Returns 0, 1, … size - 1, int64."""
    if isinstance(size, int):
        return np.arange(size)
    end = graph.op("Squeeze", graph.sizes((size,)))
    return graph.op("Range", np.zeros((), np.int64), end, np.ones((), np.int64))


def _along(graph: Graph, counted: Input, axis: int, rank: int) -> Input:
    """Returns values [n] as the axis of a shape of this rank, other sizes 1."""
    shape = [1] * rank
    shape[axis] = -1
    if isinstance(counted, np.ndarray):
        return counted.reshape(shape)
    return graph.op("Reshape", counted, graph.ints(shape))


class Places:
    """Where a gather reads or a scatter writes, as the last axis of one array of indices.

    The array has the axes of the indices, then one for each indexed axis of the operand whose slice
    is wider than 1. order: axes of the operand, indexed ones first. within: whether a slice is
    inside, None if that is known.
    """

    def __init__(
        self, graph: Graph, operand: Value, indices: Value, numbers: Any, sizes: Sequence[int],
        mode: str,
    ):  # fmt: skip
        mapped, batching = list(numbers.start_index_map), list(numbers.operand_batching_dims)
        at = list(numbers.start_indices_batching_dims)
        self.indexed = [*batching, *mapped]
        rest = [axis for axis in range(operand.rank) if axis not in self.indexed]
        for axis in rest:
            if sizes[axis] != operand.shape[axis]:
                raise Unsupported("a gather or scatter of parts of an axis that is not indexed")
        self.order = [*self.indexed, *rest]
        self.wide = [axis for axis in self.indexed if sizes[axis] > 1]
        outer = indices.rank - 1
        rank = outer + len(self.wide)
        starts, self.within = self._starts(graph, operand, indices, mapped, sizes, mode)
        parts: list[Input] = []
        for axis, place in zip(batching, at, strict=True):
            parts.append(_along(graph, _range(graph, operand.shape[axis]), place, rank))
        for number, axis in enumerate(mapped):
            first: Input = graph.op("Gather", starts, np.asarray(number, np.int64), axis=outer)
            if self.wide:
                first = graph.op(
                    "Unsqueeze", first, graph.ints([outer + i for i in range(len(self.wide))])
                )
            if axis in self.wide:
                grid = np.arange(sizes[axis])
                first = graph.op(
                    "Add", first, _along(graph, grid, outer + self.wide.index(axis), rank)
                )
            parts.append(first)
        self.shape: Shape = (*indices.shape[:outer], *(sizes[axis] for axis in self.wide))
        size = graph.sizes(self.shape)
        last = graph.ints([rank])
        whole = [graph.op("Unsqueeze", graph.op("Expand", part, size), last) for part in parts]
        self.index = graph.op("Concat", *whole, axis=rank)

    def _starts(
        self, graph: Graph, operand: Value, indices: Value, mapped: list[int],
        sizes: Sequence[int], mode: str,
    ) -> tuple[str, str | None]:  # fmt: skip
        starts = graph.cast(graph.full(indices), np.int64)
        limits = []
        for axis in mapped:
            size = operand.shape[axis]
            if not isinstance(size, int):
                raise Unsupported("indices into the axis of images")
            limits.append(size - sizes[axis])
        top, zero = np.array(limits, np.int64), np.zeros((), np.int64)
        if mode.startswith("promise"):
            return starts, None
        held = graph.op("Min", graph.op("Max", starts, zero), top)
        if mode == "clip":
            return held, None
        same = graph.cast(graph.op("Equal", held, starts), np.int32)
        inside = graph.op("ReduceMin", same, graph.ints([indices.rank - 1]), keepdims=0)
        return held, graph.cast(inside, np.bool_)


def _rows(graph: Graph, equation: Equation, operand: Value, indices: Value) -> str | None:
    """Writes a gather of single places of one axis as `Gather`; None for others."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = numbers.start_index_map
    size, others = operand.shape[axis], [a for a in range(operand.rank) if a != axis]
    if any(sizes[a] != operand.shape[a] for a in others) or not isinstance(size, int):
        return None
    if sizes[axis] != 1 or numbers.collapsed_slice_dims != (axis,):
        return None
    mode, index = _mode(equation), indices.array
    if index is not None:
        index = np.broadcast_to(index, indices.shape)[..., 0].astype(np.int64)  # type: ignore[arg-type]
        if mode == "clip":
            index = np.clip(index, 0, size - 1)
        elif ((index < 0) | (index >= size)).any():
            return None
        places: Input = index
    else:
        if mode == "fill":
            return None
        wide = graph.cast(graph.full(indices), np.int64)
        wide = graph.op("Squeeze", wide, graph.ints([indices.rank - 1]))
        places = wide
        if mode == "clip":
            least = graph.op("Max", wide, np.zeros((), np.int64))
            places = graph.op("Min", least, np.asarray(size - 1, np.int64))
    made = graph.op("Gather", graph.full(operand), places, axis=axis)
    outer, rank = indices.rank - 1, len(equation.shapes[0])
    # There are [axes before, axes of the indices…, axes after].
    offsets = list(numbers.offset_dims)
    batch = [a for a in range(rank) if a not in offsets]
    order = [0] * rank
    for number, place in enumerate(batch):
        order[place] = axis + number
    for other, place in zip(others, offsets, strict=True):
        order[place] = other if other < axis else other - 1 + outer
    return graph.name(transposed(graph, made, order))


def gather(graph: Graph, equation: Equation, operand: Value, indices: Value) -> str:
    """Writes a gather: `Gather` for whole rows of an axis, `GatherND` otherwise."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    dtype = equation.dtypes[0]
    if (made := _rows(graph, equation, operand, indices)) is not None:
        return made
    places = Places(graph, operand, indices, numbers, sizes, _mode(equation))
    source = widened(graph, graph.full(operand), SELECTED)
    if isinstance(source, np.ndarray):
        source = Value(operand.shape, source.dtype, source.shape, array=source)
    made = graph.op("GatherND", transposed(graph, source, places.order), places.index)
    outer, rank = indices.rank - 1, len(equation.shapes[0])
    rest = [axis for axis in places.order if axis not in places.indexed]
    # What there is: [axes of the indices…, wide indexed axes…, other axes…].
    kept = [*places.wide, *rest]
    offsets = list(numbers.offset_dims)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windows = [axis for axis in range(operand.rank) if axis not in gone]
    narrow = [axis for axis in windows if axis not in kept]  # indexed, of size 1, kept
    if narrow:
        place = [outer + len(kept) + i for i in range(len(narrow))]
        made = graph.op("Unsqueeze", made, graph.ints(place))
        kept += narrow
    batch = [axis for axis in range(rank) if axis not in offsets]
    order = [0] * rank
    for source_axis, axis in enumerate(batch):
        order[axis] = source_axis
    for axis, window in zip(offsets, windows, strict=True):
        order[axis] = outer + kept.index(window)
    made = graph.name(transposed(graph, made, order))
    if places.within is not None:
        fill = equation.params.get("fill_value")
        if fill is None:
            fill = np.nan if dtype.kind == "f" else 0
        sizes_out = equation.shapes[0]
        shape = tuple(sizes_out[axis] if axis in batch else 1 for axis in range(rank))
        inside = graph.reshape(places.within, shape)
        kind = SELECTED.get(dtype.name, dtype)
        made = graph.op("Where", inside, made, np.asarray(fill, kind))
    return graph.cast(made, dtype) if SELECTED.get(dtype.name, dtype) != dtype else made


def _clamped(graph: Graph, start: Value, limit: Size) -> str:
    wide = graph.op("Reshape", graph.cast(start, np.int64), graph.ints([1]))
    if not isinstance(limit, int):
        raise Unsupported("a slice that moves along the axis of images")
    least = graph.op("Max", wide, np.zeros(1, np.int64))
    return graph.op("Min", least, np.array([limit], np.int64))


def dynamic_slice(graph: Graph, equation: Equation, x: Value, *starts: Value) -> str:
    sizes = equation.params["slice_sizes"]
    axes = [axis for axis in range(x.rank) if sizes[axis] != x.shape[axis]]
    if not axes:
        return graph.op("Identity", graph.full(x))
    first = [_clamped(graph, starts[a], x.shape[a] - sizes[a]) for a in axes]
    begin = graph.op("Concat", *first, axis=0)
    end = graph.op("Add", begin, graph.ints([sizes[axis] for axis in axes]))
    return graph.op("Slice", graph.full(x), begin, end, graph.ints(axes))


def dynamic_update_slice(
    graph: Graph, equation: Equation, x: Value, update: Value, *starts: Value
) -> str:
    """Writes a part of an array along one axis, whole along the others."""
    axes = [axis for axis in range(x.rank) if update.shape[axis] != x.shape[axis]]
    if len(axes) > 1:
        raise Unsupported("an update of an array along several axes")
    if not axes:
        return graph.op("Identity", graph.full(update))
    (axis,) = axes
    size, whole = update.shape[axis], x.shape[axis]
    if not (isinstance(size, int) and isinstance(whole, int)):
        raise Unsupported("an update along the axis of images")
    begin, place = _clamped(graph, starts[axis], whole - size), graph.ints([axis])
    end = graph.op("Add", begin, graph.ints([size]))
    full = graph.full(x)
    before = graph.op("Slice", full, graph.ints([0]), begin, place)
    after = graph.op("Slice", full, end, graph.ints([whole]), place)
    return graph.op("Concat", before, graph.full(update), after, axis=axis)


class _ScatterNumbers:
    """The dimension numbers of a scatter under the names of a gather's."""

    def __init__(self, numbers: Any):
        self.start_index_map = numbers.scatter_dims_to_operand_dims
        self.operand_batching_dims = numbers.operand_batching_dims
        self.start_indices_batching_dims = numbers.scatter_indices_batching_dims


def scatter(reduce: str) -> Callable[..., str]:
    """Returns the writer of a scatter that replaces ('none') or adds ('add') values."""

    def write(
        graph: Graph, equation: Equation, operand: Value, indices: Value, updates: Value
    ) -> str:
        numbers, mode = equation.params["dimension_numbers"], _mode(equation)
        gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
        windows = [axis for axis in range(operand.rank) if axis not in gone]
        sizes: list[Any] = [1] * operand.rank
        for axis, window in zip(numbers.update_window_dims, windows, strict=True):
            sizes[window] = updates.shape[axis]
        if mode == "fill" and indices.array is not None:
            mode = _checked(operand, indices, numbers, sizes)
        places = Places(graph, operand, indices, _ScatterNumbers(numbers), sizes, mode)
        if places.within is not None:
            raise Unsupported("a scatter to places that may be outside")
        rest = [axis for axis in places.order if axis not in places.indexed]
        at = dict(zip(windows, numbers.update_window_dims, strict=True))
        outer = [a for a in range(updates.rank) if a not in numbers.update_window_dims]
        order = [*outer, *(at[axis] for axis in places.wide), *(at[axis] for axis in rest)]
        narrow = [at[axis] for axis in windows if axis not in (*places.wide, *rest)]
        moved = transposed(graph, graph.full(updates), [*order, *narrow])
        if narrow:
            moved = graph.reshape(moved, tuple(updates.shape[axis] for axis in order))
        target = transposed(graph, graph.full(operand), places.order)
        made = graph.op("ScatterND", target, places.index, moved, reduction=reduce)
        back = np.argsort(places.order).tolist()
        return graph.name(transposed(graph, made, back))

    return write


def _checked(operand: Value, indices: Value, numbers: Any, sizes: list[Any]) -> str:
    """Returns 'promise' if all known indices are inside, else 'fill'."""
    mapped = numbers.scatter_dims_to_operand_dims
    limits = [operand.shape[axis] - sizes[axis] for axis in mapped]
    starts = np.asarray(indices.array)
    return "promise" if ((starts >= 0) & (starts <= limits)).all() else "fill"


INDEXING: dict[str, Callable[..., Any]] = {
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "scatter": scatter("none"),
    "scatter-add": scatter("add"),
    "scatter_add": scatter("add"),
}
