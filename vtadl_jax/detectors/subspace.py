"""The subspace of good patches' features: the score is the distance of a patch from it.

SubspaceAD, 2026, over any features. The subspace is spanned by the principal components that hold a
given share of the variance of all patches. Mean and covariance are exact, in float64, and no patch
is kept. The number of components follows from the data; there is room for `subspace.dim` of them,
and unused ones are zero, so that shapes are known before the data are read. Nothing is trained.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.feature_detector import feature_detector, features_of, top_mean
from vtadl_jax.networks.features import FeatureOptions
from vtadl_jax.networks.moments import Moments, add_rows
from vtadl_jax.ops.inspected import every_place_inside
from vtadl_jax.options import LARGEST_SIZE, option
from vtadl_jax.runtime.console import say

EXACT = jax.lax.Precision.HIGHEST
LEAST_LEFT = 1e-6  # least share of the variance that counts as left off the subspace
LEAST_VARIANCE = 1e-8  # for features that are constant everywhere


@dataclasses.dataclass(frozen=True)
class SubspaceGroup:
    """Options of the subspace and of the distance from it."""

    variance: float = option(
        0.99, "share of the variance that the principal components hold", above=0, at_most=1
    )
    dim: int = option(512, "largest number of principal components", at_least=1, limit=LARGEST_SIZE)
    distance: str = option(
        "residual",
        "squared, off the subspace; or the Mahalanobis distance, off it and within",
        choices=("residual", "mahalanobis"),
    )
    standardise: bool = option(True, "each response to zero mean and unit deviation first")


@dataclasses.dataclass(frozen=True)
class SubspaceOptions(FeatureOptions):
    """Options of the subspace detector."""

    subspace: SubspaceGroup = SubspaceGroup()


class Components(NamedTuple):
    """Principal components of a covariance [D, D], largest variance first.

    basis: [D, n] orthonormal. variances: [n]. left: the variance in all other directions together.
    share: of the variance that the n components hold.
    """

    basis: np.ndarray
    variances: np.ndarray
    left: float
    share: float


def principal_components(covariance: np.ndarray, variance: float, most: int) -> Components:
    """Returns the fewest components that hold a share `variance` of it, `most` if that takes more.

    One direction at least is left out: without it every residual is zero.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    held, total = np.cumsum(values), values.sum()
    enough = int(np.searchsorted(held, variance * total * (1 - 1e-12))) + 1 if total > 0 else 0
    count = min(enough, most, len(values) - 1)
    share = float(values[:count].sum() / total) if total > 0 else 1.0
    return Components(vectors[:, :count], values[:count], float(values[count:].sum()), share)


def subspace(options: SubspaceOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    group = options.subspace
    features = features_of(options, inputs)
    width = features.width
    places = max(min(group.dim, width - 1), 1)

    def init(key):
        del key
        stats = {
            "mean": jnp.zeros(width),
            "spread": jnp.ones(width),
            "basis": jnp.zeros((width, places)),
            "precision": jnp.zeros(places),
            "left": jnp.ones(()),
        }
        return {"params": {}, "stats": stats}

    def gather(variables, responses, key):
        del variables, key
        return every_place_inside(responses)

    def reduce(moments: Moments | None, rows):
        for patches in rows:  # one image at a time: the rows of a batch in float64 can be large
            moments = add_rows(moments, patches[:, None])
        return moments

    def solve(variables, moments: Moments, rng: np.random.Generator):
        del variables, rng
        covariance = moments.covariance[0]
        spread = np.ones(width)
        if group.standardise:
            spread = np.sqrt(np.diagonal(covariance)) + 1e-6
        found = principal_components(
            covariance / np.outer(spread, spread), group.variance, group.dim
        )
        count = len(found.variances)
        say(told(found, width, group))
        least = LEAST_LEFT * (found.variances.sum() + found.left) + LEAST_VARIANCE
        left = max(found.left, least)
        if group.distance == "mahalanobis":
            left /= width - count
        basis, precision = np.zeros((width, places)), np.zeros(places)
        basis[:, :count] = found.basis
        precision[:count] = 1 / np.maximum(found.variances, left)
        stats = {"basis": basis, "precision": precision, "left": left}
        return {"stats": {"mean": moments.mean[0], "spread": spread, **stats}}

    def distances(variables, responses):
        stats = variables["stats"]
        off = (responses - stats["mean"]) / stats["spread"]
        inside = jnp.matmul(off, stats["basis"], precision=EXACT)
        off = off - jnp.matmul(inside, stats["basis"].T, precision=EXACT)
        found = jnp.square(off).sum(-1) / stats["left"]
        if group.distance == "mahalanobis":
            found += (jnp.square(inside) * stats["precision"]).sum(-1)
        return found

    return feature_detector(
        features,
        inputs,
        init=init,
        values=distances,
        solve=solve,
        # As in context_mdn, the image's overall level is subtracted by a negative weight.
        terms=("top_distance", "mean_distance"),
        weights=(1.0, -1.0),
        of_map=top_mean,
        gather=gather,
        reduce=reduce,
    )


def told(found: Components, width: int, group: SubspaceGroup) -> str:
    """Returns the line about the components that were found, with a remedy if they are too few."""
    count = len(found.variances)
    line = f"subspace of {count} of {width} dimensions holds {found.share:.2%} of the variance"
    if found.share >= group.variance * (1 - 1e-9):
        return line
    short = f"{line}, less than model.subspace.variance {group.variance:g}"
    if count == width - 1:
        return f"{short}: one direction is left out, to measure a distance in"
    return f"{short}: set model.subspace.dim above {group.dim} for more"
