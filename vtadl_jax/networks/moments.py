"""Means and covariances of rows that arrive in batches: exact, in float64, without keeping rows.

A batch's moments are taken about its own mean and merged into those before it (Chan, Golub and
LeVeque, 1979), so a mean that is large beside the deviations cancels nothing.
`moments_reference` is the plain definition over all rows at once.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
CHUNK_BYTES = 2**20  # of scatters that are computed at once: they stay in the cache


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of rows of d values at each of P places.

    count: number of rows at each place. mean: [P, d] float64. scatter: [P, d, d] float64, the sum
    of products of deviations from the mean; divided by `count` it is the covariance.
    """

    count: int
    mean: Float
    scatter: Float

    @property
    def covariance(self) -> Float:
        """Returns the covariances [P, d, d] of maximum likelihood (divided by the count)."""
        return self.scatter / self.count

    def pooled(self) -> "Moments":
        """Returns the moments of the rows of all places together, [1, d] and [1, d, d]."""
        mean = self.mean.mean(0, keepdims=True)
        off = self.mean - mean
        scatter = self.scatter.sum(0, keepdims=True) + self.count * (off.T @ off)
        return Moments(self.count * len(self.mean), mean, scatter)


def add_rows(found: Moments | None, rows: np.ndarray) -> Moments:
    """Returns the moments with a batch's rows added; changes the arrays of `found` in place.

    rows: [n, P, d], n ≥ 0. found: None before the first rows. Takes little memory beside `found`
    and a float64 copy of the rows.
    """
    rows = np.asarray(rows, np.float64)
    count, places, dim = rows.shape
    if found is None:
        found = Moments(0, np.zeros((places, dim)), np.zeros((places, dim, dim)))
    if count == 0:
        return found
    total = found.count + count
    mean = rows.mean(0)
    shift = mean - found.mean
    residual = (rows - mean).swapaxes(0, 1)  # [P, n, d]
    # The difference of the two means is one more row, of this weight.
    between = math.sqrt(found.count * count / total) * shift[:, None]
    residual = np.concatenate([residual, between], 1)
    chunk = min(max(1, CHUNK_BYTES // (8 * dim * dim)), places)
    products = np.empty((chunk, dim, dim))
    for start in range(0, places, chunk):
        part = residual[start : start + chunk]
        np.matmul(part.swapaxes(1, 2), part, out=products[: len(part)])
        found.scatter[start : start + chunk] += products[: len(part)]
    np.add(found.mean, shift * (count / total), out=found.mean)
    return Moments(total, found.mean, found.scatter)


def bytes_of(places: int, dim: int) -> int:
    """Returns the memory of `Moments` in bytes."""
    return 8 * places * dim * (dim + 1)


def moments_reference(rows: np.ndarray) -> Moments:
    """Computes `Moments` of rows [N, P, d] in two passes over all of them."""
    rows = np.asarray(rows, np.float64)
    mean = rows.mean(0)
    off = rows - mean
    return Moments(len(rows), mean, np.einsum("npi,npj->pij", off, off))
