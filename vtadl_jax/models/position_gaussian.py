"""The other floor: a Gaussian of its own for each place of the grid, over raw patch statistics.

Mean, standard deviation and mean absolute differences along rows and columns of the patch's grey
values. Right where every part lies in the same place, blind to where it does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.models import fitting
from vtadl_jax.models.detector import ALONE, Detector, Fit, Scores
from vtadl_jax.models.features import no_recon
from vtadl_jax.models.grey import check_stride, to_grey
from vtadl_jax.ops.resize import upsample_maps

SCORE_TERMS = ("max_nll", "mean_nll")
NUM_STATISTICS = 4
SHRINK = 0.1  # of a place's covariance towards that of all places, for few images
RIDGE = 1e-6  # of grey values in [0, 1]: a quarter of a grey level


def patch_statistics(grey, stride: int):
    """grey: [B, H, W] in [0, 1] → [B, h, w, 4]: mean, spread, mean |d/dx|, mean |d/dy|."""
    batch, height, width = grey.shape
    patches = grey.reshape(batch, height // stride, stride, width // stride, stride)
    mean = patches.mean((2, 4))
    spread = jnp.sqrt(patches.var((2, 4)) + RIDGE)
    across = jnp.abs(jnp.diff(patches, axis=4)).mean((2, 4))
    down = jnp.abs(jnp.diff(patches, axis=2)).mean((2, 4))
    return jnp.stack([mean, spread, across, down], -1)


def position_gaussian(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    grid, stride, dim = check_stride(config), config.model.filters.stride, NUM_STATISTICS

    def init(key):
        del key
        precision = jnp.tile(jnp.eye(dim), (*grid, 1, 1))
        return {"params": {"loc": jnp.zeros((*grid, dim)), "precision": precision}}

    def statistics(images):
        return patch_statistics(to_grey(images), stride)

    def gather(variables, images, key):
        del variables, key
        return statistics(images)

    def solve(variables, samples, rng: np.random.Generator):
        del variables, rng
        samples = np.asarray(samples, np.float64)
        loc = samples.mean(0)
        residual = samples - loc
        covariance = np.einsum("nhwi,nhwj->hwij", residual, residual) / len(samples)
        pooled = covariance.mean((0, 1)) + RIDGE * np.eye(dim)
        covariance = (1 - SHRINK) * covariance + SHRINK * pooled
        params = {"loc": loc, "precision": fitting.precision_factor(covariance)}
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
        return {"params": params, "batch_stats": {}}

    def nll(params, images):
        residual = statistics(images) - params["loc"]
        z = jnp.einsum("bhwi,hwij->bhwj", residual, params["precision"])
        scale = jnp.log(jnp.diagonal(params["precision"], axis1=-2, axis2=-1)).sum(-1)
        return 0.5 * jnp.square(z).sum(-1) - scale + 0.5 * dim * jnp.log(2 * jnp.pi)

    def loss(params, batch_stats, images, keys, layout=ALONE):
        del keys
        value = nll(layout.whole(params), images).mean()
        return value, ({"nll": value}, batch_stats)

    def score(variables, images):
        values = nll(variables["params"], images)
        maps = upsample_maps(values, tuple(config.image_size), config.eval.map_sigma)
        terms = jnp.stack([maps.max((1, 2)), values.mean((1, 2))], -1)
        return Scores(terms, maps, no_recon(images))

    return Detector(init, loss, score, SCORE_TERMS, Fit(gather, solve))
