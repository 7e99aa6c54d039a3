"""A Gaussian for each position, fitted to fewer images than it has dimensions; host and device.

The covariance at a position is A Aᵀ + εI, where the columns of A [D, R] are the images' deviations
from the mean, divided by √(N - 1). With R columns no matrix is larger than R × R: it is the form of
Woodbury, of which only the Cholesky factor of εI + AᵀA is needed. The Mahalanobis distance of a
residual r is the minimum over k of |r - A k|² / ε + |k|², and the minimum is where k solves a
system of that factor. So errors of k enter squared, and float32 suffices where the other form,
(|r|² - kᵀAᵀr) / ε, subtracts two large numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
CHUNK_BYTES = 2**27  # of float64 deviations that are worked on at once
TINY = 1e-12  # of the mean variance: what a Cholesky factor of a singular matrix needs


class Fitted(NamedTuple):
    """Gaussians of P positions.

    mean: [P, D]. spread: A, [P, D, R]. solver: the inverse of the Cholesky factor of εI + AᵀA,
    [P, R, R]. All float32. left_out: largest share of a position's variance that R columns do not
    hold; 0 if R is at least min(N - 1, D).
    """

    mean: np.ndarray
    spread: np.ndarray
    solver: np.ndarray
    left_out: float


def fit_gaussians(rows: np.ndarray, columns: int, epsilon: float) -> Fitted:
    """Fits a Gaussian to each position's rows, with covariance divided by N - 1, plus ε.

    rows: [N, P, D], N ≥ 2. columns: R. Deviations are taken and multiplied in float64. Fewer images
    than columns leave columns of zeros; of more, the R largest directions are kept, exactly all of
    the covariance if R is D.
    """
    count, places, dim = rows.shape
    mean = np.empty((places, dim), np.float32)
    spread = np.zeros((places, dim, columns), np.float32)
    solver = np.zeros((places, columns, columns), np.float32)
    left_out = 0.0
    chunk = max(1, CHUNK_BYTES // (8 * count * dim))
    for start in range(0, places, chunk):
        part = slice(start, start + chunk)
        values = np.ascontiguousarray(rows[:, part].swapaxes(0, 1), np.float64)  # [p, N, D]
        centre = values.mean(1, keepdims=True)
        values = (values - centre) / np.sqrt(count - 1)
        mean[part] = centre[:, 0]
        if count > columns:
            values, lost = _fewer(values, columns)
            left_out = max(left_out, lost)
        kept = values.shape[1]
        gram = values @ values.swapaxes(1, 2)
        spread[part, :, :kept] = values.swapaxes(1, 2)
        solver[part, :kept, :kept] = _inverse_factor(gram, epsilon)
    solver[:, np.arange(kept, columns), np.arange(kept, columns)] = epsilon**-0.5
    return Fitted(mean, spread, solver, left_out)


def _fewer(values: Float, columns: int) -> tuple[Float, float]:
    """Returns (rows [p, columns, D] of the same scatter, largest share of it that is left out)."""
    dim = values.shape[2]
    if columns >= dim:
        scatter = values.swapaxes(1, 2) @ values
        ridge = TINY * np.trace(scatter, axis1=1, axis2=2)[:, None] / dim + np.finfo(float).tiny
        scatter[:, np.arange(dim), np.arange(dim)] += ridge
        factor = np.asarray(np.linalg.cholesky(scatter), np.float64)
        return factor.swapaxes(1, 2), 0.0
    variance, vectors = np.linalg.eigh(values @ values.swapaxes(1, 2))
    largest = np.asarray(vectors[:, :, -columns:].swapaxes(1, 2) @ values, np.float64)
    total = np.maximum(variance.sum(1), np.finfo(float).tiny)
    lost = float((variance[:, :-columns].sum(1) / total).max())
    return largest, max(lost, 0.0)


def _inverse_factor(gram: Float, epsilon: float) -> Float:
    """Returns the inverses [p, n, n] of the lower Cholesky factors of ε I + gram."""
    from scipy.linalg import lapack  # local: the import slows down every start

    size = gram.shape[1]
    gram[:, np.arange(size), np.arange(size)] += epsilon
    factors = np.linalg.cholesky(gram)
    # A third of the work of a general inverse.
    return np.stack([lapack.dtrtri(factor, lower=1)[0] for factor in factors])


def mahalanobis(rows, gaussians: Any, epsilon: float):
    """Returns the Mahalanobis distance of each row to its position's Gaussian: [B, P] float32.

    rows: [B, P, D]. gaussians: 'mean', 'spread' and 'solver' as in `Fitted`.
    """
    with jax.default_matmul_precision("highest"):
        residual = rows - gaussians["mean"]
        spread, solver = gaussians["spread"], gaussians["solver"]
        projected = jnp.einsum("bpd,pdr->bpr", residual, spread)
        half = jnp.einsum("prs,bps->bpr", solver, projected)
        weights = jnp.einsum("prs,bpr->bps", solver, half)
        outside = residual - jnp.einsum("pdr,bpr->bpd", spread, weights)
    squared = jnp.square(outside).sum(-1) / epsilon + jnp.square(weights).sum(-1)
    return jnp.sqrt(squared)


def mahalanobis_reference(rows: np.ndarray, train: np.ndarray, epsilon: float) -> Float:
    """Computes the distances of rows [B, P, D] to Gaussians of train [N, P, D] by their definition:
    covariance and inverse of each position, float64."""
    rows, train = np.asarray(rows, np.float64), np.asarray(train, np.float64)
    found = np.empty(rows.shape[:2])
    for place in range(rows.shape[1]):
        covariance = np.cov(train[:, place], rowvar=False) + epsilon * np.eye(rows.shape[2])
        residual = rows[:, place] - train[:, place].mean(0)
        precision = np.linalg.inv(covariance)
        found[:, place] = np.sqrt(np.einsum("bi,ij,bj->b", residual, precision, residual))
    return found


def bytes_of(places: int, dim: int, columns: int) -> int:
    """Returns the memory of the Gaussians in bytes."""
    return 4 * places * (dim * (columns + 1) + columns**2)
