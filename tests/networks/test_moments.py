"""Moments of batches against the definition over all rows at once."""

import numpy as np
import pytest

from vtadl_jax.networks import moments
from vtadl_jax.networks.moments import add_rows, bytes_of, moments_reference


def added(rows, sizes):
    found, start = None, 0
    for size in sizes:
        found = add_rows(found, rows[start : start + size])
        start += size
    assert start == len(rows)
    return found


def assert_same(found, wanted, rtol=1e-9):
    assert found.count == wanted.count
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    scale = np.abs(wanted.scatter).max()
    np.testing.assert_allclose(found.scatter, wanted.scatter, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (1,) * 11, (0, 10, 0, 1)])
def test_batches_add_up_to_the_moments_of_all_rows(sizes):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(11, 6, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=(6, 5))
    assert_same(added(rows, sizes), moments_reference(rows))


def test_a_mean_far_larger_than_the_deviation_cancels_nothing():
    rng = np.random.default_rng(1)
    mean = 1e4 * rng.uniform(1, 2, (3, 4))
    rows = np.float32(mean + rng.normal(size=(300, 3, 4)))
    found = added(rows, [1] * 100 + [200])
    assert_same(found, moments_reference(rows))
    # One pass of sums of squares, which the program must not use, is a thousand times less exact.
    rows = np.float64(rows)
    naive = np.einsum("npi,npj->pij", rows, rows)
    naive -= 300 * rows.mean(0)[:, :, None] * rows.mean(0)[:, None, :]
    wanted = moments_reference(rows).scatter
    assert np.abs(naive - wanted).max() > 1e3 * np.abs(found.scatter - wanted).max()


def test_batches_whose_means_differ_count_the_difference():
    rows = np.concatenate([np.zeros((7, 1, 2)), np.full((3, 1, 2), [5.0, -1.0])])
    found = added(rows, (7, 3))
    np.testing.assert_allclose(found.covariance[0], 0.21 * np.outer([5, -1], [5, -1]))


def test_constant_rows_and_a_single_one_have_no_scatter():
    for rows in (np.full((9, 2, 3), 0.1), np.full((1, 2, 3), 7.3)):
        found = added(rows, [1] * len(rows))
        np.testing.assert_allclose(found.mean, rows[0])
        np.testing.assert_allclose(found.scatter, 0, atol=1e-30)


def test_pooled_moments_are_those_of_all_places_together():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(8, 5, 3)) + 10 * rng.normal(size=(5, 3))
    assert_same(moments_reference(rows).pooled(), moments_reference(rows.reshape(-1, 1, 3)))


def test_large_scatters_are_computed_in_chunks(monkeypatch):
    monkeypatch.setattr(moments, "CHUNK_BYTES", 2 * 8 * 3 * 3)
    rows = np.random.default_rng(3).normal(size=(10, 7, 3))
    assert_same(added(rows, (6, 4)), moments_reference(rows))


def test_the_memory_is_that_of_the_arrays():
    found = moments_reference(np.zeros((2, 6, 5)))
    assert bytes_of(6, 5) == found.mean.nbytes + found.scatter.nbytes
