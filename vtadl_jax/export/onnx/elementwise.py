"""Operations on each element, by the name of JAX's primitive.

Values are left as they are held: ONNX operators broadcast as numpy does.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vtadl_jax.export.onnx.graph import Graph, Input, Value, broadcast
from vtadl_jax.export.onnx.tracing import Equation

# ONNX Runtime has arithmetic of few integer types; others are computed in these.
WIDER: dict[str, Any] = {}
WIDER |= dict.fromkeys(("bool", "int8", "int16", "uint8", "uint16"), np.int32)
WIDER |= dict.fromkeys(("uint32", "uint64"), np.int64)
SELECTED = {**WIDER, "uint8": np.uint8, "bool": np.uint8}


def widened(graph: Graph, value: Value, wider: dict[str, Any] = WIDER) -> Input:
    """Returns a value in a type that operators take."""
    if value.dtype.name not in wider or wider[value.dtype.name] == value.dtype:
        return value
    if value.array is not None:
        return value.array.astype(wider[value.dtype.name])
    return graph.cast(value, wider[value.dtype.name])


def scalar(value: Value, number: float) -> np.ndarray:
    """Returns a number in the type of a value."""
    return np.asarray(number, "float32" if value.dtype.name == "bfloat16" else value.dtype)


def node(kind: str, **attributes: Any) -> Callable[..., str]:
    """Returns the writer of an operation that ONNX has, too."""
    return lambda graph, equation, *inputs: graph.op(kind, *inputs, **attributes)


def in_wider(write: Callable[..., str]) -> Callable[..., str]:
    """Returns the writer with integers widened and, if the result is one, narrowed again."""

    def wide(graph: Graph, equation: Equation, *inputs: Value) -> str:
        made = write(graph, equation, *(widened(graph, value) for value in inputs))
        dtype = equation.dtypes[0]
        compared = dtype == np.bool_ and write in COMPARED
        return made if dtype.name not in WIDER or compared else graph.cast(made, dtype)

    return wide


def _logical(boolean: str, bitwise: str) -> Callable[..., str]:
    def write(graph: Graph, equation: Equation, *inputs: Value) -> str:
        return graph.op(boolean if equation.dtypes[0] == np.bool_ else bitwise, *inputs)

    return write


def _ne(graph: Graph, equation: Equation, a: Input, b: Input) -> str:
    return graph.op("Not", graph.op("Equal", a, b))


def _rsqrt(graph: Graph, equation: Equation, x: Value) -> str:
    return graph.op("Div", scalar(x, 1), graph.op("Sqrt", x))


def _integer_pow(graph: Graph, equation: Equation, x: Input) -> str:
    power = int(equation.params["y"])
    made: Input = x
    if power == 0 or abs(power) > 8:
        of = equation.dtypes[0]
        return graph.op("Pow", x, np.asarray(power, np.float32 if of.kind in "fV" else np.int64))
    for _ in range(abs(power) - 1):
        made = graph.op("Mul", made, x)
    if power < 0:
        return graph.op("Reciprocal", made)
    return graph.op("Identity", made) if made is x else str(made)


def _log1p(graph: Graph, equation: Equation, x: Value) -> str:
    # log(1 + x) · x / ((1 + x) - 1), which corrects the rounding of 1 + x.
    one, infinite = scalar(x, 1), scalar(x, np.inf)
    grown = graph.op("Add", x, one)
    ratio = graph.op("Div", x, graph.op("Sub", grown, one))
    exact = graph.op("Mul", graph.op("Log", grown), ratio)
    plain = graph.op("Or", graph.op("Equal", grown, one), graph.op("Equal", grown, infinite))
    return graph.op("Where", plain, x, exact)


def _expm1(graph: Graph, equation: Equation, x: Value) -> str:
    # (e^x - 1) · x / log(e^x), which corrects the rounding of e^x near 1.
    one, half = scalar(x, 1), scalar(x, 0.5)
    grown = graph.op("Exp", x)
    less = graph.op("Sub", grown, one)
    near = graph.op("Less", graph.op("Abs", x), half)
    safe = graph.op("Where", near, grown, scalar(x, 2))
    exact = graph.op("Mul", less, graph.op("Div", x, graph.op("Log", safe)))
    far = graph.op("Where", near, exact, less)
    return graph.op("Where", graph.op("Equal", grown, one), x, far)


def _erfc(graph: Graph, equation: Equation, x: Value) -> str:
    return graph.op("Sub", scalar(x, 1), graph.op("Erf", x))


def _is_finite(graph: Graph, equation: Equation, x: Value) -> str:
    odd = graph.op("Or", graph.op("IsInf", x), graph.op("IsNaN", x))
    return graph.op("Not", odd)


def _round(graph: Graph, equation: Equation, x: Value) -> str:
    if int(equation.params["rounding_method"]) == int(jax.lax.RoundingMethod.TO_NEAREST_EVEN):
        return graph.op("Round", x)
    size = graph.op("Floor", graph.op("Add", graph.op("Abs", x), scalar(x, 0.5)))
    return graph.op("Mul", size, graph.op("Sign", x))


def _clamp(graph: Graph, equation: Equation, low: Input, x: Input, high: Input) -> str:
    return graph.op("Min", graph.op("Max", x, low), high)


def _rem(graph: Graph, equation: Equation, a: Input, b: Input) -> str:
    return graph.op("Mod", a, b, fmod=1)


def _exp2(graph: Graph, equation: Equation, x: Value) -> str:
    return graph.op("Exp", graph.op("Mul", x, scalar(x, np.log(2))))


def _select_n(graph: Graph, equation: Equation, which: Value, *cases: Value) -> str:
    values = [widened(graph, case, SELECTED) for case in cases]
    if which.dtype == np.bool_:
        made = graph.op("Where", which, values[1], values[0])
    else:
        made = graph.name(values[0])
        for number, value in enumerate(values[1:], 1):
            here = graph.op("Equal", which, scalar(which, number))
            made = graph.op("Where", here, value, made)
    dtype = equation.dtypes[0]
    return graph.cast(made, dtype) if SELECTED.get(dtype.name, dtype) != dtype else made


def _convert(graph: Graph, equation: Equation, x: Value) -> str:
    dtype = equation.dtypes[0]
    if dtype == np.bool_:  # ONNX Runtime's cast of 0.5 would do, of NaN not
        return _ne(graph, equation, widened(graph, x), np.zeros((), np.asarray(0, x.dtype).dtype))
    return graph.cast(x, dtype)


def _power_of_two(graph: Graph, equation: Equation, places: Input) -> str:
    dtype = equation.dtypes[0]
    of = WIDER.get(dtype.name, dtype)
    return graph.op("Pow", np.asarray(2, of), graph.cast(places, of))


def _shift_right(graph: Graph, equation: Equation, x: Input, places: Input) -> str:
    # Floor division by a power of two: ONNX's own shifts are of unsigned integers only.
    power = _power_of_two(graph, equation, places)
    rest = graph.op("Mod", x, power)
    return graph.op("Div", graph.op("Sub", x, rest), power)


def _shift_left(graph: Graph, equation: Equation, x: Input, places: Input) -> str:
    return graph.op("Mul", x, _power_of_two(graph, equation, places))


_less, _less_equal = node("Less"), node("LessOrEqual")
_greater, _greater_equal, _equal = node("Greater"), node("GreaterOrEqual"), node("Equal")
COMPARED = (_less, _less_equal, _greater, _greater_equal, _equal, _ne)

ELEMENTWISE: dict[str, Callable[..., str]] = {
    "add": in_wider(node("Add")),
    "add_any": in_wider(node("Add")),
    "sub": in_wider(node("Sub")),
    "mul": in_wider(node("Mul")),
    "div": in_wider(node("Div")),
    "rem": in_wider(_rem),
    "max": in_wider(node("Max")),
    "min": in_wider(node("Min")),
    "clamp": in_wider(_clamp),
    "neg": in_wider(node("Neg")),
    "abs": in_wider(node("Abs")),
    "sign": in_wider(node("Sign")),
    "square": in_wider(lambda graph, equation, x: graph.op("Mul", x, x)),
    "integer_pow": in_wider(_integer_pow),
    "pow": node("Pow"),
    "sqrt": node("Sqrt"),
    "rsqrt": _rsqrt,
    "exp": node("Exp"),
    "exp2": _exp2,
    "expm1": _expm1,
    "log": node("Log"),
    "log1p": _log1p,
    "logistic": node("Sigmoid"),
    "tanh": node("Tanh"),
    "sin": node("Sin"),
    "cos": node("Cos"),
    "erf": node("Erf"),
    "erfc": _erfc,
    "floor": node("Floor"),
    "ceil": node("Ceil"),
    "round": _round,
    "is_finite": _is_finite,
    "lt": in_wider(_less),
    "le": in_wider(_less_equal),
    "gt": in_wider(_greater),
    "ge": in_wider(_greater_equal),
    "lt_to": in_wider(_less),
    "le_to": in_wider(_less_equal),
    "eq": in_wider(_equal),
    "ne": in_wider(_ne),
    "eq_to": in_wider(_equal),
    "and": _logical("And", "BitwiseAnd"),
    "or": _logical("Or", "BitwiseOr"),
    "xor": _logical("Xor", "BitwiseXor"),
    "not": _logical("Not", "BitwiseNot"),
    "select_n": _select_n,
    "convert_element_type": _convert,
    "shift_right_arithmetic": in_wider(_shift_right),
    "shift_left": in_wider(_shift_left),
    "reduce_precision": node("Identity"),
}
# What only marks a value: the number, the order or the gradient of it are as before.
UNCHANGED = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "device_put", "pvary")


def elementwise(graph: Graph, equation: Equation, *inputs: Value) -> Value:
    """Writes an operation on each element and returns its value, held as its inputs are."""
    name = ELEMENTWISE[equation.kind](graph, equation, *inputs)
    held = broadcast(*(value.held for value in inputs))
    held = (1,) * (len(equation.shapes[0]) - len(held)) + held
    return Value(equation.shapes[0], equation.dtypes[0], held, name)
