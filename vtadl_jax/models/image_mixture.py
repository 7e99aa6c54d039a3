"""A mixture of Gaussians over whole images: where they are small and each shows one thing.

An image is described by its oriented edges in cells, the description projected on the principal
directions of good images, and a mixture with full covariances fitted there by EM. What lies off
those directions is a reconstruction error, and its place is the anomaly map.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models import fitting
from vtadl_jax.models.detector import ALONE, Detector, Fit, Scores
from vtadl_jax.models.features import no_recon
from vtadl_jax.models.grey import to_grey
from vtadl_jax.ops.mixture import shared_mixture_log_prob
from vtadl_jax.ops.orientations import oriented_edges
from vtadl_jax.ops.resize import upsample_maps

SCORE_TERMS = ("nll", "residual")
EM_ITERATIONS = 20
PRECISION = jax.lax.Precision.HIGHEST


def grid_of(config: ConfigDict) -> tuple[int, int]:
    """(rows, columns) of cells. Raises UserError where the config's numbers do not fit."""
    options, size = config.model.edges, tuple(config.image_size)
    if options.stride < 1 or any(side % options.stride for side in size):
        raise UserError(
            f"model.edges.stride {options.stride}: does not divide image_size {size}: use a divisor"
        )
    if options.num_orientations < 1 or options.sigma <= 0:
        raise UserError(
            f"model.edges: num_orientations {options.num_orientations} and sigma {options.sigma} "
            "must be positive"
        )
    return size[0] // options.stride, size[1] // options.stride


def principal_directions(samples: np.ndarray, dim: int):
    """(mean [D], basis [D, dim] orthonormal, spread [dim] along it, variance off it a direction).

    samples: [N, D]. Directions beyond the rank of few samples have a spread of almost nothing.
    """
    samples = np.asarray(samples, np.float64)
    mean = samples.mean(0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(samples, rowvar=False)))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    left = values[dim:].mean() if dim < len(values) else 0.0
    return mean, vectors[:, :dim], np.sqrt(values[:dim] + 1e-6), max(float(left), 1e-6)


def image_mixture(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    grid, options, mdn = grid_of(config), config.model.edges, config.model.mdn
    cells = (*grid, options.num_orientations + 1)
    width = int(np.prod(cells))
    dim, count = min(mdn.feature_dim, width), mdn.num_components

    def describe(images):
        edges = oriented_edges(
            to_grey(images), options.stride, options.num_orientations, options.sigma
        )
        return edges.reshape(len(images), width)

    def gather(variables, images, key):
        del variables, key
        return describe(images)

    def init(key):
        params = {
            "logits": jnp.zeros(count),
            "loc": jax.random.normal(key, (count, dim)),
            "precision": jnp.tile(jnp.eye(dim), (count, 1, 1)),
        }
        statistics = {
            "mean": jnp.zeros(width),
            "basis": jnp.eye(width, dim),
            "spread": jnp.ones(dim),
            "left": jnp.ones(()),
        }
        return {"params": params, "batch_stats": statistics}

    def solve(variables, samples, rng: np.random.Generator):
        del variables
        mean, basis, spread, left = principal_directions(samples, dim)
        y = (samples - mean) @ basis / spread
        logits, loc, covariance, _ = fitting.fit_mixture(y, count, rng, EM_ITERATIONS)
        precision = fitting.precision_factor(covariance)
        fitted = {
            "params": {"logits": logits, "loc": loc, "precision": precision},
            "batch_stats": {"mean": mean, "basis": basis, "spread": spread, "left": left},
        }
        return jax.tree.map(lambda x: np.asarray(x, np.float32), fitted)

    def project(statistics, images):
        """(coordinates in units of their spread [B, dim], what lies off the directions [B, D])."""
        off = describe(images) - statistics["mean"]
        y = jnp.matmul(off, statistics["basis"], precision=PRECISION)
        off = off - jnp.matmul(y, statistics["basis"].T, precision=PRECISION)
        return y / statistics["spread"], off

    def nll(params, y):
        return -shared_mixture_log_prob(
            params["logits"], params["loc"], params["precision"], y, factor_of="precision"
        )

    def loss(params, batch_stats, images, keys, layout=ALONE):
        del keys
        value = nll(layout.whole(params), project(batch_stats, images)[0]).mean()
        return value, ({"nll": value}, batch_stats)

    def score(variables, images):
        statistics = variables["batch_stats"]
        y, off = project(statistics, images)
        residual = 0.5 * jnp.square(off) / statistics["left"]
        maps = residual.reshape(-1, *cells).sum(-1)
        maps = upsample_maps(maps, tuple(config.image_size), config.eval.map_sigma)
        terms = jnp.stack([nll(variables["params"], y), residual.sum(-1)], -1)
        return Scores(terms, maps, no_recon(images))

    return Detector(init, loss, score, SCORE_TERMS, Fit(gather, solve))
