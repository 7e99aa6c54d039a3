"""Convolutions, matrix products and windows, by the name of JAX's primitive."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtadl_jax.export.onnx.graph import Dim, Graph, Input, Shape, Size, Unsupported, Value, known
from vtadl_jax.export.onnx.shapes import padded
from vtadl_jax.export.onnx.tracing import Equation


def transposed(graph: Graph, x: Input, order: Sequence[int]) -> Input:
    """Writes a transposition, of a constant at once, and none for axes that stay."""
    if list(order) == list(range(len(order))):
        return x
    if isinstance(x, Value) and x.array is not None:
        array = np.ascontiguousarray(x.array.transpose(order))
        return known(array)
    return graph.op("Transpose", x, perm=list(order))


def product(sizes: Sequence[Size]) -> Size:
    """Returns the product of sizes, of which at most one depends on the number of images."""
    made: Size = 1
    for size in sizes:
        if isinstance(size, Dim):
            if isinstance(made, Dim):
                raise Unsupported("a size that grows with the square of the number of images")
            made = Dim(size.scale * made, size.offset * made)
        elif isinstance(made, Dim):
            made = Dim(made.scale * size, made.offset * size)
        else:
            made *= size
    return made


def dot_general(graph: Graph, equation: Equation, left: Value, right: Value) -> str:
    """Writes a product of matrices: axes [batch…, rows…, summed…] and [batch…, summed…, rows…]."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (_float(graph, graph.full(x), equation) for x in (left, right))
    left_free = [a for a in range(left.rank) if a not in (*left_sum, *left_batch)]
    right_free = [a for a in range(right.rank) if a not in (*right_sum, *right_batch)]

    def arranged(x: Value, *groups: Sequence[int]) -> Input:
        order = [axis for group in groups for axis in group]
        shape = [x.shape[axis] for axis in groups[0]]
        shape += [product([x.shape[axis] for axis in group]) for group in groups[1:]]
        moved = transposed(graph, x, order)
        if all(len(group) == 1 for group in groups[1:]):
            return moved
        if isinstance(moved, Value) and moved.array is not None:
            return known(moved.array.reshape(shape))
        return graph.reshape(moved, tuple(shape))

    if not left_batch and len(left_sum) == 1 and left_free and left_sum[0] == left.rank - 1:
        a: Input = left  # MatMul takes any number of leading axes
    else:
        a = arranged(left, left_batch, left_free, left_sum)
    b = arranged(right, right_batch, right_sum, right_free)
    made = graph.op("MatMul", a, b)
    sizes = [x.shape[axis] for x, axes in ((left, [*left_batch, *left_free]), (right, right_free))
             for axis in axes]  # fmt: skip
    plain = a is left and len(right_free) == 1
    if not plain and not len(left_free) == len(right_free) == 1:
        made = graph.reshape(made, tuple(sizes))
    dtype = equation.dtypes[0]
    return made if left.dtype == dtype or dtype.kind == "V" else graph.cast(made, dtype)


def _float(graph: Graph, x: Value, equation: Equation) -> Value:
    """Returns a factor in a type that sums are exact enough in: that of the result for float16."""
    dtype = equation.dtypes[0]
    if x.dtype == dtype or dtype.kind != "f" or x.dtype == np.float16:
        return x
    if x.array is not None:
        return known(x.array.astype(dtype))
    return Value(x.shape, dtype, x.held, graph.cast(x, dtype))


def conv_general_dilated(graph: Graph, equation: Equation, images: Value, kernel: Value) -> str:
    """Writes a convolution, between transpositions to ONNX's order of axes [N, C, …]."""
    params = equation.params
    numbers, padding = params["dimension_numbers"], [tuple(p) for p in params["padding"]]
    strides, holes = list(params["window_strides"]), list(params["rhs_dilation"])
    spread, groups = list(params["lhs_dilation"]), params["feature_group_count"]
    if params["batch_group_count"] != 1:
        raise Unsupported("a convolution with groups of images")
    x = transposed(graph, graph.full(images), numbers.lhs_spec)
    w = transposed(graph, graph.full(kernel), numbers.rhs_spec)
    shape = tuple(images.shape[axis] for axis in numbers.lhs_spec)
    window = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    reach = [(size - 1) * hole for size, hole in zip(window, holes, strict=True)]
    common = {"dilations": holes, "group": groups}
    ends = [[r - low, r - high] for r, (low, high) in zip(reach, padding, strict=True)]
    fits = all(end >= 0 for pair in ends for end in pair)
    if max(spread) > 1 and max(strides) == groups == 1 and fits and kernel.array is not None:
        assert isinstance(w, Value)
        assert w.array is not None
        axes = tuple(range(2, w.array.ndim))
        flipped = np.ascontiguousarray(np.flip(w.array, axes).swapaxes(0, 1))
        pads = [pair[i] for i in (0, 1) for pair in ends]
        made = graph.op("ConvTranspose", x, flipped, strides=spread, pads=pads, **common)
    else:
        if max(spread) > 1 or min(size for pair in padding for size in pair) < 0:
            zero = np.zeros((), images.dtype)
            config = [(0, 0, 0)] * 2
            config += [(*p, s - 1) for p, s in zip(padding, spread, strict=True)]
            wide = Value(shape, images.dtype, shape, graph.name(x))
            x, padding = padded(graph, wide, config, zero), [(0, 0)] * len(padding)
        pads = [pair[i] for i in (0, 1) for pair in padding]
        made = graph.op("Conv", x, w, strides=strides, pads=pads, **common)
    order = np.argsort(numbers.out_spec).tolist()
    return graph.name(transposed(graph, made, order))


def reduce_window(kind: str) -> Callable[..., str]:
    """Returns the writer of the largest value, smallest value or sum of each window."""

    def write(graph: Graph, equation: Equation, x: Value) -> str:
        params = equation.params
        window, padding = params["window_dimensions"], params["padding"]
        if max(params["base_dilation"]) > 1 or x.dtype.kind not in "fV":
            raise Unsupported(f"{equation.kind} of spread or integer values")
        rank = x.rank
        inner = [
            axis
            for axis in range(rank)
            if window[axis] > 1 or params["window_strides"][axis] > 1 or any(padding[axis])
        ]
        if not inner:
            return graph.op("Identity", graph.full(x))
        outer = [axis for axis in range(rank) if axis not in inner]
        moved = transposed(graph, graph.full(x), [*outer, *inner])
        rows = product([x.shape[axis] for axis in outer])
        flat = graph.reshape(moved, (rows, 1, *(x.shape[axis] for axis in inner)))
        settings = {
            "strides": [params["window_strides"][axis] for axis in inner],
            "dilations": [params["window_dilation"][axis] for axis in inner],
            "pads": [padding[axis][i] for i in (0, 1) for axis in inner],
        }
        size = [window[axis] for axis in inner]
        made = _windows(graph, kind, flat, size, settings, x.dtype)
        sizes: Shape = tuple(equation.shapes[0][axis] for axis in (*outer, *inner))
        made = graph.reshape(made, sizes)
        return graph.name(transposed(graph, made, np.argsort([*outer, *inner]).tolist()))

    return write


def _windows(
    graph: Graph, kind: str, x: str, size: list[int], settings: dict[str, Any], dtype: np.dtype
) -> str:
    if kind == "sum":
        return graph.op("Conv", x, np.ones((1, 1, *size), dtype), **settings)
    if kind == "min":
        most = graph.op("MaxPool", graph.op("Neg", x), kernel_shape=size, **settings)
        return graph.op("Neg", most)
    return graph.op("MaxPool", x, kernel_shape=size, **settings)


def triangular_solve(graph: Graph, equation: Equation, matrix: Value, right: Value) -> str:
    """Writes a product with the inverse of a known matrix, which numpy computes in float64."""
    params = equation.params
    if matrix.array is None:
        raise Unsupported("triangular_solve of a matrix that depends on the image")
    full = graph.full(matrix).array
    assert full is not None
    exact = (np.tril if params["lower"] else np.triu)(full.astype(np.float64))
    if params["unit_diagonal"]:
        exact = exact - exact * np.eye(exact.shape[-1]) + np.eye(exact.shape[-1])
    inverse = np.linalg.inv(exact)
    if params["transpose_a"]:
        inverse = inverse.swapaxes(-1, -2)
    known_inverse = inverse.astype(matrix.dtype)
    full_right = graph.full(right)
    pair = (known_inverse, full_right) if params["left_side"] else (full_right, known_inverse)
    return graph.op("MatMul", *pair)


PRODUCTS: dict[str, Callable[..., Any]] = {
    "dot_general": dot_general,
    "conv_general_dilated": conv_general_dilated,
    "reduce_window_max": reduce_window("max"),
    "reduce_window_min": reduce_window("min"),
    "reduce_window_sum": reduce_window("sum"),
    "triangular_solve": triangular_solve,
}
