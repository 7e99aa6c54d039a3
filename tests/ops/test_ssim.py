"""SSIM against its definition and scikit-free facts; both back-end forms of the blur."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from vtadl_jax.ops import ssim as ops


def pair(seed, shape):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    return x, np.clip(x + 0.3 * rng.normal(size=shape), -1, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (1, 12, 19, 1), (3, 5, 30, 2)])
def test_matches_the_definition(shape):
    x, y = pair(0, shape)
    np.testing.assert_allclose(ops.ssim(x, y, 2.0), ops.ssim_reference(x, y, 2.0), rtol=1e-4)


def test_gradient_matches_finite_differences_of_the_definition():
    x, y = pair(1, (1, 13, 9, 2))
    grad = np.asarray(jax.grad(lambda y: ops.ssim(x, y, 2.0).sum())(y))
    direction = np.random.default_rng(2).normal(size=y.shape)
    plus, minus = (ops.ssim_reference(x, y + s * 1e-5 * direction, 2.0) for s in (1, -1))
    assert (grad * direction).sum() == pytest.approx(float((plus - minus)[0] / 2e-5), rel=1e-3)


def test_identical_images_score_one_and_swapping_changes_nothing():
    x, y = pair(3, (2, 20, 20, 3))
    np.testing.assert_allclose(ops.ssim(x, x, 2.0), 1, atol=1e-5)
    np.testing.assert_allclose(ops.ssim(x, y, 2.0), ops.ssim(y, x, 2.0), atol=1e-6)


@pytest.mark.parametrize("form", [ops._shifted_adds, ops._band_matmul, ops.blur])
@pytest.mark.parametrize("size", [(17, 11, 3), (4, 40, 1)])
def test_blur_is_scipys_gaussian_with_zero_border(form, size):
    x = np.random.default_rng(4).normal(size=(2, *size)).astype(np.float32)
    taps = ops.gaussian_window()
    expected = ndimage.correlate1d(np.float64(x), taps, axis=1, mode="constant")
    expected = ndimage.correlate1d(expected, taps, axis=2, mode="constant")
    got = form(x) if form is ops._shifted_adds else form(x)[0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_blur_is_its_own_adjoint():
    a, b = np.random.default_rng(5).normal(size=(2, 3, 14, 9, 2)).astype(np.float32)
    blurred_a, blurred_b = ops.blur(a, b)
    assert (blurred_a * b).sum() == pytest.approx(float((a * blurred_b).sum()), rel=1e-4)
