"""CapsNet with a normal and an anomalous capsule as a PyTorch user would write it."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from vtadl_jax.benchmarks.peers.torch_ops import route, smooth, squash

CAPSULE_DIM, OUTPUT_DIM, HIDDEN, ITERATIONS = 8, 16, (512, 1024), 3
PRESENT, ABSENT, ABSENT_WEIGHT, RECON_WEIGHT = 0.9, 0.1, 0.5, 0.0005


class Capsules(nn.Module):
    """The weights between capsules, [J, I, D, O]."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(*shape))


class CapsNet(nn.Module):
    """The network with the loss and the score of `vtadl_jax.detectors.capsnet`.

    Images are [B, C, H, W] in [0, 255].
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        map_sigma: float,
    ):
        super().__init__()
        sides = [(side - 17) // 2 + 1 for side in image_size]
        self.conv = nn.Conv2d(channels, 256, 9)
        self.primary = nn.Conv2d(256, 256, 9, stride=2)
        self.capsules = Capsules(2, 32 * math.prod(sides), CAPSULE_DIM, OUTPUT_DIM)
        first, second = HIDDEN
        self.decoder = nn.Sequential(
            nn.Linear(OUTPUT_DIM, first), nn.ReLU(inplace=True),
            nn.Linear(first, second), nn.ReLU(inplace=True),
            nn.Linear(second, math.prod(image_size) * channels), nn.Sigmoid(),
        )  # fmt: skip
        self.map_sigma = map_sigma
        for buffer, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(buffer, torch.tensor(values)[:, None, None], persistent=False)

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the output capsules [B, 2, 16] and the squared errors [B, C, H, W]."""
        unit = images.float() / 255
        x = self.primary(torch.relu(self.conv((unit - self.mean) / self.deviation)))
        batch, _, rows, columns = x.shape
        x = x.reshape(batch, -1, CAPSULE_DIM, rows, columns).permute(0, 1, 3, 4, 2)
        inputs = squash(x.reshape(batch, -1, CAPSULE_DIM))
        vectors = route(inputs, self.capsules.weight, ITERATIONS)
        # The decoder's pixels are in the order of [H, W, C].
        recon = self.decoder(vectors[:, 0]).reshape(batch, *unit.shape[2:], -1).permute(0, 3, 1, 2)
        return vectors, (unit - recon) ** 2

    def forward(
        self, images: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the loss and its terms. label: [B], 1 anomalous."""
        vectors, errors = self.run(images)
        length = vectors.norm(dim=-1)
        truth = nn.functional.one_hot(label.long(), 2).float()
        present = torch.relu(PRESENT - length) ** 2
        absent = torch.relu(length - ABSENT) ** 2
        margin = (truth * present + ABSENT_WEIGHT * (1 - truth) * absent).sum(-1).mean()
        mse = errors.mean()
        total = margin + RECON_WEIGHT * math.prod(errors.shape[1:]) * mse
        return total, {"margin": margin, "mse": mse}

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the terms [B, 4] and the map [B, H, W]."""
        vectors, errors = self.run(images)
        length = vectors.norm(dim=-1)
        difference, error = length[:, 1] - length[:, 0], errors.mean((1, 2, 3))
        terms = [difference + error, difference, error, (difference > 0).float()]
        return torch.stack(terms, 1), smooth(errors.mean(1), self.map_sigma)
