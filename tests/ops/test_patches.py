"""Patch embedding: the layout of a patch, and both implementations against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.ops import patches as ops


def test_patchify_flattens_row_column_channel():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = np.asarray(ops.patchify(jnp.asarray(images), 2))
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], images[1, 2:4, 2:4].ravel())


@pytest.mark.parametrize(("size", "channels", "patch"), [((8, 12), 3, 4), ((6, 4), 1, 2)])
def test_merging_undoes_patchify(size, channels, patch):
    images = np.arange(2 * np.prod(size) * channels).reshape(2, *size, channels)
    merged = ops.merge_patches(ops.patchify(jnp.asarray(images), patch), size)
    np.testing.assert_array_equal(merged, images)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "channels"), [((8, 12), 3), ((4, 4), 1)])
def test_planes_and_rows_agree_in_value_and_gradient(dtype, size, channels):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, *size, channels)).astype(np.float32)
    kernel = rng.normal(size=(4 * 4 * channels, 5)).astype(np.float32)
    tokens = size[0] * size[1] // 16
    g = rng.normal(size=(2, tokens, 5)).astype(dtype)
    results = []
    for form in (ops.by_rows, ops.by_planes):
        out, pull = jax.vjp(lambda x, w, f=form: f(x, w, 4, jnp.dtype(dtype)), images, kernel)
        assert out.dtype == dtype
        results.append([np.float32(a) for a in (out, *pull(g))])
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
