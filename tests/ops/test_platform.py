"""The choice between implementations: by platform, by override, and not from a cache."""

import jax
import jax.numpy as jnp
import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.ops.platform import Overrides, by_platform, on_platform, overriding


@jax.jit
def doubled(x):
    return by_platform(x, cpu=lambda x: x + x, tpu=jnp.sin, default=lambda x: 2 * x)


def operations(platform):
    function = on_platform(platform, lambda x: doubled(x)) if platform else doubled
    return str(jax.make_jaxpr(function)(1.0))


def test_a_program_for_one_platform_traces_one_implementation():
    # The inner function is jitted: its cache must not give one platform's program to another.
    assert "add" in operations("cpu")
    assert "sin" not in operations("cpu")
    assert "sin" in operations("tpu")
    assert "add" not in operations("tpu")
    assert "mul" in operations("gpu")
    assert "sin" not in operations("gpu")
    everything = operations(None)
    assert all(name in everything for name in ("add", "sin", "mul", "platform_index"))
    assert doubled(3.0) == on_platform("cpu", doubled)(3.0) == 6.0


def test_backward_passes_are_traced_for_the_platform():
    gradient = on_platform("tpu", jax.grad(lambda x: doubled(x)))
    assert "cos" in str(jax.make_jaxpr(gradient)(1.0))


def test_overrides_choose_by_file_and_keep_what_they_met():
    # The caller's file is this one.
    chosen = Overrides({__name__: "tpu"})
    with overriding(chosen):
        assert "sin" in operations("cpu")
    assert chosen.used == {__name__}
    with (
        overriding(Overrides({__name__: "gpu"})),
        pytest.raises(UserError, match="it has cpu, tpu, default"),
    ):
        operations("cpu")
