"""Tail probabilities of values from their table, against the samples and the true distribution."""

import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.networks.tails import LEVELS, empty_table, fit_table, tail


def test_the_tail_of_a_sample_is_its_share_of_larger_values():
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, size=50_000)
    found = np.asarray(tail(fit_table(values), jnp.asarray(values[:200], jnp.float32)))
    share = (values[None] >= values[:200, None]).mean(1)
    rare = (share > 2.0**-LEVELS) & (share < 0.5)
    assert rare.sum() > 80
    np.testing.assert_allclose(found[rare], -np.log(share[rare]), atol=0.05)
    # Among common values it is coarse.
    common = share >= 0.5
    np.testing.assert_allclose(found[common], -np.log(share[common]), atol=0.15)


def test_beyond_the_samples_it_follows_an_exponential_tail():
    rng = np.random.default_rng(1)
    table = fit_table(5 + 3 * rng.exponential(size=100_000))
    far = np.array([50.0, 100.0], np.float32)
    np.testing.assert_allclose(tail(table, far), (far - 5) / 3, rtol=0.05)


@pytest.mark.parametrize("values", [np.zeros(100), np.full(7, -2e4), np.array([1.0]), np.arange(5)])
def test_few_and_equal_values_give_a_growing_finite_tail(values):
    table = fit_table(values)
    low, high = float(np.min(values)), float(np.max(values))
    at = np.array([low - 10, low, high + 1, high + 2, high + 1e6], np.float32)
    found = np.asarray(tail(table, at))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert found[0] == 0
    assert found[-1] > found[2] > 0


def test_an_empty_table_leaves_positive_values_as_they_are():
    values = np.array([-1.0, 0.0, 0.5, 3.0, 40.0], np.float32)
    np.testing.assert_allclose(tail(empty_table(), values), np.maximum(values, 0), rtol=1e-5)
