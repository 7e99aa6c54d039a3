"""The filter bank against scipy's filters, and its invariances."""

import jax
import numpy as np
import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.ops import filters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 32, 48), 8), ((1, 64, 16), 4), ((3, 16, 16), 1)]
)
def test_matches_the_definition(shape, stride):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = filters.filter_bank(images, stride)
    assert got.shape == (shape[0], shape[1] // stride, shape[2] // stride, 20)
    want = filters.filter_bank_reference(images, stride)
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.slow
def test_deviations_in_flat_bright_areas_are_exact():
    images = 0.98 + 1e-3 * np.random.default_rng(0).normal(size=(2, 48, 48)).astype(np.float32)
    images[:, 20:28, 20:28] = 0.1
    got = np.asarray(filters.filter_bank(images, 8))
    want = filters.filter_bank_reference(images, 8)
    np.testing.assert_allclose(got[..., 4::5], want[..., 4::5], rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_finite_on_a_flat_image():
    images = np.full((1, 32, 32), 0.5, np.float32)
    gradient = jax.grad(lambda x: filters.filter_bank(x, 8).sum())(images)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_a_constant_changes_only_the_gaussians():
    images = np.random.default_rng(1).normal(size=(1, 32, 32)).astype(np.float32)
    change = np.abs(filters.filter_bank(images + 2, 8) - filters.filter_bank(images, 8)).max(
        (0, 1, 2)
    )
    np.testing.assert_allclose(change[::5], 2, atol=1e-4)
    others = np.delete(change, np.s_[::5])
    assert others.max() < 1e-4


def test_a_stride_must_divide_the_sides():
    with pytest.raises(UserError, match="stride 8"):
        filters.filter_bank(np.zeros((1, 20, 32), np.float32), 8)
