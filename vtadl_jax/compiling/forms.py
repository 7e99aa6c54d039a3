"""Lowering a step with other forms of its operations than the target's own, to compare them.

Operations with a form for each kind of device choose by `jax.lax.platform_dependent` when a program
is lowered. Here a file's choice is made by name instead: {'ops.ssim': 'cpu'}.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping

import jax

from vtadl_jax.errors import UserError

PACKAGE = "vtadl_jax"


def parse(text: str) -> dict[str, str]:
    """'ops.ssim=cpu,models.decoder=default' → what `chosen` takes."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if bad := [name for name, _, form in pairs if not form]:
        raise UserError(f"--forms {bad[0]!r}: give FILE=FORM, as ops.ssim=cpu")
    return {name: form for name, _, form in pairs}


@contextlib.contextmanager
def chosen(forms: Mapping[str, str]) -> Iterator[None]:
    """Operations that are traced meanwhile take the named forms: file → 'cpu', 'tpu', 'default'.

    Raises UserError for a form that a file does not have, and at the end for a file that chose
    nothing.
    """
    real, used = jax.lax.platform_dependent, set()

    def choose(*args, default=None, **by_platform):
        caller = sys._getframe(1).f_globals["__name__"].removeprefix(f"{PACKAGE}.")
        if caller not in forms:
            return real(*args, default=default, **by_platform)
        known = {**by_platform, **({"default": default} if default else {})}
        if forms[caller] not in known:
            raise UserError(f"--forms {caller}={forms[caller]}: it has {', '.join(known)}")
        used.add(caller)
        return known[forms[caller]](*args)

    jax.lax.platform_dependent = choose
    try:
        yield
    finally:
        jax.lax.platform_dependent = real
    if unused := forms.keys() - used:
        raise UserError(f"--forms {min(unused)}: this step has no choice of forms in that file")
