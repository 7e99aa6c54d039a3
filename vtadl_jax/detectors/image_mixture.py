"""A mixture of Gaussians over whole images, for small images that each show one object.

The descriptor of an image is its oriented edges per cell, projected on the principal components of
normal images. EM fits a mixture with full covariances to the projections. The residual outside the
principal subspace is a reconstruction error; its map over the cells is the anomaly map.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.networks import fitting
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.color import to_grey
from vtadl_jax.ops.mixture import shared_mixture_log_prob
from vtadl_jax.ops.orientations import oriented_edges
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import LARGEST_SIZE, option

SCORE_TERMS = ("nll", "residual")
EM_ITERATIONS = 20
PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class EdgeOptions:
    """Options of the image descriptor."""

    stride: int = option(4, "from one cell to the next", unit="px", at_least=1, limit=LARGEST_SIZE)
    num_orientations: int = option(8, "of edges", at_least=1, limit=LARGEST_SIZE)
    sigma: float = option(
        1.0, "of the smoothing before differences", unit="px", above=0, limit=LARGEST_SIZE
    )


@dataclasses.dataclass(frozen=True)
class ImageMdnOptions:
    """Options of the mixture over descriptors."""

    num_components: int = option(8, "Gaussians", at_least=1, limit=LARGEST_SIZE)
    feature_dim: int = option(
        64, "principal components that the density models", at_least=1, limit=LARGEST_SIZE
    )


@dataclasses.dataclass(frozen=True)
class ImageMixtureOptions:
    """Options of the image_mixture detector."""

    edges: EdgeOptions = EdgeOptions()
    mdn: ImageMdnOptions = ImageMdnOptions()


def grid_of(stride: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of cells. Raises UserError if the stride does not divide a side."""
    if any(side % stride for side in image_size):
        raise UserError(
            f"model.edges.stride {stride}: does not divide image_size {image_size}: use a divisor"
        )
    return image_size[0] // stride, image_size[1] // stride


def principal_directions(samples: np.ndarray, dim: int):
    """Computes a PCA of samples [N, D].

    Returns mean [D], orthonormal basis [D, dim], standard deviation [dim] along it, and the mean
    residual variance per remaining direction. With few samples, directions beyond their rank have a
    deviation near zero.
    """
    samples = np.asarray(samples, np.float64)
    mean = samples.mean(0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(samples, rowvar=False)))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    left = values[dim:].mean() if dim < len(values) else 0.0
    return mean, vectors[:, :dim], np.sqrt(values[:dim] + 1e-6), max(float(left), 1e-6)


def image_mixture(options: ImageMixtureOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    edges, mdn = options.edges, options.mdn
    cells = (*grid_of(edges.stride, inputs.image_size), edges.num_orientations + 1)
    width = int(np.prod(cells))
    dim, count = min(mdn.feature_dim, width), mdn.num_components

    def describe(images):
        found = oriented_edges(to_grey(images), edges.stride, edges.num_orientations, edges.sigma)
        return found.reshape(images.shape[0], width)

    def gather(variables, images, key):
        del variables, key
        return describe(images)

    def init(key):
        params = {
            "logits": jnp.zeros(count),
            "loc": jax.random.normal(key, (count, dim)),
            "precision": jnp.tile(jnp.eye(dim), (count, 1, 1)),
        }
        stats = {
            "mean": jnp.zeros(width),
            "basis": jnp.eye(width, dim),
            "spread": jnp.ones(dim),
            "left": jnp.ones(()),
        }
        return {"params": params, "stats": stats}

    def solve(variables, samples, rng: np.random.Generator):
        if len(samples) < 2:
            raise UserError(
                f"detector 'image_mixture' has one point an image, and {len(samples)} is left to "
                f"fit: give 3 good images or more, or take another detector"
            )
        mean, basis, spread, left = principal_directions(samples, dim)
        y = (samples - mean) @ basis / spread
        logits, loc, covariance, _ = fitting.fit_mixture(y, count, rng, EM_ITERATIONS)
        precision = fitting.precision_factor(covariance)
        fitted = {
            "params": {"logits": logits, "loc": loc, "precision": precision},
            "stats": {"mean": mean, "basis": basis, "spread": spread, "left": left},
        }
        return {**variables, **jax.tree.map(lambda x: np.asarray(x, np.float32), fitted)}

    def project(stats, images):
        """Returns (whitened coordinates [B, dim], residual outside the subspace [B, D])."""
        off = describe(images) - stats["mean"]
        y = jnp.matmul(off, stats["basis"], precision=PRECISION)
        off = off - jnp.matmul(y, stats["basis"].T, precision=PRECISION)
        return y / stats["spread"], off

    def nll(params, y):
        return -shared_mixture_log_prob(
            params["logits"], params["loc"], params["precision"], y, factor_of="precision"
        )

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params, stats = parallel.gather_params(variables["params"]), variables["stats"]
        value = nll(params, project(stats, batch["image"])[0]).mean()
        return value, ({"nll": value}, stats)

    def score(variables, images):
        stats = variables["stats"]
        y, off = project(stats, images)
        residual = 0.5 * jnp.square(off) / stats["left"]
        maps = residual.reshape(-1, *cells).sum(-1)
        maps = upsample_maps(maps, inputs.image_size, inputs.map_sigma)
        terms = jnp.stack([nll(variables["params"], y), residual.sum(-1)], -1)
        return Scores(terms, maps)

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 0.0),
        loss,
        Fit(gather, solve),
        positions=("image_mixture",),
        only_positions=True,
    )
