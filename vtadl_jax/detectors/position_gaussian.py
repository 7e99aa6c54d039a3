"""The second baseline: one Gaussian per grid position, over raw patch statistics.

The statistics are mean, standard deviation and mean absolute differences along rows and columns of
the patch's grey values. It suits aligned objects, and fails where the position of parts varies.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.networks import fitting
from vtadl_jax.networks.features import grid_of
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.color import to_grey
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import LARGEST_SIZE, option

SCORE_TERMS = ("max_nll", "mean_nll")
NUM_STATISTICS = 4
SHRINK = 0.1  # shrinkage of a position's covariance towards the pooled one, for few images
RIDGE = 1e-6  # of grey values in [0, 1]: a quarter of a grey level


@dataclasses.dataclass(frozen=True)
class GridOptions:
    """Options of the grid of Gaussians."""

    stride: int = option(8, "between grid positions", unit="px", at_least=1, limit=LARGEST_SIZE)


@dataclasses.dataclass(frozen=True)
class PositionGaussianOptions:
    """Options of the position_gaussian detector."""

    filters: GridOptions = GridOptions()


def patch_statistics(grey, stride: int):
    """Computes mean, standard deviation, mean |d/dx| and mean |d/dy| of each patch.

    grey: [B, H, W] in [0, 1]. Returns [B, h, w, 4].
    """
    batch, height, width = grey.shape
    patches = grey.reshape(batch, height // stride, stride, width // stride, stride)
    mean = patches.mean((2, 4))
    spread = jnp.sqrt(patches.var((2, 4)) + RIDGE)
    across = jnp.abs(jnp.diff(patches, axis=4)).mean((2, 4))
    down = jnp.abs(jnp.diff(patches, axis=2)).mean((2, 4))
    return jnp.stack([mean, spread, across, down], -1)


def position_gaussian(options: PositionGaussianOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    stride, dim = options.filters.stride, NUM_STATISTICS
    grid = grid_of(stride, inputs.image_size)

    def init(key):
        del key
        precision = jnp.tile(jnp.eye(dim), (*grid, 1, 1))
        return {"params": {"loc": jnp.zeros((*grid, dim)), "precision": precision}, "stats": {}}

    def statistics(images):
        return patch_statistics(to_grey(images), stride)

    def gather(variables, images, key):
        del variables, key
        return statistics(images)

    def solve(variables, samples, rng: np.random.Generator):
        del rng
        samples = np.asarray(samples, np.float64)
        loc = samples.mean(0)
        residual = samples - loc
        covariance = np.einsum("nhwi,nhwj->hwij", residual, residual) / len(samples)
        pooled = covariance.mean((0, 1)) + RIDGE * np.eye(dim)
        covariance = (1 - SHRINK) * covariance + SHRINK * pooled
        params = {"loc": loc, "precision": fitting.precision_factor(covariance)}
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
        return {**variables, "params": params}

    def nll(params, images):
        residual = statistics(images) - params["loc"]
        z = jnp.einsum("bhwi,hwij->bhwj", residual, params["precision"])
        scale = jnp.log(jnp.diagonal(params["precision"], axis1=-2, axis2=-1)).sum(-1)
        return 0.5 * jnp.square(z).sum(-1) - scale + 0.5 * dim * jnp.log(2 * jnp.pi)

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params = parallel.gather_params(variables["params"])
        value = nll(params, batch["image"]).mean()
        return value, ({"nll": value}, variables["stats"])

    def score(variables, images):
        values = nll(variables["params"], images)
        maps = upsample_maps(values, inputs.image_size, inputs.map_sigma)
        terms = jnp.stack([maps.max((1, 2)), values.mean((1, 2))], -1)
        return Scores(terms, maps)

    return Detector(init, score, SCORE_TERMS, (1.0, 0.0), loss, Fit(gather, solve))
