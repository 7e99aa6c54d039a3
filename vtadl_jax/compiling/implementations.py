"""Lowers a step with other implementations of its operations than the target's own.

Operations with one implementation per platform choose by `ops.platform.by_platform`. Here the
choice of a file is overridden by name: {'ops.ssim': 'cpu'}.
"""

import contextlib
from collections.abc import Iterator, Mapping

from vtadl_jax.errors import UserError
from vtadl_jax.ops.platform import Overrides, overriding


def parse(text: str) -> dict[str, str]:
    """Parses 'ops.ssim=cpu,networks.decoder=default' into the argument of `chosen`.

    Raises UserError for an entry without '='.
    """
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if bad := [name for name, _, kind in pairs if not kind]:
        raise UserError(f"--implementations {bad[0]!r}: give FILE=KIND, as ops.ssim=cpu")
    return {name: kind for name, _, kind in pairs}


@contextlib.contextmanager
def chosen(implementations: Mapping[str, str]) -> Iterator[None]:
    """Makes operations traced in its context use the named ones: file → 'cpu', 'tpu', 'default'.

    Raises UserError for a kind that a file does not have and, on exit, for a file in which the step
    chooses no implementation.
    """
    overrides = Overrides(implementations)
    with overriding(overrides):
        yield
    if unused := implementations.keys() - overrides.used:
        raise UserError(
            f"--implementations {min(unused)}: this step chooses no implementation in that file"
        )
