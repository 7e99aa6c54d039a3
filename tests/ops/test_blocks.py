"""Images in blocks: conversion in both directions, and the transposed convolution on blocks."""

import functools

import jax
import numpy as np
import pytest

from vtadl_jax.ops import blocks as ops
from vtadl_jax.ops.transposed_conv import transposed_conv_reference


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("block", [(1, 1), (2, 1), (1, 3), (4, 2)])
def test_blocks_hold_channel_column_row_and_merge_back(block):
    x = draw(0, 2, 3 * block[0], 2 * block[1], 3)
    blocks = ops.split_into_blocks(x, block)
    assert blocks.shape == (2, 3, 2, 3 * block[0] * block[1])
    bh, bw = block
    lane = (2 * bw + bw - 1) * bh  # channel 2, last column, first row
    np.testing.assert_array_equal(blocks[1, 2, 1, lane], x[1, 2 * bh, 2 * bw - 1, 2])
    np.testing.assert_array_equal(ops.merge_blocks(blocks, block), x)


def test_merging_keeps_every_bit_of_float32_and_bfloat16():
    x = draw(1, 1, 4, 8, 2)
    for dtype in ("float32", "bfloat16"):
        blocks = ops.split_into_blocks(x.astype(dtype), (2, 4))
        np.testing.assert_array_equal(ops.merge_blocks(blocks, (2, 4)), x.astype(dtype))


def test_narrower_blocks_hold_the_same_image():
    x = draw(2, 2, 6, 12, 5)
    narrow = ops.split_columns(ops.split_into_blocks(x, (3, 4)), (3, 4), 2)
    np.testing.assert_array_equal(narrow, ops.split_into_blocks(x, (3, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("block", [(1, 1), (2, 1), (2, 4)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (8, 4, 2)])
def test_transposed_convolution_between_blocks_matches_the_definition(
    block, kernel, stride, padding
):
    x = draw(3, 2, 2 * block[0], 3 * block[1], 3)
    w = draw(4, kernel, kernel, 3, 2)
    larger = (block[0] * stride, block[1] * stride)

    def blocked(x, w):
        x = ops.split_into_blocks(x, block)
        x = ops.blocked_transposed_conv(x, w, stride, padding, block)
        return ops.merge_blocks(x, larger)

    slow = functools.partial(transposed_conv_reference, stride=stride, padding=padding)
    want, pull_slow = jax.vjp(slow, x, w)
    got, pull = jax.vjp(blocked, x, w)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    g = draw(5, *want.shape)
    for a, b in zip(pull(g), pull_slow(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
