"""Convolutions with a stride against XLA's own, in value and gradient."""

import jax
import numpy as np
import pytest

from vtadl_jax.ops.platform import on_platform
from vtadl_jax.ops.strided_conv import halving_conv, valid_conv


def plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1),) * 2, dimension_numbers=numbers)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [((8, 12), 3), ((2, 2), 1), ((16, 6), 5)])
def test_value_and_gradients_are_those_of_a_convolution(size, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    kernel = rng.normal(size=(4, 4, channels, 7)).astype(np.float32)
    (out, pull), (expected, pull_expected) = (
        jax.vjp(form, x, kernel) for form in (halving_conv, plain)
    )
    g = rng.normal(size=out.shape).astype(np.float32)
    assert out.shape == (2, size[0] // 2, size[1] // 2, 7)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(pull(g), pull_expected(g), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "taps", "stride"), [((8, 11), 3, 2), ((5, 4), 4, 1), ((9, 6), 1, 3), ((7, 12), 5, 2)]
)
def test_without_padding_it_is_that_of_every_platform(size, taps, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(taps, taps, 3, 4)).astype(np.float32)

    def value_and_gradients(platform):
        def run(x, kernel):
            out, pull = jax.vjp(lambda x, kernel: valid_conv(x, kernel, stride), x, kernel)
            return out, *pull(out)

        return jax.jit(on_platform(platform, run))(x, kernel)

    got, want = value_and_gradients("cpu"), value_and_gradients("tpu")
    assert got[0].shape == (2, *((side - taps) // stride + 1 for side in size), 4)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
