"""A Gaussian for each grid position, over patch statistics or any features, as in PaDiM.

Defard et al., 2021. It suits aligned objects, and fails where the position of parts varies. The
covariance of a position is shrunk towards the mean of all positions' covariances, so it is well
conditioned for fewer images than features, too. Moments are accumulated in float64, batch by batch.

The statistics, the default, are mean, standard deviation and mean absolute differences along rows
and columns of the patch's grey values.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs, Variables
from vtadl_jax.detectors.feature_detector import feature_detector, features_of
from vtadl_jax.errors import UserError
from vtadl_jax.networks import fitting
from vtadl_jax.networks.features import (
    EXTRACTORS,
    ContnetOptions,
    EncoderOptions,
    FeatureOptions,
    Features,
    FilterOptions,
    check_unread,
    grid_of,
)
from vtadl_jax.networks.moments import Moments, add_rows, bytes_of
from vtadl_jax.ops.color import to_grey
from vtadl_jax.options import LARGEST_SIZE, nearest, option

STATISTICS = "statistics"
NUM_STATISTICS = 4
RIDGE = 1e-6  # of grey values in [0, 1]: a quarter of a grey level
# Of other features, whose scales differ: a share of each one's variance over all positions, and a
# variance for features that are constant everywhere.
RELATIVE_RIDGE, CONSTANT_RIDGE = 1e-4, 1e-8
LARGEST_BYTES = 2**31  # of the moments in float64
EXACT = jax.lax.Precision.HIGHEST
CHUNK = 64  # positions whose covariances are factored at once


@dataclasses.dataclass(frozen=True)
class GaussianOptions:
    """Options of the Gaussians."""

    feature_dim: int = option(
        100,
        "features that the density models; of more, random orthonormal combinations",
        at_least=1,
        limit=LARGEST_SIZE,
    )
    shrinkage: float = option(
        0.1,
        "weight of the mean of all positions' covariances in each: more for few images",
        above=0,
        at_most=1,
    )


@dataclasses.dataclass(frozen=True)
class PositionGaussianOptions(FeatureOptions):
    """Options of the position_gaussian detector."""

    features: str = option(
        STATISTICS,
        "'statistics' of grey patches, 'filters', or a frozen network with weights from init_from",
    )
    gaussian: GaussianOptions = GaussianOptions()


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


def statistics_features(options: FeatureOptions, inputs: Inputs) -> Features:
    """Returns the extractor of patch statistics, which reads `filters.stride` only.

    Raises UserError for other options, and for a stride that does not divide the image.
    """
    check_unread("filters", options.filters, FilterOptions(), STATISTICS, read=("stride",))
    check_unread("encoder", options.encoder, EncoderOptions(), STATISTICS)
    check_unread("contnet", options.contnet, ContnetOptions(), STATISTICS)
    stride = options.filters.stride

    def responses(frozen, images):
        del frozen
        return patch_statistics(to_grey(images), stride)

    def fit(samples):
        mean, whitener = fitting.whitening(samples.reshape(-1, NUM_STATISTICS), NUM_STATISTICS)
        return {"mean": mean, "whitener": whitener}

    grid = grid_of(stride, inputs.image_size)
    return Features(grid, NUM_STATISTICS, NUM_STATISTICS, dict, responses, fit)


def features_or_statistics(options: FeatureOptions, inputs: Inputs) -> Features:
    """Returns the extractor that the options name. Raises UserError for an unknown name."""
    known = (STATISTICS, *EXTRACTORS)
    if options.features not in known:
        raise UserError(
            f"model.features {options.features!r}{nearest(options.features, known)}: use one of "
            f"{', '.join(map(repr, known))}"
        )
    make = statistics_features if options.features == STATISTICS else features_of
    return make(options, inputs)


def check_memory(grid: tuple[int, int], dim: int) -> None:
    """Raises UserError if the moments of all positions are too large for the host's memory."""
    places = grid[0] * grid[1]
    if bytes_of(places, dim) > LARGEST_BYTES:
        fits = int((LARGEST_BYTES / 8 / places) ** 0.5) - 1
        raise UserError(
            f"model.gaussian.feature_dim {dim}: the covariances of {grid[0]} × {grid[1]} positions "
            f"take {bytes_of(places, dim) / 2**30:.1f} GiB in float64, more than "
            f"{LARGEST_BYTES / 2**30:.0f}: use {max(fits, 1)} or less, or smaller images"
        )


def shrunk_precision(moments: Moments, shrinkage: float, ridge: np.ndarray) -> np.ndarray:
    """Returns the precision factors [P, d, d] float32 of shrunk covariances.

    A covariance becomes (1 - s) covariance + s (mean of all covariances + diag(ridge)). ridge: [d].
    """
    pooled = moments.scatter.mean(0) / moments.count + np.diag(ridge)
    found = np.empty(moments.scatter.shape, np.float32)
    for start in range(0, len(found), CHUNK):
        covariance = moments.scatter[start : start + CHUNK] / moments.count
        covariance = (1 - shrinkage) * covariance + shrinkage * pooled
        found[start : start + CHUNK] = fitting.precision_factor(covariance)
    return found


def position_gaussian(options: PositionGaussianOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    features = features_or_statistics(options, inputs)
    grid, width = features.grid, features.width
    dim = min(options.gaussian.feature_dim, width)
    check_memory(grid, dim)

    trains = options.features == STATISTICS  # the optimizer's moments of others would be large
    place = "params" if trains else "stats"

    def init(key):
        precision = jnp.tile(jnp.eye(dim), (*grid, 1, 1))
        variables: Variables = {"params": {}, "stats": {}}
        if dim < width:
            directions = jax.random.normal(key, (width, dim))
            variables["stats"]["projection"] = jnp.linalg.qr(directions)[0]
        variables[place] |= {"loc": jnp.zeros((*grid, dim)), "precision": precision}
        return variables

    def reduced(variables, responses):
        if dim == width:
            return responses
        projection = variables["stats"]["projection"]
        return jnp.matmul(responses, projection, precision=EXACT)

    def gather(variables, responses, key):
        del key
        return reduced(variables, responses).reshape(len(responses), -1, dim)

    def solve(variables, moments: Moments, rng: np.random.Generator):
        del rng
        ridge = np.full(dim, RIDGE)
        if options.features != STATISTICS:
            variance = np.diagonal(moments.pooled().covariance[0])
            ridge = RELATIVE_RIDGE * variance + CONSTANT_RIDGE
        precision = shrunk_precision(moments, options.gaussian.shrinkage, ridge)
        fitted = {
            "loc": moments.mean.reshape(*grid, dim),
            "precision": precision.reshape(*grid, dim, dim),
        }
        return {place: {**variables[place], **fitted}}

    def nll(variables, responses):
        loc, precision = variables[place]["loc"], variables[place]["precision"]
        residual = reduced(variables, responses) - loc
        z = jnp.einsum("bhwi,hwij->bhwj", residual, precision, precision=EXACT)
        scale = jnp.log(jnp.diagonal(precision, axis1=-2, axis2=-1)).sum(-1)
        return 0.5 * jnp.square(z).sum(-1) - scale + 0.5 * dim * jnp.log(2 * jnp.pi)

    return feature_detector(
        features,
        inputs,
        init=init,
        values=nll,
        solve=solve,
        terms=("max_nll", "mean_nll"),
        weights=(1.0, 0.0),
        gather=gather,
        reduce=add_rows,
        trains=trains,
    )
