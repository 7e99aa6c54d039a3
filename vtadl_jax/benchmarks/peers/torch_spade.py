"""The published program's search for the nearest vector of a gallery, in PyTorch."""

import torch

TOGETHER = 100  # vectors of the gallery that are compared with the map at once
SHIFT = 1e-6  # added to every component of a difference, as torch's pairwise distance does


def nearest_distances(level: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Returns the distance of each place of a map to the nearest vector of a gallery, [H, W].

    level: [C, H, W]. gallery: [K, C, H, W]. All differences of a hundred vectors and the map are
    formed, [100, C, H, W]; vectors over a whole hundred are left out. The norm is over the
    channels, as it was in the versions of PyTorch that the program was written for.
    """
    vectors = gallery.permute(0, 3, 2, 1).reshape(-1, len(level))
    nearest = torch.full(level.shape[1:], torch.inf)
    for start in range(0, len(vectors) // TOGETHER * TOGETHER, TOGETHER):
        some = vectors[start : start + TOGETHER, :, None, None]
        distances = (some - level[None] + SHIFT).square().sum(1).sqrt()
        nearest = torch.minimum(nearest, distances.min(0).values)
    return nearest
