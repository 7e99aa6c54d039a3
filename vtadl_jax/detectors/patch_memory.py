"""A memory bank of patch features: the score is the distance to the nearest normal patch.

Roth et al., 2022 (PatchCore), over any features of `networks/features.py`. The bank is a k-center
coreset of the patches of normal images. Its size is fixed, so shapes are known before the data are
read: resuming, ahead-of-time compilation and TPUs need no special case. Nothing is trained.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.feature_detector import feature_detector, features_of, top_mean
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import SAMPLES_PER_IMAGE, FeatureOptions, sample_places
from vtadl_jax.networks.fitting import k_centre, standardization
from vtadl_jax.ops.inspected import every_place_inside
from vtadl_jax.ops.neighbours import nearest_distances
from vtadl_jax.options import LARGEST_SIZE, option


@dataclasses.dataclass(frozen=True)
class MemoryOptions:
    """Options of the memory bank."""

    size: int = option(2000, "patches in the bank", at_least=1, limit=10**7)
    neighbours: int = option(
        1, "nearest patches whose distances are averaged", at_least=1, limit=10**7
    )
    metric: str = option(
        "euclidean",
        "distance of two patches; 'cosine' is Euclidean between vectors of length 1, "
        "'one_minus_cosine' half its square",
        choices=("euclidean", "cosine", "one_minus_cosine"),
    )
    score: str = option(
        "map",
        "first term of an image: the largest value of the smoothed map, or the mean distance of "
        "the most distant 1 % of its patches",
        choices=("map", "patches"),
    )
    standardise: bool = option(True, "each response to zero mean and unit deviation first")
    patches: int = option(
        SAMPLES_PER_IMAGE,
        "random patches of each image, before `candidates`; 0: all",
        at_least=0,
        limit=10**8,
    )
    candidates: int = option(
        50_000,
        "random patches of all images, from which the coreset is chosen",
        at_least=1,
        limit=10**8,
    )
    projection: int = option(
        64,
        "largest dimension in which distances are measured for the coreset",
        at_least=1,
        limit=LARGEST_SIZE,
    )


@dataclasses.dataclass(frozen=True)
class PatchMemoryOptions(FeatureOptions):
    """Options of the patch_memory detector."""

    memory: MemoryOptions = MemoryOptions()


def patch_memory(options: PatchMemoryOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    memory = options.memory
    features = features_of(options, inputs)
    width = features.width

    def init(key):
        del key
        stats = {
            "bank": jnp.zeros((memory.size, width)),
            "mean": jnp.zeros(width),
            "spread": jnp.ones(width),
        }
        return {"params": {}, "stats": stats}

    def place(stats, responses, xp=jnp):
        """Maps responses [..., width] to the space in which distances are measured, by jax.numpy or
        numpy."""
        placed = responses
        if memory.standardise:
            placed = (responses - stats["mean"]) / stats["spread"]
        if memory.metric != "euclidean":
            placed = placed / xp.sqrt(xp.square(placed).sum(-1, keepdims=True) + 1e-12)
        return placed

    def gather(variables, responses, key):
        del variables
        if memory.patches:
            return sample_places(responses, key, memory.patches)
        return every_place_inside(responses)

    def solve(variables, samples, rng: np.random.Generator):
        del variables
        samples = samples.reshape(-1, width)
        stats = {"mean": np.zeros(width), "spread": np.ones(width)}
        if memory.standardise:
            stats = standardization(samples)
        few = samples[rng.permutation(len(samples))[: memory.candidates]]
        placed = place({name: np.float32(x) for name, x in stats.items()}, few, np)
        size = min(memory.size, len(placed))
        chosen = placed[k_centre(placed, size, rng, memory.projection)]
        if len(chosen) < memory.size and memory.neighbours > 1:
            raise UserError(
                f"model.memory.size {memory.size}: the training images give {len(chosen)} patches, "
                f"and copies must not count among {memory.neighbours} neighbours: use "
                f"{len(chosen)} or less"
            )
        bank = np.resize(chosen, (memory.size, width))  # copies do not change the nearest distance
        return {"stats": {**stats, "bank": bank}}

    def distances(variables, responses):
        stats = variables["stats"]
        placed = place(stats, responses)
        half_square = memory.metric == "one_minus_cosine"  # |q - b|² / 2 of vectors of length 1
        found = nearest_distances(
            placed.reshape(-1, width), stats["bank"], memory.neighbours, squared=half_square
        )
        return (found / 2 if half_square else found).reshape(placed.shape[:-1])

    return feature_detector(
        features,
        inputs,
        init=init,
        values=distances,
        solve=solve,
        terms=("max_distance", "mean_distance"),
        weights=(1.0, 0.0),
        of_values=top_mean if memory.score == "patches" else None,
        gather=gather,
    )
