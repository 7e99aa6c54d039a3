"""Lowers a step with other implementations of its operations than the target's own.

Operations with one implementation per platform choose by `jax.lax.platform_dependent` when a
program is lowered. Here the choice of a file is overridden by name: {'ops.ssim': 'cpu'}.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping

import jax

from vtadl_jax.errors import UserError

PACKAGE = "vtadl_jax"


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
    real, used = jax.lax.platform_dependent, set()

    def choose(*args, default=None, **by_platform):
        caller = sys._getframe(1).f_globals["__name__"].removeprefix(f"{PACKAGE}.")
        if caller not in implementations:
            return real(*args, default=default, **by_platform)
        kind = implementations[caller]
        known = {**by_platform, **({"default": default} if default else {})}
        if kind not in known:
            raise UserError(f"--implementations {caller}={kind}: it has {', '.join(known)}")
        used.add(caller)
        return known[kind](*args)

    jax.lax.platform_dependent = choose
    try:
        yield
    finally:
        jax.lax.platform_dependent = real
    if unused := implementations.keys() - used:
        raise UserError(
            f"--implementations {min(unused)}: this step chooses no implementation in that file"
        )
