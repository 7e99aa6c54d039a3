"""Nearest neighbours against their definition, also for cancellation in the expanded square."""

import itertools

import numpy as np
import pytest

from vtadl_jax.networks.fitting import k_centre
from vtadl_jax.ops.neighbours import nearest_distances, nearest_distances_reference


@pytest.mark.parametrize(("neighbours", "squared"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize(("queries", "bank", "dim"), [(5, 7, 3), (1030, 50, 8), (1, 3, 1)])
def test_distances_are_those_of_the_definition(queries, bank, dim, neighbours, squared):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(queries, dim)).astype(np.float32)
    b = rng.normal(size=(bank, dim)).astype(np.float32)
    expected = nearest_distances_reference(q, b, neighbours, squared)
    np.testing.assert_allclose(nearest_distances(q, b, neighbours, squared), expected, rtol=1e-5)


def test_small_distances_far_from_the_origin_are_exact():
    bank = np.float32(1000) + np.arange(4, dtype=np.float32)[:, None] * np.ones(8, np.float32)
    queries = bank + np.float32(0.25)
    expected = nearest_distances_reference(queries, bank)
    np.testing.assert_allclose(nearest_distances(queries, bank), expected, rtol=1e-4)


def test_what_is_in_the_bank_has_distance_zero():
    bank = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    np.testing.assert_array_equal(nearest_distances(bank, bank), np.zeros(9, np.float32))


def test_a_coreset_covers_better_than_a_random_draw():
    rng = np.random.default_rng(0)
    samples = np.concatenate([rng.normal(size=(500, 4)), rng.normal(6, 0.1, size=(5, 4))])
    chosen = k_centre(samples, 40, np.random.default_rng(1))
    assert len(set(chosen.tolist())) == 40
    drawn = np.random.default_rng(2).permutation(len(samples))[:40]

    def radius(index):
        return nearest_distances_reference(samples, samples[index]).max()

    assert radius(chosen) < 0.8 * radius(drawn)


def test_a_coreset_is_the_greedy_one():
    samples = np.array([[0.0], [1.0], [10.0], [4.0]])
    chosen = k_centre(samples, 3, np.random.default_rng(0))
    start = float(samples[chosen[0], 0])
    farthest = samples[np.abs(samples[:, 0] - start).argmax(), 0]
    assert samples[chosen[1], 0] == farthest
    assert len(set(chosen.tolist())) == 3


@pytest.mark.parametrize(("count", "dim"), [(1500, 3), (1500, 8), (5000, 2)])
def test_a_coreset_from_a_pool_is_the_greedy_one(count, dim):
    # Whole numbers: distances are exact, whatever the order of the sums.
    rng = np.random.default_rng(count + dim)
    samples = rng.permutation(np.unique(rng.integers(-500, 500, (count, dim)), axis=0))
    chosen = k_centre(samples, 400, np.random.default_rng(0))
    nearest = np.full(len(samples), np.inf)
    for index, following in itertools.pairwise(chosen):
        nearest = np.minimum(nearest, np.square(samples - samples[index]).sum(1))
        assert nearest[following] == nearest.max()


def test_a_coreset_of_everything_is_everything():
    samples = np.zeros((5, 3), np.float32)
    assert k_centre(samples, 5, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]
