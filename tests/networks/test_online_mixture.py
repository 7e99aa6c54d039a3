"""Online EM: its steps against EM's equations in float64, and what it converges to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from tests.factory import tiny_config
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks.fitting import component_log_prob
from vtadl_jax.networks.mdn import MixtureDensity
from vtadl_jax.networks.online_mixture import (
    OnlineMixture,
    Statistics,
    expected_statistics,
    first_statistics,
    mixture_of,
)
from vtadl_jax.runtime import sharding

FLOOR = 0.05


def test_statistics_are_those_of_the_e_step():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))
    first = first_statistics(jnp.asarray(samples, jnp.float32), 5)
    logits, loc, factor = (np.asarray(x, np.float64) for x in mixture_of(first, FLOOR))
    covariance = factor @ factor.swapaxes(-1, -2)
    joint = component_log_prob(samples, loc, covariance) + logits - logsumexp(logits)
    share = np.exp(joint - logsumexp(joint, 1, keepdims=True)) / len(samples)
    log_prob, found = expected_statistics(
        jnp.asarray(samples, jnp.float32), mixture_of(first, FLOOR)
    )
    np.testing.assert_allclose(log_prob, logsumexp(joint, 1), rtol=1e-4)
    np.testing.assert_allclose(found.mass, share.sum(0), rtol=1e-4)
    np.testing.assert_allclose(found.total, share.T @ samples, atol=1e-4)
    scatter = np.einsum("tk,ti,tj->kij", share, samples, samples)
    np.testing.assert_allclose(found.scatter, scatter, atol=1e-4)


def test_the_mixture_has_the_moments_of_its_statistics():
    rng = np.random.default_rng(1)
    loc, root = rng.normal(size=(3, 2)), rng.normal(size=(3, 2, 2))
    covariance, mass = root @ root.swapaxes(-1, -2), np.array([0.2, 0.3, 0.5])
    scatter = mass[:, None, None] * (covariance + loc[:, :, None] * loc[:, None])
    statistics = Statistics(*map(jnp.float32, (mass, mass[:, None] * loc, scatter)))
    logits, means, factor = mixture_of(statistics, FLOOR)
    np.testing.assert_allclose(jnp.exp(logits), mass, rtol=1e-5)
    np.testing.assert_allclose(means, loc, rtol=1e-5)
    wanted = covariance + FLOOR**2 * np.eye(2)
    np.testing.assert_allclose(factor @ factor.swapaxes(-1, -2), wanted, atol=1e-5)


def test_it_comes_close_to_the_truth():
    """Two clusters, one of them narrow: within 0.1 nats of the mixture that drew the samples."""
    rng = np.random.default_rng(2)

    def draw(count):
        near = rng.normal(size=(count, 3)) * (1.0, 0.3, 0.2) + np.array([2, 0, 0])
        far = rng.normal(size=(count, 3)) + np.array([-2, 1, 0])
        return np.where(rng.random((count, 1)) < 0.3, near, far).astype(np.float32)

    network = OnlineMixture(2, FLOOR)
    stats = network.init(jax.random.key(0), draw(4), train=False)["stats"]

    @jax.jit
    def step(stats, samples):
        return network.apply({"stats": stats}, samples, train=True, mutable="stats")[1]["stats"]

    for _ in range(200):
        stats = step(stats, draw(256))
    test = draw(20_000)
    truth = component_log_prob(
        test, np.array([[2.0, 0, 0], [-2, 1, 0]]), np.stack([np.diag([1, 0.09, 0.04]), np.eye(3)])
    )
    best = logsumexp(truth + np.log([0.3, 0.7]), 1).mean()
    found = network.apply({"stats": stats}, test, train=False).mean()
    assert best - 0.1 < found < best + 0.02


def test_samples_on_eight_devices_make_the_same_mixture():
    samples = np.random.default_rng(3).normal(size=(64, 2)).astype(np.float32)
    network = OnlineMixture(3, FLOOR)
    start = network.init(jax.random.key(0), samples, train=False)["stats"]

    @jax.jit
    def two_steps(samples):
        stats = start
        for _ in range(2):
            stats = network.apply({"stats": stats}, samples, train=True, mutable="stats")[1][
                "stats"
            ]
        return stats

    split = sharding.batch_sharding(sharding.make_mesh(8))
    found, wanted = two_steps(jax.device_put(samples, split)), two_steps(samples)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_scoring_does_not_change_it():
    network = MixtureDensity(3, 2, conditional=False, fixed_features=True, learning="em")
    tokens = jax.random.normal(jax.random.key(0), (2, 8, 4))
    stats = network.init(jax.random.key(1), tokens)["stats"]
    for keys, moves in ((None, False), (jax.random.split(jax.random.key(2), 2), True)):
        _, after = network.apply({"stats": stats}, tokens, keys, mutable="stats")
        same = jax.tree.map(lambda a, b: bool((a == b).all()), stats, after["stats"])
        assert all(jax.tree.leaves(same)) != moves


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("conditional", True, "model.mdn.conditional True: online EM fits one mixture"),
        ("fixed_features", False, "model.mdn.fixed_features False: nothing else keeps"),
        ("covariance", "diag", "model.mdn.covariance 'diag': online EM fits full"),
    ],
)
def test_what_it_cannot_fit_is_refused(field, value, message):
    right = {"conditional": False, "fixed_features": True, "covariance": "full", field: value}
    fields = {f"model__mdn__{name}": v for name, v in right.items()}
    with pytest.raises(UserError, match=message):
        make_detector(tiny_config(model__mdn__learning="em", **fields))
