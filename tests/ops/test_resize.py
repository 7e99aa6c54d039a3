"""Map resampling and smoothing against scipy and PIL, whose conventions they follow."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vtadl_jax.ops import resize


def test_bilinear_matches_pil_when_enlarging():
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    expected = Image.fromarray(x).resize((40, 35), Image.Resampling.BILINEAR)
    got = resize.upsample_maps(x[None], (35, 40))[0]
    np.testing.assert_allclose(got, np.array(expected), atol=1e-5)


@pytest.mark.parametrize(("size_in", "size_out"), [(4, 13), (7, 7), (1, 6), (2, 3)])
def test_align_corners_matches_linear_interpolation(size_in, size_out):
    x = np.random.default_rng(1).normal(size=size_in)
    expected = np.interp(np.linspace(0, size_in - 1, size_out), np.arange(size_in), x)
    np.testing.assert_allclose(resize.bilinear_matrix(size_in, size_out, True) @ x, expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [(1, 5), (3, 12), (8, 512)])
def test_rows_sum_to_one(sizes, align_corners):
    np.testing.assert_allclose(resize.bilinear_matrix(*sizes, align_corners).sum(1), 1)
    np.testing.assert_allclose(resize.gaussian_matrix(sizes[1], 4.0).sum(1), 1)


@pytest.mark.parametrize(("size", "sigma"), [(50, 4.0), (9, 4.0), (3, 2.5), (20, 0.0)])
def test_gaussian_matches_scipy(size, sigma):
    x = np.random.default_rng(2).normal(size=size)
    expected = ndimage.gaussian_filter1d(x, sigma) if sigma else x
    np.testing.assert_allclose(resize.gaussian_matrix(size, sigma) @ x, expected, atol=1e-12)


def test_upsampling_and_smoothing_of_a_non_square_map():
    x = np.random.default_rng(3).normal(size=(2, 3, 5)).astype(np.float32)
    up = resize.upsample_maps(x, (24, 60))
    expected = ndimage.gaussian_filter(np.float64(up), (0, 2, 2))
    np.testing.assert_allclose(resize.upsample_maps(x, (24, 60), 2.0), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2, 3, 2), (1, 3, 1, 3), (1, 5, 8, 1)])
def test_doubling_with_aligned_corners_is_the_definition_with_its_gradient(shape):
    rng = np.random.default_rng(4)
    x, g = rng.normal(size=shape), rng.normal(size=(shape[0], 2 * shape[1], 2 * shape[2], shape[3]))

    def both(x, g, function):
        value, pull = jax.vjp(function, x)
        return value, *pull(g)

    with jax.enable_x64(True):
        found, wanted = (
            jax.jit(functools.partial(both, function=f))(x, g)
            for f in (resize.double_aligned, resize.double_aligned_reference)
        )
        products = jax.jit(functools.partial(both, function=resize.double_by_products))(x, g)
    for one, other, product in zip(found, wanted, products, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)
        np.testing.assert_allclose(product, other, atol=1e-14)
    np.testing.assert_array_equal(found[0][:, 0, 0], x[:, 0, 0])  # the corners
    np.testing.assert_allclose(found[0][:, -1, -1], x[:, -1, -1], atol=1e-14)
