"""Whitening, EM and k-center, fitted on the host in float64. No images, no training."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
RIDGE = 1e-3  # added to covariances of whitened values


def whitening(samples: np.ndarray, dim: int) -> tuple[Float, Float]:
    """Returns (mean [D], projection [D, dim]) that whiten samples [N, D].

    Channels are standardized first, so that their units do not matter. A `dim` below D keeps the
    directions of largest variance. The variance of constant directions is bounded from below, so
    that a later change in one gives a large value, not infinity.
    """
    samples = np.asarray(samples, np.float64)
    mean, spread = samples.mean(0), samples.std(0) + 1e-6
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov((samples - mean) / spread, rowvar=False)))
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    return mean, vectors / np.sqrt(np.maximum(values, 1e-5)) / spread[:, None]


def precision_factor(covariance: np.ndarray) -> Float:
    """Returns the lower triangular P with P Pᵀ = Σ⁻¹, for Σ [..., d, d].

    Uses the reversed Cholesky factor: Σ = U Uᵀ with U upper triangular, P = U⁻ᵀ.
    """
    flipped = np.linalg.cholesky(covariance[..., ::-1, ::-1])
    return np.swapaxes(np.linalg.inv(flipped[..., ::-1, ::-1]), -1, -2)


def component_log_prob(samples: np.ndarray, loc: np.ndarray, covariance: np.ndarray) -> Float:
    """Returns log N(samples [N, d] | loc [K, d], covariance [K, d, d]), [N, K]."""
    from scipy.linalg import solve_triangular  # local: the import slows down every start

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
    """Fits a Gaussian mixture by EM (maximum likelihood). samples: [N, d], whitened.

    Returns log weights [K], loc [K, d], covariance [K, d, d] and the mean log-likelihood before
    each iteration. Means start at samples chosen by k-means++, covariances at a fraction of the
    data's covariance. `ridge` times the identity is added to every covariance, so that no component
    becomes singular.
    """
    from scipy.special import logsumexp

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
    """Draws `count` samples, each with probability proportional to its squared distance to those
    drawn before (k-means++)."""
    few = samples[rng.choice(len(samples), min(len(samples), 5000), replace=False)]
    chosen = [few[rng.integers(len(few))]]
    distance = np.full(len(few), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.square(few - chosen[-1]).sum(1))
        total = distance.sum()
        odds = distance / total if total > 0 else None
        chosen.append(few[rng.choice(len(few), p=odds)])
    return np.stack(chosen)


def k_centre(samples: np.ndarray, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Returns indices of `count` samples that cover all samples: greedy k-center.

    samples: [N, D] float32, N ≥ count. The first is drawn at random, each next one is the farthest
    from those before it (Sener and Savarese, 2018). Distances are measured in a random projection
    to at most 64 dimensions (Johnson-Lindenstrauss), as in Roth et al., 2022.
    """
    samples = np.asarray(samples, np.float32)
    dim = min(64, samples.shape[1])
    if dim < samples.shape[1]:
        directions = rng.normal(size=(samples.shape[1], dim)) / np.sqrt(dim)
        samples = samples @ directions.astype(np.float32)
    chosen = np.empty(count, np.intp)
    chosen[0] = rng.integers(len(samples))
    norms = np.square(samples).sum(1)
    nearest = np.full(len(samples), np.inf, np.float32)
    for i in range(1, count):
        last = samples[chosen[i - 1]]
        # |s - c|² up to rounding; exact zeros are not needed, only the largest counts.
        np.minimum(nearest, norms - 2 * (samples @ last) + last @ last, out=nearest)
        nearest[chosen[i - 1]] = -np.inf
        chosen[i] = int(nearest.argmax())
    return chosen
