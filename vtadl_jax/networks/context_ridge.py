"""How well the features of a place follow from those around it: a regression in closed form.

As `context_mdn`, but solved instead of trained: ridge regression of a place's whitened features on
those in rings around it and on fixed random units of them. The residual's squared Mahalanobis
distance is compared with what a second regression expects of it in this context, so that a place
where little can be predicted is not novel by that. A defect is a small part of an image and of all
images a smaller one; so a fit to images of which some have defects is nearly that of good ones.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.context import DIRECTIONS, context_of

RADII = (2, 6)  # of the rings, in places
UNITS = 500  # random units of the context
UNIT_SCALE = 1.5  # of their inputs; the features have unit scale
LIMIT = 8.0  # sigma: contexts are clipped there
# Of the mean square of the regressors, from FEW rows for each of them; more where there are fewer.
RIDGE, FEW = 1e-4, 20
FLOOR = 0.5  # added to squared distances before the logarithm


class Ridge(NamedTuple):
    """A fitted regression, float32.

    mean: [U, d] of regressors to features. precision: [d, d] of its residuals. expected: [U, 1] of
    regressors to the logarithm of a squared distance. spread: deviation of that logarithm from it.
    """

    mean: np.ndarray
    precision: np.ndarray
    expected: np.ndarray
    spread: np.ndarray


@functools.lru_cache(maxsize=4)
def units(width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights [X, UNITS] and biases [UNITS] of the random units for features [width]."""
    rng, inputs = np.random.default_rng(seed), DIRECTIONS * len(RADII) * width
    weights = rng.standard_normal((inputs, UNITS)) * UNIT_SCALE / np.sqrt(inputs)
    return weights.astype(np.float32), rng.uniform(-1, 1, UNITS).astype(np.float32)


@jax.jit
def regressors(features):
    """Returns what a place is predicted from: [B, h, w, d] → [B, h · w, U]."""
    weights, biases = units(features.shape[-1])
    context = context_of(jnp.clip(features, -LIMIT, LIMIT), RADII)
    context = context.reshape(features.shape[0], -1, context.shape[-1])
    hidden = jax.nn.relu(context @ weights + biases)
    return jnp.concatenate([hidden, context, jnp.ones((*context.shape[:2], 1))], -1)


def fit_ridge(rows: np.ndarray, targets: np.ndarray) -> Ridge:
    """Fits to rows of `regressors` [N, U] and the features at their places [N, d]; N ≥ 2."""
    from scipy import linalg  # local: the import slows down every start

    gram = (rows.T @ rows).astype(np.float64)
    gram[np.diag_indices(len(gram))] += ridge_of(rows.shape) * np.trace(gram) / len(gram)
    factor = linalg.cho_factor(gram, overwrite_a=True)

    def solve(values: np.ndarray) -> np.ndarray:
        return linalg.cho_solve(factor, (rows.T @ values).astype(np.float64)).astype(np.float32)

    mean = solve(targets)
    residual = (targets - rows @ mean).astype(np.float64)
    covariance = residual.T @ residual / len(residual)
    covariance += 1e-6 * np.eye(len(covariance))
    precision = np.linalg.inv(covariance).astype(np.float32)
    level = np.log(np.einsum("ni,ij,nj->n", residual, precision, residual) + FLOOR)[:, None]
    expected = solve(level.astype(np.float32))
    spread = np.asarray((level - rows @ expected).std() + 1e-6, np.float32)
    return Ridge(mean, precision, expected, spread)


def ridge_of(shape: tuple[int, ...]) -> float:
    """Returns the ridge for rows of a shape (N, U)."""
    return RIDGE * max(1.0, FEW * shape[1] / shape[0]) ** 2


@jax.jit
def excess(ridge: Ridge, features):
    """Returns how much farther from its prediction each place is than expected, in deviations:
    [B, h, w, d] → [B, h, w]."""
    rows = regressors(features)
    residual = features.reshape(*rows.shape[:2], -1) - rows @ ridge.mean
    squared = jnp.einsum("bni,ij,bnj->bn", residual, ridge.precision, residual)
    found = (jnp.log(squared + FLOOR) - (rows @ ridge.expected)[..., 0]) / ridge.spread
    return found.reshape(features.shape[:-1])


def fit_reference(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns `Ridge.mean` from the definition, in float64: least squares with added rows."""
    rows, targets = np.asarray(rows, np.float64), np.asarray(targets, np.float64)
    size = rows.shape[1]
    ridge = np.sqrt(ridge_of(rows.shape) * np.square(rows).sum() / size)
    added = np.concatenate([rows, ridge * np.eye(size)])
    padded = np.concatenate([targets, np.zeros((size, targets.shape[1]))])
    return np.linalg.lstsq(added, padded, rcond=None)[0]
