"""The fusion boundary: it remains in the compiled program and does not change results."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.outline import outlined


def double(x):
    return 2 * x + 1


def test_outlined_calls_stay_calls_and_compute_the_same():
    x = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)

    def program(function):
        return jax.jit(lambda x: function(function(x)).sum(0))

    plain, kept = program(double), program(outlined(double))
    np.testing.assert_allclose(kept(x), plain(x), rtol=1e-6)
    calls = re.findall(r"call\(.*to_apply", kept.lower(x).compile().as_text())
    assert len(calls) == 2
    assert not re.findall(r"call\(.*to_apply=%?double", plain.lower(x).compile().as_text())


def test_outlined_functions_have_gradients():
    x = jnp.arange(6.0).reshape(2, 3)
    got = jax.grad(lambda x: (outlined(jnp.sin)(x) ** 2).sum())(x)
    np.testing.assert_allclose(got, 2 * np.sin(x) * np.cos(x), rtol=1e-5, atol=1e-6)
