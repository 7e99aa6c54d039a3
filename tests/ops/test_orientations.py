"""Oriented edges against scipy's filters, and the order of their directions."""

import numpy as np
import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.ops.orientations import oriented_edges, oriented_edges_reference


@pytest.mark.parametrize(
    ("shape", "stride", "count", "sigma"),
    [((2, 28, 28), 4, 8, 1.0), ((1, 16, 24), 8, 4, 2.0), ((1, 12, 12), 3, 1, 0.5)],
)
def test_matches_the_definition(shape, stride, count, sigma):
    images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    got = oriented_edges(images, stride, count, sigma)
    assert got.shape == (shape[0], shape[1] // stride, shape[2] // stride, 1 + count)
    want = oriented_edges_reference(images, stride, count, sigma)
    np.testing.assert_allclose(got, want, atol=2e-3)  # square roots of values near zero
    np.testing.assert_allclose(np.square(got), np.square(want), atol=1e-5)


@pytest.mark.parametrize(("direction", "axis", "sign"), [(0, 1, 1), (1, 0, 1), (2, 1, -1)])
def test_a_ramp_responds_most_in_its_own_direction(direction, axis, sign):
    ramp = np.arange(32) / 32
    ramp = ramp[:, None] if axis == 0 else ramp[None, :]
    image = np.broadcast_to(0.5 + sign * (ramp - 0.5), (1, 32, 32)).astype(np.float32)
    edges = np.asarray(oriented_edges(image, 8, 4, 1.0))[0, 1:3, 1:3, 1:]
    assert (edges.argmax(-1) == direction).all()
    assert edges[..., (direction + 2) % 4].max() < 1e-3


def test_a_stride_must_divide_the_sides():
    with pytest.raises(UserError, match="stride 8"):
        oriented_edges(np.zeros((1, 20, 32), np.float32), 8, 8, 1.0)
