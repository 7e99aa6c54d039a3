"""Whitening, EM and k-center, fitted on the host in float64. No images, no training."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
RIDGE = 1e-3  # added to covariances of whitened values
BLOCK = 2**21  # numbers in memory at once: 16 MiB
CACHED = 2**17  # float32 numbers that stay in a core's cache
LEAST_POOL, POOL_SHARE = 512, 16  # of samples among which k_centre looks for the farthest


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


def standardization(samples: np.ndarray) -> dict[str, Float]:
    """Returns 'mean' and 'spread' [D] of samples [N, D]; a constant channel has a small spread."""
    return {
        "mean": samples.mean(0, dtype=np.float64),
        "spread": samples.std(0, dtype=np.float64) + 1e-6,
    }


def precision_factor(covariance: np.ndarray) -> Float:
    """Returns the lower triangular P with P Pᵀ = Σ⁻¹, for Σ [..., d, d].

    Uses the reversed Cholesky factor: Σ = U Uᵀ with U upper triangular, P = U⁻ᵀ.
    """
    flipped = np.linalg.cholesky(covariance[..., ::-1, ::-1])
    return np.swapaxes(_inverse_of_lower(flipped)[..., ::-1, ::-1], -1, -2)


def _inverse_of_lower(factors: np.ndarray) -> Float:
    """Returns the inverses of lower triangular matrices [..., d, d].

    LAPACK's own takes a sixth of the operations of `np.linalg.inv`, which does not know of the
    zeros; its LU factors of 100 × 100 cost OpenBLAS' two threads more in waiting than in work.
    """
    from scipy.linalg.lapack import dtrtri  # local: the import slows down every start

    found = np.empty_like(factors)
    for index in np.ndindex(factors.shape[:-2]):
        # The transposed view is in LAPACK's order: no copy.
        found[index] = dtrtri(factors[index].T, lower=0)[0].T
    return found


def component_log_prob(samples: np.ndarray, loc: np.ndarray, covariance: np.ndarray) -> Float:
    """Returns log N(samples [N, d] | loc [K, d], covariance [K, d, d]), [N, K].

    The slow twin of `fit_mixture`'s densities, by triangular solves.
    """
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
    samples = np.asarray(samples, np.float64)
    count, dim = samples.shape
    loc = _spread_out(samples, num_components, rng)
    whole = np.atleast_2d(np.cov(samples, rowvar=False)) + ridge * np.eye(dim)
    covariance = np.repeat(whole[None] / num_components ** (1 / dim), num_components, 0)
    log_weights = np.full(num_components, -np.log(num_components))
    history = []
    for _ in range(num_iterations):
        evidence, mass, total, scatter = _expectations(samples, log_weights, loc, covariance)
        history.append(evidence / count)
        mass = mass + 1e-9
        log_weights = np.log(mass / count)
        loc = total / mass[:, None]
        covariance = scatter / mass[:, None, None] - loc[:, :, None] * loc[:, None]
        covariance += ridge * np.eye(dim)
    return log_weights, loc, covariance, history


def _expectations(
    samples: Float, log_weights: Float, loc: Float, covariance: Float
) -> tuple[float, Float, Float, Float]:
    """Returns the E step of all samples: their log-likelihood, and each component's expected number
    of samples [K], sum [K, d] and scatter [K, d, d].

    A log-density is linear in the monomials 1, x_i, x_i x_j of a sample. So the densities under all
    components are one matrix product, and so are the sums; a loop over components would read all
    samples for each of them. Blocks of samples bound the memory.
    """
    from scipy.special import logsumexp  # local: the import slows down every start

    dim = samples.shape[1]
    rows, columns = np.triu_indices(dim)
    coefficients = _coefficients(log_weights, loc, covariance)
    sums, evidence = np.zeros_like(coefficients), 0.0
    size = max(1, BLOCK // coefficients.shape[1])
    for start in range(0, len(samples), size):
        block = samples[start : start + size]
        monomials = np.empty((len(block), coefficients.shape[1]))
        monomials[:, 0], monomials[:, 1 : dim + 1] = 1, block
        np.multiply(block[:, rows], block[:, columns], out=monomials[:, dim + 1 :])
        joint = monomials @ coefficients.T
        likelihood = logsumexp(joint, axis=1, keepdims=True)
        evidence += float(likelihood.sum())
        sums += np.exp(joint - likelihood).T @ monomials
    scatter = np.empty((len(loc), dim, dim))
    scatter[:, rows, columns] = scatter[:, columns, rows] = sums[:, dim + 1 :]
    return evidence, sums[:, 0], sums[:, 1 : dim + 1], scatter


def _coefficients(log_weights: Float, loc: Float, covariance: Float) -> Float:
    """Returns log(weight · density) as coefficients [K, monomials] of 1, x_i and x_i x_j, i ≤ j."""
    dim = loc.shape[1]
    rows, columns = np.triu_indices(dim)
    factor = precision_factor(covariance)
    precision = factor @ factor.swapaxes(-1, -2)
    linear = np.einsum("kij,kj->ki", precision, loc)
    scale = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    constant = log_weights + scale - 0.5 * (linear * loc).sum(-1) - 0.5 * dim * np.log(2 * np.pi)
    quadratic = -precision[:, rows, columns] * np.where(rows == columns, 0.5, 1.0)
    return np.concatenate([constant[:, None], linear, quadratic], axis=1)


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


def k_centre(
    samples: np.ndarray, count: int, rng: np.random.Generator, dim: int = 64
) -> NDArray[np.intp]:
    """Returns indices of `count` samples that cover all samples: greedy k-center.

    samples: [N, D] float32, N ≥ count. The first is drawn at random, each next one is the farthest
    from those before it (Sener and Savarese, 2018). Distances are measured in a random projection
    to at most `dim` dimensions (Johnson-Lindenstrauss), as in Roth et al., 2022.

    Distances to those chosen only fall, so those that were measured once bound them from above.
    Hence the farthest is looked for in a pool of the most distant samples, as long as it is not
    nearer than the bound of all others; then the others are measured, by one matrix product.
    """
    if count == len(samples):
        return np.arange(count)
    samples = np.asarray(samples, np.float32)
    dim = min(dim, samples.shape[1])
    if dim < samples.shape[1]:
        directions = rng.normal(size=(samples.shape[1], dim)) / np.sqrt(dim)
        samples = samples @ directions.astype(np.float32)
    norms = np.square(samples).sum(1)
    chosen = np.empty(count, np.intp)
    chosen[0], start, end = rng.integers(len(samples)), 0, 1
    nearest = np.full(len(samples), np.inf, np.float32)
    size = min(max(LEAST_POOL, len(samples) // POOL_SHARE), len(samples))
    while True:
        _measure(samples, norms, chosen[start:end], nearest)
        if end == count:
            return chosen
        order = np.argpartition(nearest, len(nearest) - size)
        pool, others = order[-size:], order[:-size]
        bound = nearest[others].max(initial=-np.inf)
        start, end = (
            end,
            _choose(samples[pool], norms[pool], nearest[pool], bound, pool, chosen, end),
        )


def _choose(
    samples: np.ndarray,
    norms: np.ndarray,
    nearest: np.ndarray,
    bound: float,
    numbers: np.ndarray,
    chosen: np.ndarray,
    start: int,
) -> int:
    """Chooses the farthest samples of a pool, one at a time, while none of the others, whose
    distances are at most `bound`, can be farther. Returns the end of those chosen.

    numbers: of the pool's samples, written to `chosen` from `start` on. The first is always taken.
    """
    for end in range(start, len(chosen)):
        best = int(nearest.argmax())
        if end > start and nearest[best] < bound:
            return end
        chosen[end] = numbers[best]
        last = samples[best]
        # |s - c|² up to rounding; exact zeros are not needed, only the largest counts.
        np.minimum(nearest, norms - 2 * (samples @ last) + norms[best], out=nearest)
        nearest[best] = -np.inf
    return len(chosen)


def _measure(
    samples: np.ndarray, norms: np.ndarray, chosen: np.ndarray, nearest: np.ndarray
) -> None:
    """Lowers `nearest`, the squared distances to all that was chosen, by those to `chosen`."""
    centres, rows = 2 * samples[chosen].T, max(1, CACHED // len(chosen))
    for i in range(0, len(samples), rows):
        closeness = samples[i : i + rows] @ centres
        closeness -= norms[chosen]
        found = norms[i : i + rows] - closeness.max(1)
        np.minimum(nearest[i : i + rows], found, out=nearest[i : i + rows])
    nearest[chosen] = -np.inf
