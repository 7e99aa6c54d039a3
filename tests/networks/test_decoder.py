"""The decoder's layers: the TPU's blocks of pixels give the same results as whole maps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.networks.decoder import batch_moments, normalize, tap_geometry, upsample

FEATURES = (4, 5, 3, 2, 3)


def draw(strides):
    """A map, the parameters and running moments of five layers."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    ups, channels = [], 2
    for features, stride in zip(FEATURES, strides, strict=True):
        side, _ = tap_geometry(stride)
        ups.append({"kernel": normal(side, side, channels, features)})
        channels = features
    ups[-1]["bias"] = normal(channels)
    norms = [{"scale": normal(f), "bias": normal(f)} for f in FEATURES[:-1]]
    running = [(normal(f), np.abs(normal(f))) for f in FEATURES[:-1]]
    return normal(2, 2, 3, 2), ups, norms, running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strides", "train"),
    [((1, 2, 2, 2, 2), True), ((4, 1, 2, 2, 1), False), ((2, 1, 1, 4, 1), True)],
)
def test_blocks_and_maps_agree_in_value_moments_and_gradient(strides, train):
    x, ups, norms, running = draw(strides)

    def loss(x, ups, norms, blocked):
        form = functools.partial(upsample, strides=strides, blocked=blocked, dtype=jnp.float32)
        image, moments = form(x, ups, norms, None if train else running)
        # Loss through the tanh against a fixed image: no layer's gradient vanishes.
        target = np.random.default_rng(1).uniform(-1, 1, image.shape)
        return jnp.square(jnp.tanh(image / 50) - target).mean(), (image, moments)

    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnames="blocked"
    )
    want, got = (step(x, ups, norms, blocked=blocked) for blocked in (False, True))
    factor = np.prod(strides)
    assert got[0][1][0].shape == (2, 2 * factor, 3 * factor, 3)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(np.abs(b).max(), 1e-3))


@pytest.mark.slow
def test_batch_norm_is_flaxs_and_a_relu():
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (4, 5, 6, 3)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 3)).astype(np.float32)
    module = nn.BatchNorm(use_running_average=False, momentum=0.9)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": np.zeros(3), "var": np.ones(3)},
    }
    want, updates = module.apply(variables, x, mutable=["batch_stats"])
    mean, variance = batch_moments(x, 3, None)
    got = normalize(x, (mean, variance), scale, bias)
    np.testing.assert_allclose(got, np.maximum(want, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(0.1 * mean, updates["batch_stats"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(0.9 + 0.1 * variance, updates["batch_stats"]["var"], rtol=1e-5)
