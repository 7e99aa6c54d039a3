"""Whitening and EM against numpy, scipy and the true mixture of the samples."""

import numpy as np
import pytest
from scipy import special, stats

from vtadl_jax.networks import fitting


def covariances(count, dim, seed=0):
    root = np.random.default_rng(seed).normal(size=(count, dim, dim))
    return root @ root.swapaxes(1, 2) + 0.1 * np.eye(dim)


def test_whitened_samples_are_uncorrelated_and_of_unit_variance():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4)) * [1, 1e3, 1e-3, 1] + 7
    mean, projection = fitting.whitening(samples, 3)
    found = np.cov((samples - mean) @ projection, rowvar=False)
    np.testing.assert_allclose(found, np.eye(3), atol=5e-3)


def test_a_constant_direction_stays_finite():
    samples = np.random.default_rng(1).normal(size=(100, 3))
    samples[:, 2] = 1.5
    mean, projection = fitting.whitening(samples, 3)
    assert np.isfinite(projection).all()
    assert np.abs((samples - mean) @ projection).max() < 1e2


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_precision_factor_is_lower_and_squares_to_the_inverse(dim):
    covariance = covariances(3, dim)
    factor = fitting.precision_factor(covariance)
    np.testing.assert_allclose(factor, np.tril(factor))
    assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
    np.testing.assert_allclose(
        factor @ factor.swapaxes(1, 2), np.linalg.inv(covariance), rtol=1e-6, atol=1e-8
    )


def test_component_log_prob_matches_scipy():
    rng = np.random.default_rng(2)
    samples, loc, covariance = rng.normal(size=(9, 3)), rng.normal(size=(2, 3)), covariances(2, 3)
    got = fitting.component_log_prob(samples, loc, covariance)
    for k in range(2):
        want = stats.multivariate_normal(loc[k], covariance[k]).logpdf(samples)
        np.testing.assert_allclose(got[:, k], want)


def test_em_raises_the_likelihood_and_finds_the_components():
    rng = np.random.default_rng(3)
    centres = np.array([[0, 0], [6, 0], [0, 8]])
    which = rng.choice(3, 6000, p=[0.5, 0.3, 0.2])
    samples = centres[which] + rng.normal(size=(6000, 2)) * [1.0, 0.5]
    log_weights, loc, covariance, history = fitting.fit_mixture(samples, 3, rng, ridge=1e-9)
    assert (np.diff(history) > -1e-9).all()
    order = [int(np.square(loc - c).sum(1).argmin()) for c in centres]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(loc[order], centres, atol=0.1)
    np.testing.assert_allclose(np.exp(log_weights[order]), [0.5, 0.3, 0.2], atol=0.03)
    np.testing.assert_allclose(covariance[order], np.tile(np.diag([1, 0.25]), (3, 1, 1)), atol=0.1)


@pytest.mark.parametrize(("dim", "block"), [(1, 2**21), (3, 100), (6, 1)])
def test_an_iteration_is_that_of_the_equations(monkeypatch, dim, block):
    """Also in small blocks of samples, and far from the origin."""
    monkeypatch.setattr(fitting, "BLOCK", block)
    rng = np.random.default_rng(4)
    samples = rng.normal(size=(200, dim)) @ rng.normal(size=(dim, dim)) + 30
    start = fitting.fit_mixture(samples, 3, np.random.default_rng(5), 0)[:3]
    log_weights, loc, covariance, history = fitting.fit_mixture(
        samples, 3, np.random.default_rng(5), 1, ridge=fitting.RIDGE
    )
    joint = fitting.component_log_prob(samples, *start[1:]) + start[0]
    evidence = special.logsumexp(joint, axis=1)
    share = np.exp(joint - evidence[:, None])
    assert history == pytest.approx([evidence.mean()])
    np.testing.assert_allclose(np.exp(log_weights), share.mean(0), rtol=1e-7)
    for k in range(3):
        mean = np.average(samples, axis=0, weights=share[:, k])
        centred = (samples - mean) * np.sqrt(share[:, k, None] / share[:, k].sum())
        np.testing.assert_allclose(loc[k], mean, rtol=1e-7)
        wanted = centred.T @ centred + fitting.RIDGE * np.eye(dim)
        np.testing.assert_allclose(covariance[k], wanted, rtol=1e-6, atol=1e-8)


def test_em_survives_identical_samples():
    log_weights, loc, covariance, _ = fitting.fit_mixture(
        np.ones((50, 2)), 4, np.random.default_rng(0), num_iterations=3
    )
    assert np.isfinite(log_weights).all()
    np.testing.assert_allclose(loc, 1, atol=1e-3)
    assert np.isfinite(covariance).all()
