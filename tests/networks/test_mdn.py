"""The mixture density network against the slow definition, from its own parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.networks.mdn import SHARED_REACH, MixtureDensity
from vtadl_jax.ops.mixture import mixture_log_prob_reference

K, D, WIDTH = 4, 3, 8


def definition(params, tokens, conditional, floor):
    """nll [B, N] by plain matrix algebra in the textbook's layout."""
    x = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    y = x @ params["features"]["kernel"]
    if conditional:
        logits, loc, raw, lower = (
            jnp.einsum("bnw,wrk->bnkr", x, params[name]["kernel"]) + params[name]["bias"].T
            for name in ("logits", "loc", "scale_diag", "scale_lower")
        )
        logits = logits[..., 0]
    else:
        logits, loc, raw, lower = (
            SHARED_REACH * params[name] for name in ("logits", "loc", "scale_diag", "scale_lower")
        )
    factor = jnp.zeros((*raw.shape, D)).at[..., *jnp.tril_indices(D, -1)].set(lower)
    factor = factor.at[..., *jnp.diag_indices(D)].set(jnp.log1p(jnp.exp(raw)) + floor)
    return -mixture_log_prob_reference(logits, loc, factor, y)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
def test_full_mixture_matches_the_definition(conditional):
    network = MixtureDensity(K, D, conditional=conditional, scale_floor=0.1)
    tokens = np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)
    params = network.init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(
        lambda p: p + 0.3 * np.random.default_rng(p.size).normal(size=p.shape), params
    )
    got = network.apply({"params": params}, tokens)
    np.testing.assert_allclose(got, definition(params, tokens, conditional, 0.1), rtol=1e-4)


def test_diagonal_mixture_is_the_full_one_without_off_diagonals():
    tokens = np.random.default_rng(1).normal(size=(2, 5, WIDTH)).astype(np.float32)
    full, diag = (MixtureDensity(K, D, covariance=c) for c in ("full", "diag"))
    params = full.init(jax.random.key(0), tokens)["params"]
    params["scale_lower"] = jax.tree.map(jnp.zeros_like, params["scale_lower"])
    want = full.apply({"params": params}, tokens)
    params.pop("scale_lower")
    got = diag.apply({"params": params}, tokens)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_floor_bounds_the_density():
    network = MixtureDensity(K, D, scale_floor=0.05)
    tokens = np.random.default_rng(2).normal(size=(2, 5, WIDTH)).astype(np.float32)
    params = network.init(jax.random.key(0), tokens)["params"]
    params["scale_diag"]["bias"] = jnp.full_like(params["scale_diag"]["bias"], -1e4)
    nll = network.apply({"params": params}, tokens)
    least = D * (np.log(0.05) + 0.5 * np.log(2 * np.pi))
    assert np.isfinite(nll).all()
    assert (nll >= least - 1e-4).all()


def test_fixed_features_are_orthonormal_directions_without_parameters():
    network = MixtureDensity(K, D, conditional=False, fixed_features=True)
    tokens = np.random.default_rng(3).normal(size=(2, 5, WIDTH)).astype(np.float32)
    params = network.init(jax.random.key(0), tokens)["params"]
    assert "features" not in params
    features = network.apply({"params": params}, jnp.eye(WIDTH), method="_features")
    np.testing.assert_allclose(features.T @ features, np.eye(D), atol=1e-6)


@pytest.mark.parametrize("noisy", [False, True])
def test_noise_is_on_x_alone_or_on_the_features_too(noisy):
    network = MixtureDensity(K, D, conditional=False, noisy_features=noisy)
    tokens = np.random.default_rng(4).normal(size=(2, 5, WIDTH)).astype(np.float32)
    params = network.init(jax.random.key(0), tokens)["params"]
    keys = jax.random.split(jax.random.key(1), 2)
    # A shared mixture depends on y only: noise on x alone does not change it.
    clean, noised = (network.apply({"params": params}, tokens, k) for k in (None, keys))
    assert (np.abs(clean - noised) > 1e-3).any() == noisy
