"""Gaussians of positions from few images: against their definition and the golden numbers."""

import jax
import numpy as np
import pytest

from tests import golden
from vtadl_jax.networks import image_gaussian
from vtadl_jax.networks.image_gaussian import fit_gaussians, mahalanobis, mahalanobis_reference
from vtadl_jax.ops.resize import gaussian_matrix, upsample_maps

STEM, EPSILON = "padim_gaussian_seed33", 0.01


def distances(rows, fitted, epsilon=EPSILON):
    gaussians = {name: getattr(fitted, name) for name in ("mean", "spread", "solver")}
    return np.asarray(jax.jit(mahalanobis, static_argnums=2)(np.float32(rows), gaussians, epsilon))


def draw(count, seed=0, places=3, dim=12):
    rng = np.random.default_rng(7)
    mixing, centre = rng.normal(size=(places, dim, dim)), 3 * rng.normal(size=(places, dim))
    rows = np.random.default_rng(seed).normal(size=(count, places, dim))
    return np.float32(np.einsum("npd,pde->npe", rows, mixing) + centre)


@pytest.mark.parametrize(
    ("count", "columns"), [(2, 12), (5, 5), (5, 12), (6, 5), (12, 12), (13, 12), (40, 12)]
)
@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 1.0])
def test_distances_are_those_of_the_definition(count, columns, epsilon):
    train, new = draw(count), np.concatenate([draw(count)[:2], draw(4, seed=1)])
    fitted = fit_gaussians(train, columns, epsilon)
    assert fitted.spread.shape == (3, 12, columns)
    assert fitted.left_out < 1e-12
    want = mahalanobis_reference(new, train, epsilon)
    # Rows that were fitted to are near the span of A, where float32's rounding is seen beside ε.
    rtol = 2e-4 if epsilon >= 0.01 else 1e-2
    np.testing.assert_allclose(distances(new, fitted, epsilon), want, rtol=rtol)


def test_chunks_of_positions_change_nothing(monkeypatch):
    train = draw(5)
    want = fit_gaussians(train, 7, EPSILON)
    monkeypatch.setattr(image_gaussian, "CHUNK_BYTES", 1)
    jax.tree.map(np.testing.assert_array_equal, fit_gaussians(train, 7, EPSILON), want)


def test_fewer_columns_keep_the_largest_directions_and_tell_the_rest():
    train, new = draw(30), draw(3, seed=1)
    fitted = fit_gaussians(train, 4, EPSILON)
    variance, vectors = np.linalg.eigh(np.cov(np.float64(train[:, 1]), rowvar=False))
    shares = [np.linalg.eigvalsh(np.cov(np.float64(train[:, i]), rowvar=False)) for i in range(3)]
    assert fitted.left_out == pytest.approx(max(v[:-4].sum() / v.sum() for v in shares), rel=1e-6)
    kept = vectors[:, -4:] * variance[-4:] @ vectors[:, -4:].T + EPSILON * np.eye(12)
    residual = np.float64(new[:, 1]) - train[:, 1].mean(0, dtype=np.float64)
    want = np.sqrt(np.einsum("bi,ij,bj->b", residual, np.linalg.inv(kept), residual))
    np.testing.assert_allclose(distances(new, fitted)[:, 1], want, rtol=1e-4)


def test_constant_features_are_finite_and_epsilon_is_their_variance():
    train = np.zeros((4, 2, 5), np.float32)
    for columns in (3, 5):
        fitted = fit_gaussians(train, columns, EPSILON)
        np.testing.assert_allclose(distances(train + 1, fitted), (5 / EPSILON) ** 0.5, rtol=1e-5)


def embedded(features, name, count=None):
    """Golden features [n, P, 24]: the coarser map's cells repeated."""
    maps = features.padim_features()[name]
    fine, coarse = (maps[key][:count].transpose(0, 2, 3, 1) for key in ("l1", "l2"))
    joined = np.concatenate([fine, coarse.repeat(2, 1).repeat(2, 2)], -1)
    return joined.reshape(len(joined), 64, 24)


@pytest.mark.parametrize(("count", "prefix"), [(40, ""), (12, "low_")])
def test_the_golden_numbers_of_a_gaussian_for_each_position(count, prefix):
    features = golden.feature_parameters(STEM)
    numbers = golden.numbers(STEM)
    train, test = embedded(features, "train", count), embedded(features, "test")
    want = numbers[f"{prefix}dist"].reshape(3, 64)
    np.testing.assert_allclose(mahalanobis_reference(test, train, EPSILON), want, rtol=1e-10)
    got = distances(test, fit_gaussians(train, 24, EPSILON))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    maps = np.asarray(upsample_maps(got.reshape(3, 8, 8), (64, 64), 4.0))
    np.testing.assert_allclose(maps.max((1, 2)), numbers[f"{prefix}score"], rtol=1e-5)
    if not prefix:
        np.testing.assert_allclose(maps[:, ::2, ::2], numbers["map"], rtol=1e-5)


def test_the_golden_numbers_of_resizing_and_smoothing():
    numbers = golden.numbers(STEM) if golden.feature_parameters(STEM) else {}
    matrix = gaussian_matrix(64, 4.0)
    np.testing.assert_allclose(matrix[32, 16:49], numbers["kernel"], rtol=1e-10)
    impulses = np.zeros((2, 64, 64))
    impulses[0, 0, 0] = impulses[1, 5, 60] = 1
    smooth = matrix @ impulses @ matrix.T
    np.testing.assert_allclose(smooth[:, ::4, ::4], numbers["impulse_smooth"], atol=1e-12)
