"""A Gaussian for each position of a frozen ConTNet's features; the map is Mahalanobis distances.

Dini and Rahtu, 2023, over the features of any extractor; no channel is left out. It suits aligned
objects. Compared with `position_gaussian`: the covariance is the position's own plus ε, not shrunk
towards that of all positions; the value is the distance, not the density; and no matrix is as large
as the features, so all of them are used.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.feature_detector import feature_detector, features_of
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import CONTNET, FeatureOptions
from vtadl_jax.networks.image_gaussian import bytes_of, fit_gaussians, mahalanobis
from vtadl_jax.options import LARGEST_SIZE, option
from vtadl_jax.runtime.console import say

LARGEST_BYTES = 2**32


@dataclasses.dataclass(frozen=True)
class DistanceOptions:
    """Options of the Gaussians."""

    epsilon: float = option(0.01, "added to the variance of each feature", above=0)
    columns: int = option(
        400,
        "directions of a covariance, at most one per feature: images - 1 and more are exact",
        at_least=1,
        limit=LARGEST_SIZE,
    )


@dataclasses.dataclass(frozen=True)
class ContnetGaussianOptions(FeatureOptions):
    """Options of the contnet_gaussian detector."""

    features: str = option(
        CONTNET, "'contnet_b' or another frozen network with weights from init_from, or 'filters'"
    )
    gaussian: DistanceOptions = DistanceOptions()


def check_memory(grid: tuple[int, int], width: int, columns: int) -> None:
    """Raises UserError if the Gaussians are too large."""
    places = grid[0] * grid[1]
    if (needed := bytes_of(places, width, columns)) > LARGEST_BYTES:
        fits = columns
        while fits > 1 and bytes_of(places, width, fits) > LARGEST_BYTES:
            fits = fits * 9 // 10
        raise UserError(
            f"model.gaussian.columns {columns}: the Gaussians of {grid[0]} × {grid[1]} positions "
            f"of {width} features take {needed / 2**30:.1f} GiB, more than "
            f"{LARGEST_BYTES / 2**30:.0f}: use {fits} or less, or smaller images"
        )


def contnet_gaussian(options: ContnetGaussianOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    features = features_of(options, inputs)
    grid, width, epsilon = features.grid, features.width, options.gaussian.epsilon
    columns = min(options.gaussian.columns, width)
    check_memory(grid, width, columns)
    places = grid[0] * grid[1]

    def init(key):
        del key
        stats = {
            "mean": jnp.zeros((places, width)),
            "spread": jnp.zeros((places, width, columns)),
            "solver": jnp.zeros((places, columns, columns)),
        }
        return {"params": {}, "stats": stats}

    def gather(variables, responses, key):
        del variables, key
        return responses.reshape(len(responses), places, width)

    def solve(variables, rows: np.ndarray, rng: np.random.Generator):
        del variables, rng
        if len(rows) < 2:
            raise UserError(f"{len(rows)} training image: a covariance needs 2 or more: give more")
        found = fit_gaussians(rows, columns, epsilon)
        if len(rows) - 1 > columns and columns < width:
            say(
                f"{len(rows)} images: the {columns} largest directions of each covariance are "
                f"kept, {found.left_out:.2%} of the variance is left out where it is most; "
                f"--config.model.gaussian.columns={min(len(rows), width)} keeps all"
            )
        return {"stats": {"mean": found.mean, "spread": found.spread, "solver": found.solver}}

    def distances(variables, responses):
        rows = responses.reshape(responses.shape[0], places, width)
        return mahalanobis(rows, variables["stats"], epsilon).reshape(-1, *grid)

    found = feature_detector(
        features,
        inputs,
        init=init,
        values=distances,
        solve=solve,
        terms=("max_distance", "mean_distance"),
        weights=(1.0, 0.0),
        gather=gather,
    )
    return dataclasses.replace(found, positions=("contnet_gaussian",), only_positions=True)
