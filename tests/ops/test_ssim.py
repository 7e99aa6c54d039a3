"""SSIM against its definition and scipy's filters: both implementations, both paddings."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vtadl_jax.errors import UserError
from vtadl_jax.ops import ssim as ops

PADDINGS = ["zero", "reflect"]
FORMS = [ops.by_image, ops.at_once]


def pair(seed, shape):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    return x, np.clip(x + 0.3 * rng.normal(size=shape), -1, 1).astype(np.float32)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(*(st.integers(*ends) for ends in ((1, 3), (1, 20), (1, 20), (1, 3)))),
    padding=st.sampled_from(PADDINGS),
    data_range=st.sampled_from([1.0, 2.0, 255.0]),
)
def test_matches_the_definition(shape, padding, data_range):
    if padding == "reflect" and min(shape[1:3]) <= ops.HALF:
        with pytest.raises(UserError, match="at least 6 pixels"):
            ops.ssim(*pair(0, shape), data_range, padding)
        return
    x, y = (data_range / 2 * a for a in pair(0, shape))
    expected = ops.ssim_reference(x, y, data_range, padding)
    np.testing.assert_allclose(ops.ssim(x, y, data_range, padding), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_match_finite_differences_of_the_definition(form, padding):
    pairs = pair(1, (2, 13, 9, 2))
    grads = jax.grad(lambda x, y: (form(x, y, 2.0, padding) * np.array([1, -2])).sum(), (0, 1))
    for side, grad in enumerate(grads(*pairs)):
        direction = np.random.default_rng(2).normal(size=grad.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = [np.float64(a) + step * direction * (i == side) for i, a in enumerate(pairs)]
            ends.append(ops.ssim_reference(*moved, 2.0, padding) @ [1, -2])
        expected = (ends[0] - ends[1]) / 2e-5
        assert (np.asarray(grad) * direction).sum() == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
def test_both_forms_agree(padding):
    x, y = pair(6, (3, 24, 17, 3))
    values = [np.asarray(form(x, y, 2.0, padding)) for form in FORMS]
    np.testing.assert_allclose(*values, rtol=1e-4)


@pytest.mark.slow
def test_identical_images_score_one_and_swapping_changes_nothing():
    x, y = pair(3, (2, 20, 20, 3))
    np.testing.assert_allclose(ops.ssim(x, x, 2.0), 1, atol=1e-5)
    np.testing.assert_allclose(ops.ssim(x, y, 2.0), ops.ssim(y, x, 2.0), atol=1e-6)


def test_an_unknown_padding_is_named():
    with pytest.raises(UserError, match="padding 'edge': use one of zero, reflect"):
        ops.ssim(*pair(0, (1, 8, 8, 1)), 2.0, "edge")


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(17, 11, 3), (9, 40, 1)])
def test_blur_is_scipys_gaussian(size, padding):
    x = np.random.default_rng(4).normal(size=(2, *size)).astype(np.float32)
    taps, mode = ops.gaussian_window(), {"zero": "constant", "reflect": "mirror"}[padding]
    expected = ndimage.correlate1d(np.float64(x), taps, axis=1, mode=mode)
    expected = ndimage.correlate1d(expected, taps, axis=2, mode=mode)
    np.testing.assert_allclose(ops.blur(padding, x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_gradient_of_a_blur_is_its_adjoint(padding):
    a, b = np.random.default_rng(5).normal(size=(2, 3, 14, 9, 2)).astype(np.float32)
    blurred, pull = jax.vjp(lambda a: ops.blur(padding, a)[0], a)
    assert (blurred * b).sum() == pytest.approx(float((a * pull(b)[0]).sum()), rel=1e-4)
