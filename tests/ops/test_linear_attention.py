"""Linear attention against its definition, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.ops.linear_attention import linear_attention, linear_attention_reference


@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (1, 1, 1, 5), (2, 16, 2, 1)], ids=str)
def test_value_and_gradients_match_the_definition(shape):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    cotangent = rng.normal(size=shape).astype(np.float32)

    def value_and_grads(attention, *arrays):
        out, pull = jax.vjp(attention, *arrays)
        return out, *pull(jnp.asarray(cotangent, out.dtype))

    got = value_and_grads(linear_attention, q, k, v)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in (q, k, v)]
        want = value_and_grads(linear_attention_reference, *wide)
    for found, wanted in zip(got, want, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_type_of_the_values_is_kept_and_sums_are_float32():
    q = jnp.ones((1, 3000, 1, 2), jnp.bfloat16)
    out = linear_attention(q, q, q)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1, rtol=1e-2)
