"""Shifted products against XLA's depthwise convolution."""

import jax
import numpy as np
import pytest

from vtadl_jax.ops.depthwise import native, shifted


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("sides", [(8, 12), (7, 5)])
def test_both_forms_agree_in_value_and_gradient(sides, size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *sides, 6)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 6)).astype(np.float32)
    (got, pull), (want, pull_native) = (
        jax.vjp(lambda x, w, f=f: f(x, w, stride), x, kernel) for f in (shifted, native)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    g = rng.normal(size=got.shape).astype(np.float32)
    for one, other in zip(pull(g), pull_native(g), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
