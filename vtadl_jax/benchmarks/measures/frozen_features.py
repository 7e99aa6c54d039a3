"""What methods over frozen features compute beside the network: SPADE's search, and the fit of a
Gaussian for each position; against the published program's search and a loop over positions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, compare
from vtadl_jax.networks.image_gaussian import fit_gaussians, mahalanobis
from vtadl_jax.ops.gallery_search import level_distances

# Sides and channels of WideResNet-50-2's levels at 112², a sixteenth of the work at 224².
LEVELS = ((28, 256), (14, 512), (7, 1024))
NEIGHBOURS, MEMORY = 6, 2**26  # six, as the peer compares a hundred vectors at once
EPSILON = 0.01


def search(repeats: int, levels: Sequence[tuple[int, int]] = LEVELS) -> list[Group]:
    """Measures the searches of an image in its neighbours' galleries, in the published form."""
    shapes = " ".join(f"{side}²×{width}" for side, width in levels)
    title = f"SPADE's search, {NEIGHBOURS} neighbours, levels {shapes}"
    progress(title)
    torch = require_torch()
    from vtadl_jax.benchmarks.peers.torch_spade import nearest_distances

    rng = np.random.default_rng(0)
    pairs = [
        (
            np.maximum(rng.standard_normal((side, side, width), np.float32), 0),
            np.maximum(rng.standard_normal((NEIGHBOURS, side, side, width), np.float32), 0),
        )
        for side, width in levels
    ]

    @jax.jit
    def ours(pairs: Any) -> list[jax.Array]:
        return [level_distances(level, gallery, MEMORY, True) for level, gallery in pairs]

    given = jax.tree.map(jnp.asarray, pairs)
    tensors = [
        (torch.tensor(x.transpose(2, 0, 1)), torch.tensor(g.transpose(0, 3, 1, 2)))
        for x, g in pairs
    ]

    def peer() -> list[Any]:
        with torch.no_grad():
            return [nearest_distances(level, gallery) for level, gallery in tensors]

    candidates = [
        Candidate("ours", lambda: ours(given), list),
        Candidate("torch, the published program's", peer, list),
    ]
    multiply_adds = sum(NEIGHBOURS * side**4 * width for side, width in levels)
    return [compare(title, candidates, repeats, 2 * multiply_adds)]


def gaussian(
    repeats: int, images: int = 200, places: int = 49, dim: int = 768, new: int = 4
) -> list[Group]:
    """Measures the fit of all positions. The results compared are the distances of new images, as
    the peer keeps inverses of covariances and ours does not."""
    title = f"Gaussians of {places} positions, {images} images, {dim} features"
    progress(title)
    rng = np.random.default_rng(0)
    train = np.maximum(rng.standard_normal((images, places, dim), np.float32), 0)
    test = np.maximum(rng.standard_normal((new, places, dim), np.float32), 0)

    def ours_distances(fitted: Any) -> list[Any]:
        gaussians = {name: getattr(fitted, name) for name in ("mean", "spread", "solver")}
        return [mahalanobis(test, gaussians, EPSILON)]

    candidates = [
        Candidate("ours", lambda: fit_gaussians(train, images, EPSILON), ours_distances),
        Candidate(
            "numpy, cov and inv of each position",
            lambda: fit_by_loop(train),
            lambda fitted: [loop_distances(test, *fitted)],
        ),
    ]
    return [compare(title, candidates, repeats)]


def fit_by_loop(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns means [P, D] and inverse covariances [P, D, D] as the usual code of PaDiM does."""
    places, dim = train.shape[1:]
    mean, inverse = train.mean(0), np.empty((places, dim, dim), np.float32)
    for place in range(places):
        covariance = np.cov(train[:, place], rowvar=False) + EPSILON * np.identity(dim)
        inverse[place] = np.linalg.inv(covariance)
    return mean, inverse


def loop_distances(test: np.ndarray, mean: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Returns the Mahalanobis distances [B, P] of features [B, P, D]."""
    residual = np.asarray(test, np.float64) - mean
    return np.sqrt(np.einsum("bpi,pij,bpj->bp", residual, inverse, residual, optimize=True))
