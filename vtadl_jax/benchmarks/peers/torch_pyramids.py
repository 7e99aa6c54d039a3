"""The pyramidal auto-encoder and PIADE as a PyTorch user would write them, with loss and score.

Layers are made in the order of our tables, so that weights are copied in order: the ResNet's,
those of squeeze-and-excitation, pyramid, codes or capsules, upsampling, decoder, VGG-11's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vtadl_jax.benchmarks.peers.torch_capsnet import Capsules
from vtadl_jax.benchmarks.peers.torch_ops import SSIM, route, smooth

CAPSULE_DIM, VECTOR_DIM, ITERATIONS = 8, 64, 3
CODE_DIM, SCALES = 8, (1, 2, 3, 6)
# Transposed convolutions (outputs, kernel, stride, padding), by the image's side.
DECODERS = {
    28: ((16, 5, 1, 1), (32, 5, 1, 0), (32, 6, 1, 0), (32, 6, 1, 0), (3, 5, 1, 0)),
    120: ((16, 3, 2, 1), (32, 3, 2, 1), (32, 4, 2, 0), (3, 4, 2, 1)),
}
Terms = dict[str, torch.Tensor]


class Block(nn.Module):
    """A residual block of two convolutions, or of three with the 3 × 3 one in the middle."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int):
        super().__init__()
        bottleneck = outputs != inner
        kernels: tuple[tuple[int, int, int], ...] = (
            (1, inputs, inner),
            (3, inner, inner),
            (1, inner, outputs),
        )
        if not bottleneck:
            kernels = ((3, inputs, outputs), (3, outputs, outputs))
        layers: list[nn.Module] = []
        for i, (side, a, b) in enumerate(kernels):
            step = stride if i == bottleneck else 1
            conv = nn.Conv2d(a, b, side, step, side // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(b)]
        self.layers = nn.ModuleList(layers)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for i in range(0, len(self.layers), 2):
            h = self.layers[i + 1](self.layers[i](h))
            h = F.relu(h, inplace=True) if i < len(self.layers) - 2 else h
        return F.relu(h + self.shortcut(x), inplace=True)


class Resnet(nn.Module):
    """ResNet-18 without max-pool, or ResNet-50 with; without a classifier."""

    def __init__(self, bottleneck: bool):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.max_pool, self.widths, self.stages = bottleneck, [64], nn.ModuleList()
        for stage, count in enumerate((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)):
            inner, blocks = 64 * 2**stage, []
            outputs = inner * (4 if bottleneck else 1)
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(
                    Block(self.widths[-1] if not number else outputs, inner, outputs, stride)
                )
            self.stages.append(nn.Sequential(*blocks))
            self.widths.append(outputs)

    def forward(
        self, x: torch.Tensor, excite: Callable[[int, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x = excite(0, F.max_pool2d(x, 3, 2, 1) if self.max_pool else x)
        for i, stage in enumerate(self.stages, 1):
            x = excite(i, stage(x))
        return x


class Squeeze(nn.Module):
    """Squeeze-and-excitation of one map."""

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        self.down = nn.Linear(channels, channels // ratio, bias=False)
        self.up = nn.Linear(channels // ratio, channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * weight[:, :, None, None]


def level(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def decoder(channels: int, side: int) -> nn.Sequential:
    """Returns the transposed convolutions from a map of 8 × 8 to an image, with tanh."""
    layers: list[nn.Module] = []
    for outputs, kernel, stride, padding in DECODERS[side]:
        layers += [nn.ConvTranspose2d(channels, outputs, kernel, stride, padding)]
        if outputs != 3:
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        channels = outputs
    return nn.Sequential(*layers, nn.Tanh())


class PyramidAE(nn.Module):
    """Reconstructs images [B, 3, H, H] in [0, 1] from a ResNet-18's map and four codes of it."""

    def __init__(self, side: int):
        super().__init__()
        self.resnet, map_side = Resnet(bottleneck=False), -(-side // 16)
        unfolded = 512 * (map_side // 2) ** 2
        self.ordered = nn.ModuleList()  # a level and its encoder in turns
        for scale in SCALES:
            width = 512 // scale
            self.ordered.append(level(512, width))
            self.ordered.append(
                nn.Sequential(
                    nn.Conv2d(width, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
                    nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                    nn.Conv2d(8, CODE_DIM, 1),
                )
            )  # fmt: skip
        self.upsample = nn.Sequential(
            nn.Linear(CODE_DIM, 128), nn.BatchNorm1d(128), nn.ReLU(inplace=True),
            nn.Linear(128, unfolded), nn.ReLU(inplace=True),
        )  # fmt: skip
        channels = (512 * map_side**2 + len(SCALES) * unfolded) // 64
        self.decoder = decoder(channels, side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.resnet(images, lambda _, x: x)
        pooled, parts = F.adaptive_avg_pool2d(x, 1), [x.flatten(1)]
        for i in range(0, len(self.ordered), 2):
            code = self.ordered[i + 1](self.ordered[i](pooled))
            parts.append(self.upsample(code.flatten(1)))
        return self.decoder(torch.cat(parts, 1).reshape(len(x), -1, 8, 8))


class PIADE(nn.Module):
    """Reconstructs images [B, 3, H, H] in [0, 1] from a ResNet's map and one routed vector.

    official: the network of the authors' program, else that of the thesis.
    """

    def __init__(self, side: int, official: bool):
        super().__init__()
        self.resnet, self.official = Resnet(bottleneck=official), official
        ratio = 16 if official else 4
        self.squeezes = nn.ModuleList(Squeeze(width, ratio) for width in self.resnet.widths)
        channels, map_side = self.resnet.widths[-1], -(-side // (32 if official else 16))
        sizes = ((1, channels), (1, channels // 2), (1, channels // 4), (1, channels // 8))
        self.sizes = sizes if official else ((8, 64), (4, 64), (2, 64), (1, 64))
        self.levels = nn.ModuleList(level(channels, width) for _, width in self.sizes)
        count = sum(side**2 * width for side, width in self.sizes) // CAPSULE_DIM
        self.capsules = Capsules(2, count, CAPSULE_DIM, VECTOR_DIM)
        unfolded = 512 * map_side**2
        self.upsample = nn.Sequential(
            nn.Linear(VECTOR_DIM, 128), nn.BatchNorm1d(128), nn.ReLU(inplace=True),
            nn.Linear(128, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True),
            nn.Linear(512, unfolded), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.decoder = decoder((channels * map_side**2 + unfolded) // 64, side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.resnet(images, lambda i, x: self.squeezes[i](x))
        levels = [
            part(F.adaptive_avg_pool2d(x, size)).flatten(1)
            for part, (size, _) in zip(self.levels, self.sizes, strict=True)
        ]
        capsules = torch.cat(levels, 1).reshape(len(x), -1, CAPSULE_DIM)
        vectors = route(capsules, self.capsules.weight, ITERATIONS, stop_gradient=self.official)
        index = vectors.norm(dim=-1).argmax(1)
        if self.training and not self.official:
            index = torch.zeros_like(index)
        vector = vectors[torch.arange(len(x)), index]
        parts = torch.cat([x.flatten(1), self.upsample(vector)], 1)
        return self.decoder(parts.reshape(len(x), -1, 8, 8))


class Reconstruction(nn.Module):
    """A network with the loss and the score of `vtadl_jax.detectors.rgb_reconstruction`.

    Images are [B, 1 or 3, H, W] in [0, 255]. ssim_weight: 0 without SSIM.
    """

    def __init__(self, network: nn.Module, map_sigma: float, ssim_weight: float):
        super().__init__()
        self.network, self.map_sigma, self.ssim_weight = network, map_sigma, ssim_weight
        self.vgg = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
        ).requires_grad_(False)  # fmt: skip
        self.ssim = SSIM(3, 1.0)

    def compare(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Terms]:
        """Returns the squared errors [B, 3, H, W], the loss [B] and its terms [B]."""
        unit = (images.float() / 255).expand(-1, 3, -1, -1)
        recon = self.network(unit)
        errors = (unit - recon) ** 2
        terms = {"mse": errors.mean((1, 2, 3))}
        total = terms["mse"]
        if self.ssim_weight:
            similarity = self.ssim(unit, recon)
            terms["dissimilarity"] = 1 - similarity
            total = total - self.ssim_weight * similarity
        distance = (self.vgg(unit) - self.vgg(recon)) ** 2
        terms["perceptual"] = distance.mean((1, 2, 3))
        return errors, total + terms["perceptual"], terms

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, Terms]:
        """Returns the loss and its terms."""
        _, total, terms = self.compare(images)
        return total.mean(), {name: term.mean() for name, term in terms.items()}

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the terms [B, T] and the map [B, H, W]."""
        errors, total, terms = self.compare(images)
        maps = smooth(errors.mean(1), self.map_sigma)
        return torch.stack([total, *terms.values()], 1), maps


def reconstruction(config: Any) -> Reconstruction:
    """Returns the peer of a config of pyramid_ae or piade, with published sizes."""
    side = config.image_size[0]
    if config.detector == "pyramid_ae":
        return Reconstruction(PyramidAE(side), config.eval.map_sigma, 0.0)
    network = PIADE(side, config.model.version == "official")
    return Reconstruction(network, config.eval.map_sigma, config.model.loss.ssim_weight)
