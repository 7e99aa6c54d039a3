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
    ResnetOptions,
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
        "features that the density models; of more, what `reduction` says",
        at_least=1,
        limit=LARGEST_SIZE,
    )
    reduction: str = option(
        "combinations",
        "of more features: random orthonormal combinations, or a random choice",
        choices=("combinations", "choice"),
    )
    shrinkage: float = option(
        0.1,
        "weight of the mean of all positions' covariances in each: more for few images",
        at_least=0,
        at_most=1,
    )
    ridge: float = option(0.0, "added to each feature's variance at each position", at_least=0)
    distance: str = option(
        "nll",
        "of a patch: its negative log-likelihood, or the Mahalanobis distance",
        choices=("nll", "mahalanobis"),
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
    check_unread("resnet", options.resnet, ResnetOptions(), STATISTICS)
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


def shrunk_precision(
    moments: Moments, shrinkage: float, ridge: np.ndarray, everywhere: float = 0.0
) -> np.ndarray:
    """Returns the precision factors [P, d, d] float32 of shrunk covariances.

    A covariance becomes (1 - s) covariance + s (mean of all covariances + diag(ridge)), plus
    `everywhere` times the identity. ridge: [d].
    """
    pooled = moments.scatter.mean(0) / moments.count + np.diag(ridge)
    added = shrinkage * pooled + everywhere * np.eye(len(pooled))
    found = np.empty(moments.scatter.shape, np.float32)
    for start in range(0, len(found), CHUNK):
        covariance = moments.scatter[start : start + CHUNK] / moments.count
        covariance = (1 - shrinkage) * covariance + added
        found[start : start + CHUNK] = fitting.precision_factor(covariance)
    return found


def position_gaussian(options: PositionGaussianOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    features, gaussian = features_or_statistics(options, inputs), options.gaussian
    grid, width = features.grid, features.width
    dim = min(gaussian.feature_dim, width)
    check_memory(grid, dim)
    if gaussian.shrinkage == gaussian.ridge == 0:
        raise UserError(
            "model.gaussian.shrinkage 0: the covariances of few images are singular: use more "
            "than 0, or model.gaussian.ridge above 0"
        )

    measures_nll = gaussian.distance == "nll"
    # The optimizer's moments of other features would be large.
    trains = options.features == STATISTICS and measures_nll
    place = "params" if trains else "stats"

    def init(key):
        precision = jnp.tile(jnp.eye(dim), (*grid, 1, 1))
        variables: Variables = {"params": {}, "stats": {}}
        if dim < width and gaussian.reduction == "choice":
            # Numbers of features; float32, as all that is fitted.
            chosen = jax.random.permutation(key, width)[:dim]
            variables["stats"]["chosen"] = chosen.astype(jnp.float32)
        elif dim < width:
            directions = jax.random.normal(key, (width, dim))
            variables["stats"]["projection"] = jnp.linalg.qr(directions)[0]
        variables[place] |= {"loc": jnp.zeros((*grid, dim)), "precision": precision}
        return variables

    def reduced(variables, responses):
        if dim == width:
            return responses
        if gaussian.reduction == "choice":
            return jnp.take(responses, variables["stats"]["chosen"].astype(int), -1)
        projection = variables["stats"]["projection"]
        return jnp.matmul(responses, projection, precision=EXACT)

    def gather(variables, responses, key):
        del key
        return reduced(variables, responses).reshape(responses.shape[0], -1, dim)

    def solve(variables, moments: Moments, rng: np.random.Generator):
        del rng
        ridge = np.full(dim, RIDGE)
        if options.features != STATISTICS:
            variance = np.diagonal(moments.pooled().covariance[0])
            ridge = RELATIVE_RIDGE * variance + CONSTANT_RIDGE
        precision = shrunk_precision(moments, gaussian.shrinkage, ridge, gaussian.ridge)
        fitted = {
            "loc": moments.mean.reshape(*grid, dim),
            "precision": precision.reshape(*grid, dim, dim),
        }
        return {place: {**variables[place], **fitted}}

    def values(variables, responses):
        loc, precision = variables[place]["loc"], variables[place]["precision"]
        residual = reduced(variables, responses) - loc
        z = jnp.einsum("bhwi,hwij->bhwj", residual, precision, precision=EXACT)
        if not measures_nll:
            return jnp.sqrt(jnp.square(z).sum(-1))
        scale = jnp.log(jnp.diagonal(precision, axis1=-2, axis2=-1)).sum(-1)
        return 0.5 * jnp.square(z).sum(-1) - scale + 0.5 * dim * jnp.log(2 * jnp.pi)

    found = feature_detector(
        features,
        inputs,
        init=init,
        values=values,
        solve=solve,
        terms=("max_nll", "mean_nll") if measures_nll else ("max_distance", "mean_distance"),
        weights=(1.0, 0.0),
        gather=gather,
        reduce=add_rows,
        trains=trains,
    )
    return dataclasses.replace(found, positions=("position_gaussian",), only_positions=True)
