"""Attention against its definition, and the memory of its blocks."""

import jax
import numpy as np
import pytest

from vtadl_jax.ops import attention as ops


@pytest.mark.parametrize("shape", [(2, 5, 2, 4), (1, 300, 1, 3), (2, 513, 2, 2)])
def test_value_and_gradients_match_the_definition_in_float64(shape):
    arrays = np.random.default_rng(0).normal(size=(4, *shape))
    results = []
    for function, dtype in ((ops.attention, np.float32), (ops.attention_reference, np.float64)):
        with jax.enable_x64(dtype == np.float64):
            q, k, v, g = (a.astype(dtype) for a in arrays)
            out, pull = jax.vjp(jax.jit(function), q, k, v)
            results.append([out, *pull(g)])
            assert out.dtype == dtype
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [5, 300])
def test_a_given_scale_replaces_the_default(tokens):
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, tokens, 2, 4)).astype(np.float32)
    got = ops.attention(q, k, v, 0.1)
    np.testing.assert_allclose(got, ops.attention_reference(q, k, v, 0.1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ops.attention(q, k, v, 0.5), ops.attention(q, k, v), rtol=1e-5)


def test_long_sequences_never_store_all_weights():
    shape = (2, 2048, 4, 16)
    q = jax.ShapeDtypeStruct(shape, np.float32)
    weights = 4 * shape[0] * shape[2] * shape[1] ** 2

    def temporary(function):
        step = jax.jit(jax.grad(lambda q, k, v: function(q, k, v).sum(), argnums=(0, 1, 2)))
        return step.lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

    assert temporary(ops.attention) < weights < temporary(ops.attention_reference)
