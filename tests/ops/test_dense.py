"""Products with wide weights, tokens first and tokens last, against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.ops.dense import dense_dot_general, weight_product


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens_last", [False, True])
def test_matches_the_definition_in_value_and_gradient(dtype, tokens_last):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 6)), rng.normal(size=(6, 3, 4))
    g = rng.normal(size=(3, 4, 5) if tokens_last else (5, 3, 4))
    x, w, g = (a.astype(np.float32) for a in (x, w, g))

    def fast(x, w):
        return weight_product(x, w, jnp.dtype(dtype), tokens_last)

    out, pull = jax.vjp(fast, x, w)
    assert out.dtype == jnp.float32
    order = "rkt" if tokens_last else "trk"
    want = np.einsum(f"td,drk->{order}", x, w)
    grads = np.einsum(f"{order},drk->td", g, w), np.einsum(f"{order},td->drk", g, x)
    tolerance = 1e-5 if dtype == "float32" else 6e-2
    np.testing.assert_allclose(out, want, rtol=tolerance, atol=tolerance)
    for got, expected in zip(pull(g), grads, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("batch", "inner", "outputs"), [((2, 5), (6,), (3, 2)), ((4,), (2, 3), (5,))]
)
def test_dense_dot_general_is_laxs_in_value_and_gradient(batch, inner, outputs):
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(*batch, *inner)), rng.normal(size=(*inner, *outputs))
    g = rng.normal(size=(*batch, *outputs))
    axes = tuple(range(len(batch), x.ndim)), tuple(range(len(inner)))
    results = []
    for op in (dense_dot_general, jax.lax.dot_general):
        out, pull = jax.vjp(lambda x, kernel, op=op: op(x, kernel, (axes, ((), ()))), x, kernel)
        results.append([out, *pull(g.astype(np.float32))])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
