"""Statistics and mixtures fitted on the host in float64: whitening, EM. No images, no training."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

Float = NDArray[np.float64]
RIDGE = 1e-3  # added to covariances of whitened values


def whitening(samples: np.ndarray, dim: int) -> tuple[Float, Float]:
    """(mean [D], projection [D, dim]) that make samples [N, D] uncorrelated and of unit variance.

    Channels are standardised first, so that none counts more for its unit. A `dim` below D keeps
    the directions of largest variance; directions that never vary are scaled as if they did, a
    little, so that a first change in one is a surprise and not an infinity.
    """
    samples = np.asarray(samples, np.float64)
    mean, spread = samples.mean(0), samples.std(0) + 1e-6
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov((samples - mean) / spread, rowvar=False)))
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    return mean, vectors / np.sqrt(np.maximum(values, 1e-5)) / spread[:, None]


def precision_factor(covariance: np.ndarray) -> Float:
    """Lower triangular P with P Pᵀ = Σ⁻¹, for Σ [..., d, d].

    From the reversed Cholesky factor: Σ = U Uᵀ with U upper triangular, P = U⁻ᵀ.
    """
    flipped = np.linalg.cholesky(covariance[..., ::-1, ::-1])
    return np.swapaxes(np.linalg.inv(flipped[..., ::-1, ::-1]), -1, -2)


def component_log_prob(samples: np.ndarray, loc: np.ndarray, covariance: np.ndarray) -> Float:
    """log N(samples [N, d] | loc [K, d], covariance [K, d, d]) → [N, K]."""
    found = np.empty((len(samples), len(loc)))
    for k, (centre, matrix) in enumerate(zip(loc, covariance, strict=True)):
        factor = np.linalg.cholesky(matrix)
        z = solve_triangular(factor, (samples - centre).T, lower=True, check_finite=False)
        found[:, k] = -0.5 * np.square(z).sum(0) - np.log(np.diag(factor)).sum()
    return found - 0.5 * samples.shape[1] * np.log(2 * np.pi)


def fit_mixture(
    samples: np.ndarray,
    num_components: int,
    rng: np.random.Generator,
    num_iterations: int = 30,
    ridge: float = RIDGE,
) -> tuple[Float, Float, Float, list[float]]:
    """Maximum likelihood by EM. samples: [N, d], whitened.

    Returns log weights [K], loc [K, d], covariance [K, d, d] and the mean log-likelihood before
    each iteration. Starts at samples chosen as k-means++ does, each with a share of the whole
    covariance. `ridge` times the identity in every covariance keeps each component proper.
    """
    samples = np.asarray(samples, np.float64)
    count, dim = samples.shape
    loc = _spread_out(samples, num_components, rng)
    whole = np.atleast_2d(np.cov(samples, rowvar=False)) + ridge * np.eye(dim)
    covariance = np.repeat(whole[None] / num_components ** (1 / dim), num_components, 0)
    log_weights = np.full(num_components, -np.log(num_components))
    history = []
    for _ in range(num_iterations):
        joint = component_log_prob(samples, loc, covariance) + log_weights
        evidence = logsumexp(joint, axis=1)
        history.append(float(evidence.mean()))
        share = np.exp(joint - evidence[:, None])
        mass = share.sum(0) + 1e-9
        log_weights = np.log(mass / count)
        loc = share.T @ samples / mass[:, None]
        for k in range(num_components):
            residual = samples - loc[k]
            scatter = (residual * share[:, k, None]).T @ residual / mass[k]
            covariance[k] = scatter + ridge * np.eye(dim)
    return log_weights, loc, covariance, history


def _spread_out(samples: Float, count: int, rng: np.random.Generator) -> Float:
    """`count` of the samples, each drawn with odds of its squared distance to those before it."""
    few = samples[rng.choice(len(samples), min(len(samples), 5000), replace=False)]
    chosen = [few[rng.integers(len(few))]]
    distance = np.full(len(few), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.square(few - chosen[-1]).sum(1))
        total = distance.sum()
        odds = distance / total if total > 0 else None
        chosen.append(few[rng.choice(len(few), p=odds)])
    return np.stack(chosen)
