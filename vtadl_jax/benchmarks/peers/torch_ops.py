"""Array functions as a PyTorch user would write them; no network, no timing.

Images are [B, C, H, W]. Nothing here follows `vtadl_jax.ops`: SSIM is a grouped convolution, the
mixture is `torch.distributions`, the map is smoothed by separable convolutions, routing keeps every
prediction.
"""

import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5


def patchify(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Splits [B, C, H, W] into patches [B, N, P·P·C], flattened as (row, column, channel)."""
    batch, channels, height, width = images.shape
    rows, cols = height // patch_size, width // patch_size
    x = images.reshape(batch, channels, rows, patch_size, cols, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * cols, -1)


def gaussian_taps(radius: int, sigma: float) -> torch.Tensor:
    """Returns normalised Gaussian weights at -radius … radius, float32."""
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (x / sigma) ** 2)
    return (taps / taps.sum()).float()


class SSIM(nn.Module):
    """Mean structural similarity of each image pair, [B]; 11 × 11 Gaussian window, zero padding."""

    window: torch.Tensor

    def __init__(self, channels: int, data_range: float):
        super().__init__()
        taps = gaussian_taps(WINDOW // 2, SIGMA)
        window = torch.outer(taps, taps).expand(channels, 1, WINDOW, WINDOW)
        self.register_buffer("window", window.contiguous(), persistent=False)
        self.c1, self.c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def blur(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.window, padding=WINDOW // 2, groups=x.shape[1])

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mu_x, mu_y = self.blur(x), self.blur(y)
        var_x = self.blur(x * x) - mu_x**2
        var_y = self.blur(y * y) - mu_y**2
        cov = self.blur(x * y) - mu_x * mu_y
        value = (2 * mu_x * mu_y + self.c1) * (2 * cov + self.c2)
        value = value / ((mu_x**2 + mu_y**2 + self.c1) * (var_x + var_y + self.c2))
        return value.mean((1, 2, 3))


def mixture_log_prob(
    logits: torch.Tensor, loc: torch.Tensor, scale_tril: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Returns the log-likelihood [T] of y [T, d] under full-covariance mixtures [T, K, …]."""
    components = MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    weights = Categorical(logits=logits, validate_args=False)
    return MixtureSameFamily(weights, components, validate_args=False).log_prob(y)


def smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Smooths maps [B, H, W] by a Gaussian of `sigma` pixels, cut at 4 sigma, edges mirrored."""
    if sigma <= 0:
        return maps
    radius = int(4 * sigma + 0.5)
    taps = gaussian_taps(radius, sigma)
    x = maps[:, None]
    for axis, kernel in ((2, taps[:, None]), (3, taps)):
        size = x.shape[axis]
        # The mirror repeats the edge pixel (d c b a | a b c d), which F.pad's 'reflect' does not.
        index = torch.arange(-radius, size + radius) % (2 * size)
        x = x.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
        x = F.conv2d(x, kernel.view(1, 1, *((-1, 1) if axis == 2 else (1, -1))))
    return x[:, 0]


def upsample_maps(maps: torch.Tensor, size: tuple[int, int], sigma: float) -> torch.Tensor:
    """Scales token maps [B, h, w] to [B, H, W]: bilinear at pixel centres, then smoothed."""
    maps = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return smooth(maps, sigma)


def squash(vectors: torch.Tensor) -> torch.Tensor:
    """Returns s·|s| / (1 + |s|²) of vectors [..., D]."""
    squared = (vectors**2).sum(-1, keepdim=True)
    return vectors * squared.sqrt() / (1 + squared)


def route(
    inputs: torch.Tensor, weights: torch.Tensor, iterations: int, stop_gradient: bool = True
) -> torch.Tensor:
    """Routes capsules [B, I, D] by weights [J, I, D, O] to [B, J, O].

    stop_gradient: coefficients are constants in the backward pass.
    """
    predictions = (inputs[:, None, :, None] @ weights[None]).squeeze(3)  # [B, J, I, O]
    early = predictions.detach() if stop_gradient else predictions
    logits = predictions.new_zeros(predictions.shape[:3])
    for _ in range(iterations - 1):
        vectors = squash((logits.softmax(1)[..., None] * early).sum(2))
        logits = logits + (early * vectors[:, :, None]).sum(-1)
    return squash((logits.softmax(1)[..., None] * predictions).sum(2))
