"""Chooses between implementations of an operation by the platform that its program runs on."""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vtadl_jax.errors import UserError

PACKAGE = "vtadl_jax"
# The platform of the programs traced in its context. Tracing depends on it, so that jitted
# functions inside are traced again for another platform.
_platform = jax.make_user_context(default_value=None)
_overrides = jax.make_user_context(default_value=None)


class Overrides:
    """Implementations that a study of compiled programs chose: file → 'cpu', 'tpu', 'default'.

    used: the files in which an operation was traced. Compared by identity.
    """

    def __init__(self, kinds: Mapping[str, str]):
        self.kinds, self.used = dict(kinds), set[str]()


def by_platform(*args: Any, default: Callable, **implementations: Callable) -> Any:
    """Returns the result of the implementation for the platform: 'cpu', 'tpu', else `default`.

    The platform is that of `on_platform`. Outside, all implementations are traced and the compiler
    keeps one (`jax.lax.platform_dependent`): the same numbers, but it traces twice as long.
    Raises UserError for an override that the operation does not have.
    """
    overrides = _overrides.value
    if overrides is not None:
        file = sys._getframe(1).f_globals["__name__"].removeprefix(f"{PACKAGE}.")
        if file in overrides.kinds:
            overrides.used.add(file)
            kind, known = overrides.kinds[file], {**implementations, "default": default}
            if kind not in known:
                raise UserError(f"--implementations {file}={kind}: it has {', '.join(known)}")
            return known[kind](*args)
    if _platform.value is None:
        return jax.lax.platform_dependent(*args, default=default, **implementations)
    return implementations.get(_platform.value, default)(*args)


def on_platform(platform: str, function: Callable) -> Callable:
    """Returns the function, traced for one platform: 'cpu', 'gpu', 'tpu' or 'onnx'."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with _platform(platform):
            return function(*args, **kwargs)

    return traced


def split_by_size() -> bool:
    """Whether operations may split their work by the number of rows, to bound their memory.

    Not in an ONNX file, whose number of images is open: its operations take all rows at once.
    """
    return _platform.value != "onnx"


def overriding(overrides: Overrides) -> Any:
    """Returns a context in which operations use the implementations of `overrides`."""
    return _overrides(overrides)
