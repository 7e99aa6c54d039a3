"""Transposed convolution: every implementation against the definition, in value and gradient."""

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vtadl_jax.ops import transposed_conv as ops

FORMS = {
    "native": ops.native,
    "chosen": lambda x, kernel, stride, padding: ops.transposed_conv(x, kernel, stride, padding),
}


def draw(seed, batch, height, width, channels, features, kernel):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    return x, rng.normal(size=(*kernel, channels, features)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(
    seed=st.integers(0, 99),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.integers(1, 4),
    padding=st.integers(0, 5),
)
@example(seed=0, height=3, width=5, kernel=(4, 5), stride=2, padding=3)
@settings(max_examples=8, deadline=None)
def test_matches_the_definition(form, seed, height, width, kernel, stride, padding):
    smallest = min((height - 1) * stride + kernel[0], (width - 1) * stride + kernel[1])
    limit = min((smallest - 1) // 2, min(kernel) - 1)
    padding = min(padding, max(limit, 0))
    x, w = draw(seed, 2, height, width, 3, 2, kernel)

    def loss(op):
        def weighted(x, w):
            out = op(x, w)
            return (out * np.random.default_rng(1).normal(size=out.shape)).sum()

        return jax.jit(jax.grad(weighted, argnums=(0, 1)))(x, w)

    def fast(x, w):
        return FORMS[form](x, w, stride=stride, padding=padding)

    def slow(x, w):
        return ops.transposed_conv_reference(x, w, stride, padding)

    got, want = fast(x, w), jax.jit(slow)(x, w)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    for got, want in zip(loss(fast), loss(slow), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "expected"),
    [
        (8, 3, 2, 1, 15),
        (15, 9, 3, 1, 49),
        (49, 7, 5, 1, 245),
        (497, 6, 1, 0, 502),
        (64, 4, 2, 1, 128),
    ],
)
def test_output_side(side, kernel, stride, padding, expected):
    assert ops.output_side(side, kernel, stride, padding) == expected


@pytest.mark.parametrize(("kernel", "stride"), [((4, 4), 2), ((9, 9), 4), ((5, 5), 1)])
def test_the_extra_row_for_many_channels_is_dropped(kernel, stride):
    x, w = draw(0, 2, 6, 5, ops.EIGEN_CHANNELS + 5, 20, kernel)
    g = draw(1, 2, 6, 5, 20, 1, kernel)[0]
    g = np.resize(g, ops.native(x, w, stride=stride, padding=0).shape)
    want = jax.vjp(lambda x: ops.native(x, w, stride=stride, padding=0), x)[1](g)[0]
    got = ops.polyphase_grad_x(g, w, stride=stride, padding=0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "features"), [((11, 11), 3), ((6, 6), 8), ((3, 7), 5)])
def test_columns_computed_together_equal_single_columns(monkeypatch, kernel, features):
    x, w = draw(0, 2, 9, 13, 8, features, kernel)
    w = w / np.sqrt(w[..., 0].size)  # the sine of a large output would enlarge its rounding
    grad = jax.grad(lambda x, w: jax.numpy.sin(ops.transposed_conv(x, w, 1, 1)).sum(), (0, 1))
    together, alone = [], []
    for results, best in ((together, ops.EIGEN_CHANNELS), (alone, 1)):
        monkeypatch.setattr(ops, "EIGEN_CHANNELS", best)
        results += [ops.transposed_conv(x, w, 1, 1), *grad(x, w)]
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_program_for_the_cpu_has_no_dilated_convolution():
    x, w = draw(0, 1, 8, 8, 4, 4, (4, 4))
    grad = jax.grad(lambda x, w: ops.transposed_conv(x, w, 2, 1).sum(), argnums=(0, 1))
    text = jax.jit(grad).lower(x, w).compile().as_text()
    assert " convolution(" in text
    assert "lhs_dilate" not in text
    assert "rhs_dilate" not in text
