"""Weights of several detectors for one verdict, from drawn defects on held-out good images.

A detector that does not suit the images, such as a Gaussian for each position of parts that lie
anywhere, would harm a sum of maps. How well a set of detectors finds drawn defects shows that. It
does not rank detectors that are about equally good, so these share the weight. Numpy, on the host.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

FPR_LIMIT = 0.3  # as for AU-PRO
# Difference in AU-PRO of drawn defects that divides a set's weight by e. Of 50 defects the standard
# error of a difference is about as large.
TEMPERATURE = 0.02


def drawn_aupro(good: np.ndarray, inside: np.ndarray, limit: float = FPR_LIMIT) -> float:
    """Returns the AU-PRO (each defect is a region) from samples of maps.

    good: [M] values at random places of good images. inside: [R, S] values at random places of each
    of R defects. A place whose value a share p of good ones exceeds or equals is found at the false
    positive rates from p on, so it adds max(limit - p, 0) / limit.
    """
    ordered = np.sort(good)
    exceeded = 1 - np.searchsorted(ordered, inside, side="left") / ordered.size
    return float((np.maximum(limit - exceeded, 0) / limit).mean())


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields all sets of one or more names."""
    for size in range(1, len(names) + 1):
        yield from itertools.combinations(names, size)


def expert_weights(
    good: Mapping[str, np.ndarray], inside: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Returns the weight of each detector in the sum of maps; they add up to 1.

    good: name → values [M] of its map, comparable between detectors, at random places of good
    images, the same places for all. inside: name → values [R, S] within R drawn defects; without
    any (R = 0) all weights are equal.

    The sum over each set of detectors has an AU-PRO of drawn defects, and the set a weight that
    grows with it exponentially; its detectors share this weight.
    """
    names = list(good)
    if not next(iter(inside.values())).size:
        return dict.fromkeys(names, 1 / len(names))
    sets = list(subsets(names))
    found = np.array([drawn_aupro(_sum(good, chosen), _sum(inside, chosen)) for chosen in sets])
    odds = np.exp((found - found.max()) / TEMPERATURE)
    odds /= odds.sum()
    return {
        name: float(
            sum(p / len(chosen) for p, chosen in zip(odds, sets, strict=True) if name in chosen)
        )
        for name in names
    }


def _sum(values: Mapping[str, np.ndarray], chosen: Sequence[str]) -> np.ndarray:
    total = values[chosen[0]]
    for name in chosen[1:]:
        total = total + values[name]
    return total
