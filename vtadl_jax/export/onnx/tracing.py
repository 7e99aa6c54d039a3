"""Traces a function for two numbers of images and reads off what depends on it. No ONNX here."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from vtadl_jax.export.onnx.graph import Dim, Shape, Unsupported

# Sizes differ between the two traces where they depend on the number of images.
SIZES = (3, 5)


class Pair(NamedTuple):
    """A program (jaxpr) as traced for either number of images."""

    first: Any
    second: Any


class Equation(NamedTuple):
    """An operation of a program: its name, parameters, and its outputs' shapes and dtypes.

    inputs, outputs: variables of the first trace. part: the modules of the package that it comes
    from, innermost first.
    """

    kind: str
    params: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]
    shapes: list[Shape]
    dtypes: list[np.dtype]
    part: tuple[str, ...]


def trace(function: Callable, images: jax.ShapeDtypeStruct, *fixed: Any) -> tuple[Pair, Any]:
    """Returns the traced programs and the tree of outputs of function(images, *fixed).

    images: uint8 [1, H, W, C] or what stands for it; its first axis is replaced.
    """
    made = []
    for count in SIZES:
        several = jax.ShapeDtypeStruct((count, *images.shape[1:]), images.dtype)
        made.append(jax.make_jaxpr(function, return_shape=True)(several, *fixed))
    (first, tree), (second, _) = made
    return Pair(first, second), tree


def merged(one: Any, other: Any, what: str) -> Any:
    """Returns a parameter that stands for both traces'. Raises Unsupported if none does."""
    if hasattr(one, "eqns") or hasattr(one, "jaxpr"):
        return Pair(one, other)
    if isinstance(one, int | np.integer) and not isinstance(one, bool):
        return merged_size(int(one), int(other))
    if isinstance(one, tuple | list) and len(one) == len(other) and not hasattr(one, "_fields"):
        return tuple(merged(a, b, what) for a, b in zip(one, other, strict=True))
    return one


def merged_size(one: int, other: int) -> int | Dim:
    if one == other:
        return one
    scale, rest = divmod(other - one, SIZES[1] - SIZES[0])
    if rest:
        raise Unsupported("a size that does not grow evenly with the number of images")
    return Dim(scale, one - scale * SIZES[0])


def merged_shape(one: Any, other: Any) -> Shape:
    """Returns the shape of a value from those in both traces."""
    return tuple(merged_size(a, b) for a, b in zip(one.shape, other.shape, strict=True))


def dtype_of(aval: Any) -> np.dtype:
    """Returns the dtype of an array. Raises Unsupported for random keys."""
    try:
        return np.dtype(aval.dtype)
    except TypeError as error:
        raise Unsupported(f"values of type {aval.dtype}") from error


def equations(program: Pair) -> Iterator[Equation]:
    """Yields the operations of a program. Raises Unsupported where the traces differ."""
    first, second = (getattr(p, "jaxpr", p) for p in program)
    if len(first.eqns) != len(second.eqns):
        raise Unsupported("a program that depends on the number of images")
    for one, other in zip(first.eqns, second.eqns, strict=True):
        kind = one.primitive.name
        if kind != other.primitive.name:
            raise Unsupported("a program that depends on the number of images")
        if len(one.invars) != len(other.invars):
            raise Unsupported("a program that depends on the number of images")
        for a, b in zip(one.invars, other.invars, strict=True):
            if isinstance(a, core.Literal) and not np.array_equal(a.val, b.val, equal_nan=True):
                raise Unsupported(f"{kind} with a constant that depends on the number of images")
        yield Equation(
            kind,
            _params(one, other),
            list(one.invars),
            list(one.outvars),
            [merged_shape(a.aval, b.aval) for a, b in zip(one.outvars, other.outvars, strict=True)],
            [dtype_of(v.aval) for v in one.outvars],
            modules_of(one),
        )


def _params(one: Any, other: Any) -> dict[str, Any]:
    kind = one.primitive.name
    if kind == "call_hi_primitive":  # from jax 0.12 on: an operation that says what it stands for
        return {"jaxpr": Pair(_expanded(one), _expanded(other))}
    return {k: merged(v, other.params[k], f"{kind} {k}") for k, v in one.params.items()}


def _expanded(equation: Any) -> Any:
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    return jax.make_jaxpr(equation.params["_prim"].expand)(*avals)


def modules_of(equation: Any) -> tuple[str, ...]:
    """Returns the package's modules that an operation was called from, innermost first."""
    traceback = equation.source_info.traceback
    if traceback is None:
        return ()
    names = [frame.file_name.replace("\\", "/") for frame in traceback.frames]
    inside = [name.rpartition("/vtadl_jax/")[2] for name in names if "/vtadl_jax/" in name]
    return tuple(name.removesuffix(".py") for name in inside)
