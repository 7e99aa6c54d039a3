"""A memory bank of patch features: the score is the distance to the nearest normal patch.

Roth et al., 2022 (PatchCore), over any features of `networks/features.py`. The bank is a k-center
coreset of the patches of normal images. Its size is fixed, so shapes are known before the data are
read: resuming, ahead-of-time compilation and TPUs need no special case. Nothing is trained.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import FeatureOptions, load_frozen, make_features, sample_places
from vtadl_jax.networks.fitting import k_centre
from vtadl_jax.ops.neighbours import nearest_distances
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import option

SCORE_TERMS = ("max_distance", "mean_distance")


@dataclasses.dataclass(frozen=True)
class MemoryOptions:
    """Options of the memory bank."""

    size: int = option(2000, "patches in the bank", at_least=1, limit=10**7)
    neighbours: int = option(
        1, "nearest patches whose distances are averaged", at_least=1, limit=10**7
    )
    metric: str = option("euclidean", "distance of two patches", choices=("euclidean", "cosine"))
    standardise: bool = option(True, "each response to zero mean and unit deviation first")
    candidates: int = option(
        50_000,
        "random patches of all images, from which the coreset is chosen",
        at_least=1,
        limit=10**8,
    )


@dataclasses.dataclass(frozen=True)
class PatchMemoryOptions(FeatureOptions):
    """Options of the patch_memory detector."""

    memory: MemoryOptions = MemoryOptions()


def patch_memory(options: PatchMemoryOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    memory = options.memory
    features = make_features(options, 2**16, inputs.image_size, inputs.channels, inputs.dtype)
    width = features.width

    def init(key):
        del key
        stats = {
            "bank": jnp.zeros((memory.size, width)),
            "mean": jnp.zeros(width),
            "spread": jnp.ones(width),
        }
        return {"params": {}, "stats": stats, "frozen": features.frozen()}

    def gather(variables, images, key):
        return sample_places(features.responses(variables["frozen"], images), key)

    def place(stats, responses):
        """Maps responses [..., width] to the space in which distances are measured."""
        placed = (responses - stats["mean"]) / stats["spread"]
        if memory.metric == "cosine":
            placed = placed / jnp.sqrt(jnp.square(placed).sum(-1, keepdims=True) + 1e-12)
        return placed

    def solve(variables, samples, rng: np.random.Generator):
        samples = samples.reshape(-1, width)
        stats = {"mean": np.zeros(width), "spread": np.ones(width)}
        if memory.standardise:
            stats = {
                "mean": samples.mean(0, dtype=np.float64),
                "spread": samples.std(0, dtype=np.float64) + 1e-6,
            }
        few = samples[rng.permutation(len(samples))[: memory.candidates]]
        placed = np.asarray(place(stats, few), np.float32)
        chosen = placed[k_centre(placed, min(memory.size, len(placed)), rng)]
        if len(chosen) < memory.size and memory.neighbours > 1:
            raise UserError(
                f"model.memory.size {memory.size}: the training images give {len(chosen)} patches, "
                f"and copies must not count among {memory.neighbours} neighbours: use "
                f"{len(chosen)} or less"
            )
        bank = np.resize(chosen, (memory.size, width))  # copies do not change the nearest distance
        stats = jax.tree.map(np.float32, {**stats, "bank": bank})
        return {**variables, "stats": stats}

    def score(variables, images):
        stats = variables["stats"]
        placed = place(stats, features.responses(variables["frozen"], images))
        distances = nearest_distances(
            placed.reshape(-1, width), stats["bank"], memory.neighbours
        ).reshape(len(images), *features.grid)
        maps = upsample_maps(distances, inputs.image_size, inputs.map_sigma)
        terms = jnp.stack([maps.max((1, 2)), distances.mean((1, 2))], -1)
        return Scores(terms, maps)

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 0.0),
        fit=Fit(gather, solve),
        load_pretrained=load_frozen(features),
        pretrained_required=features.load is not None,
    )
