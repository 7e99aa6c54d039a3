"""Pooling with places and unpooling against their definitions, ties and NaN included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.ops import pooling


def tied(shape, seed=0):
    """Few values, so that many windows are tied, zeros among them."""
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.float64)


def value_and_pullback(function, x, g):
    """Returns function(x), a tree of arrays, and the gradient at x of Σ g · its first leaf; in one
    program, which is faster than an operation at a time."""

    def both(x, g):
        value, pull = jax.vjp(lambda x: jax.tree.leaves(function(x))[0], x)
        return function(x), value, pull(g)[0]

    return jax.jit(both)(x, g)


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 2, 2, 1)])
def test_maxima_places_and_gradients_are_those_of_the_definition(shape):
    half = (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
    x, g = tied(shape), np.random.default_rng(1).normal(size=half)
    with jax.enable_x64(True):
        found = value_and_pullback(pooling.max_pool_places, x, g)
        wanted = value_and_pullback(pooling.max_pool_places_reference, x, g)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("shape", [(2, 3, 2, 3), (1, 1, 1, 1)])
def test_unpooling_and_its_gradient_are_those_of_the_definition(shape):
    rng = np.random.default_rng(2)
    x, places = rng.normal(size=shape), rng.integers(0, 4, shape).astype(np.uint8)
    g = rng.normal(size=(shape[0], 2 * shape[1], 2 * shape[2], shape[3]))
    with jax.enable_x64(True):
        found, wanted = (
            value_and_pullback(lambda x, f=f: f(x, places), x, g)
            for f in (pooling.max_unpool, pooling.max_unpool_reference)
        )
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_of_equal_values_the_first_counts():
    _, places = pooling.max_pool_places(jnp.zeros((1, 4, 4, 1)))
    assert not places.any()
    window = jnp.array([[0.0, 2.0], [2.0, 1.0]])[None, :, :, None]
    assert int(pooling.max_pool_places(window)[1][0, 0, 0, 0]) == 1


def test_each_maximum_returns_to_its_pixel():
    x = np.random.default_rng(3).normal(size=(2, 6, 8, 3)).astype(np.float32)
    back = np.asarray(pooling.max_unpool(*pooling.max_pool_places(x)))
    windows = back.reshape(2, 3, 2, 4, 2, 3)
    assert ((windows != 0).sum((2, 4)) == 1).all()
    np.testing.assert_array_equal(back[back != 0], x[back != 0])


def test_nan_is_the_maximum_of_its_window():
    x = np.zeros((1, 2, 4, 1), np.float32)
    x[0, 0, 0] = x[0, 1, 2] = np.nan
    assert np.isnan(pooling.max_pool(x)).all()
    assert pooling.max_pool_places(x)[1].ravel().tolist() == [0, 2]
