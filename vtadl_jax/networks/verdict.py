"""Weights of several detectors for one verdict, from drawn defects on held-out good images.

A detector that does not suit the images, such as a Gaussian for each position of parts that lie
anywhere, would harm a sum of maps. How well it finds drawn defects shows that. It does not rank
detectors that are about equally good, so these share the weight. Numpy, on the host.
"""

from collections.abc import Mapping

import numpy as np

FPR_LIMIT = 0.3  # as for AU-PRO
# A detector whose AU-PRO of drawn defects is so much lower than the best one's has the weight
# exp(-1/2) of it, one that is three times so much lower a hundredth (docs/experiments.md).
TOLERANCE = 0.1


def drawn_aupro(good: np.ndarray, inside: np.ndarray, limit: float = FPR_LIMIT) -> float:
    """Returns the AU-PRO (each defect is a region) from samples of maps.

    good: [M] values at random places of good images. inside: [R, S] values at random places of each
    of R defects. A place whose value a share p of good ones exceeds or equals is found at the false
    positive rates from p on, so it adds max(limit - p, 0) / limit.
    """
    ordered = np.sort(good)
    exceeded = 1 - np.searchsorted(ordered, inside, side="left") / ordered.size
    return float((np.maximum(limit - exceeded, 0) / limit).mean())


def expert_weights(
    good: Mapping[str, np.ndarray], inside: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Returns the weight of each detector in the sum of maps; they add up to 1.

    good: name → values [M] of its map at random places of good images. inside: name → values [R, S]
    within R drawn defects; without any (R = 0) all weights are equal.
    """
    if not all(values.size for values in inside.values()):
        return dict.fromkeys(good, 1 / len(good))
    found = np.array([drawn_aupro(good[name], inside[name]) for name in good])
    weights = np.exp(-0.5 * np.square((found.max() - found) / TOLERANCE))
    return dict(zip(good, (weights / weights.sum()).tolist(), strict=True))
