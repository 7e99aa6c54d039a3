"""A Gaussian mixture that follows its samples by online EM, without gradients.

Cappé and Moulines, 2009: running means of the expected statistics of a component (its mass, sum and
scatter) replace the sums over all samples. A gradient step moves every parameter by about the
learning rate, which takes thousands of steps where samples have narrow directions; an EM update
moves it to where the samples are. The statistics are variables of the collection 'stats'.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.mixture import shared_mixture_log_prob

# The weight of a new batch is (steps + 2) ** -DECAY, never below LEAST: early statistics, of an
# encoder that has changed since, are forgotten.
DECAY, LEAST = 0.6, 0.005
EMPTY = 1e-8  # added to the mass of a component, which may be left without samples


class Statistics(NamedTuple):
    """Running statistics: mass [K], total [K, d], scatter [K, d, d], all float32."""

    mass: jax.Array
    total: jax.Array
    scatter: jax.Array


def mixture_of(statistics: Statistics, scale_floor: float):
    """Returns logits [K], loc [K, d] and Cholesky factors of the covariances [K, d, d].

    scale_floor²: added to each variance.
    """
    mass = statistics.mass + EMPTY
    loc = statistics.total / mass[:, None]
    covariance = statistics.scatter / mass[:, None, None] - loc[:, :, None] * loc[:, None]
    covariance += scale_floor**2 * jnp.eye(loc.shape[-1])
    return jnp.log(mass), loc, jnp.linalg.cholesky(covariance)


def first_statistics(samples, num_components: int) -> Statistics:
    """Returns statistics before any update: means at samples [T, d] spread over the batch, the
    samples' covariance, smaller for more components, and equal masses."""
    count, dim = samples.shape
    places = np.linspace(0, count - 1, num_components).astype(int)
    loc = samples[places]
    centred = samples - samples.mean(0)
    covariance = _outer_sum(centred, centred) / (count * num_components ** (2 / dim))
    mass = jnp.full(num_components, 1 / num_components)
    scatter = covariance + loc[:, :, None] * loc[:, None]
    return Statistics(mass, mass[:, None] * loc, mass[:, None, None] * scatter)


def expected_statistics(samples, mixture) -> tuple[jax.Array, Statistics]:
    """Returns the log-likelihood of samples [T, d], [T], and their expected statistics (E step)."""
    logits, loc, factor = mixture
    identity = jnp.broadcast_to(jnp.eye(loc.shape[-1]), factor.shape)
    inverse = jax.lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True)
    whitened = jnp.einsum(
        "kij,ktj->kti", inverse, samples - loc[:, None], precision=jax.lax.Precision.HIGHEST
    )
    scale = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    norm = 0.5 * samples.shape[-1] * np.log(2 * np.pi)
    log_prob = -0.5 * jnp.square(whitened).sum(-1) - (scale + norm)[:, None]
    joint = log_prob + jax.nn.log_softmax(logits)[:, None]
    share = jax.lax.stop_gradient(jax.nn.softmax(joint, 0)) / len(samples)  # [K, T]
    fixed = jax.lax.stop_gradient(samples)
    total = jnp.matmul(share, fixed, precision=jax.lax.Precision.HIGHEST)
    scatter = jax.vmap(lambda weight: _outer_sum(fixed * weight[:, None], fixed))(share)
    return jax.nn.logsumexp(joint, 0), Statistics(share.sum(1), total, scatter)


def _outer_sum(a, b):
    """Returns Σ_t a_t b_tᵀ of [T, d] and [T, d]."""
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)


class OnlineMixture(nn.Module):
    """Log-likelihood [T] of samples [T, d]; in training, an EM update by the samples follows.

    A step sees the mixture of the steps before it. The first one starts at its own samples.
    """

    num_components: int
    scale_floor: float

    @nn.compact
    def __call__(self, samples, train: bool):
        k, d = self.num_components, samples.shape[-1]
        steps = self.variable("stats", "steps", jnp.zeros, ())
        zeros = Statistics(jnp.zeros(k), jnp.zeros((k, d)), jnp.zeros((k, d, d)))
        kept = self.variable("stats", "mixture", lambda: zeros._asdict())
        statistics = Statistics(**kept.value)
        if not train:
            logits, loc, factor = mixture_of(statistics, self.scale_floor)
            return shared_mixture_log_prob(logits, loc, factor, samples)
        fresh = first_statistics(jax.lax.stop_gradient(samples), k)
        statistics = jax.tree.map(
            lambda first, old: jnp.where(steps.value == 0, first, old), fresh, statistics
        )
        log_prob, new = expected_statistics(samples, mixture_of(statistics, self.scale_floor))
        weight = jnp.maximum((steps.value + 2) ** -DECAY, LEAST)
        if not self.is_initializing():
            steps.value += 1
            mixed = jax.tree.map(lambda old, now: old + weight * (now - old), statistics, new)
            kept.value = mixed._asdict()
        return log_prob
