"""The segmentation networks as a PyTorch user would write them, with loss and score.

U-Nets of two depths of skips, UNet++, FCN32s and SegNet; their convolutions and norms are made in
the order of `vtadl_jax.networks.segmentation`, so that weights are copied in order.
"""

import torch
from torch import nn
from torch.nn import functional as F

from vtadl_jax.benchmarks.peers.torch_ops import smooth

VGG16: tuple[tuple[int, ...], ...] = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BCE_WEIGHT, DICE_SMOOTH, TOP = 0.5, 1e-5, 0.001


def conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Returns a 3 × 3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_norm_relu(inputs, outputs), conv_norm_relu(outputs, outputs))


def double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class UNet(nn.Module):
    """U-Net with bilinear upsampling; UNet 2.0 convolves its skips."""

    def __init__(self, divisor: int, convolved_skips: bool):
        super().__init__()
        widths = [n // divisor for n in (64, 128, 256, 512, 512)]
        ups = [n // divisor for n in (256, 128, 64, 64)]
        self.down = nn.ModuleList(
            double_conv(inputs, outputs)
            for inputs, outputs in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.skip = nn.ModuleList(
            double_conv(n, n) for n in (reversed(widths[:-1]) if convolved_skips else ())
        )
        below = (widths[-1], *ups[:-1])
        self.up = nn.ModuleList(
            double_conv(skip + under, outputs)
            for skip, under, outputs in zip(reversed(widths[:-1]), below, ups, strict=True)
        )
        self.out = nn.Conv2d(ups[-1], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for i, block in enumerate(self.up):
            skip = skips[-2 - i]
            skip = self.skip[i](skip) if len(self.skip) else skip
            x = block(torch.cat([skip, double(x)], 1))
        return self.out(x)


class NestedUNet(nn.Module):
    """UNet++ without deep supervision."""

    def __init__(self) -> None:
        super().__init__()
        widths, depth = (32, 64, 128, 256, 512), 4
        self.blocks = nn.ModuleDict()
        for column in range(depth + 1):
            for level in range(depth + 1 - column):
                width = widths[level]
                inputs = widths[level - 1] if level else 3
                if column:
                    inputs = column * width + widths[level + 1]
                self.blocks[f"{level}{column}"] = double_conv(inputs, width)
        self.out = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: list[list[torch.Tensor]] = []
        for i in range(5):
            below = self.blocks[f"{i}0"](F.max_pool2d(rows[-1][0], 2) if i else x)
            rows.append([below])
            for level in range(i - 1, -1, -1):
                below = torch.cat([*rows[level], double(below)], 1)
                below = self.blocks[f"{level}{i - level}"](below)
                rows[level].append(below)
        return self.out(rows[0][-1])


class FCN32s(nn.Module):
    """VGG16 without skips, and five learned doublings with batch norm after the ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stages, self.ups, inputs = nn.ModuleList(), nn.ModuleList(), 3
        for widths in VGG16:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = width
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        for width in (512, 256, 128, 64, 32):
            up = nn.ConvTranspose2d(inputs, width, 3, stride=2, padding=1, output_padding=1)
            self.ups.append(nn.Sequential(up, nn.ReLU(inplace=True), nn.BatchNorm2d(width)))
            inputs = width
        self.out = nn.Conv2d(inputs, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in (*self.stages, *self.ups):
            x = part(x)
        return self.out(x)


class SegNet(nn.Module):
    """VGG16 with batch norms and its mirror image, which puts values back at the maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, inputs = nn.ModuleList(), nn.ModuleList(), 3
        for widths in VGG16:
            before = (inputs, *widths[:-1])
            self.encoder.append(
                nn.Sequential(*(conv_norm_relu(*pair) for pair in zip(before, widths, strict=True)))
            )
            inputs = widths[-1]
        for i, widths in reversed(list(enumerate(VGG16))):
            outputs = [*reversed(widths[:-1]), VGG16[i - 1][-1] if i else 1]
            pairs = zip(reversed(widths), outputs, strict=True)
            layers = [
                nn.Conv2d(a, b, 3, padding=1) if b == 1 else conv_norm_relu(a, b) for a, b in pairs
            ]
            self.decoder.append(nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = []
        for stage in self.encoder:
            x, place = F.max_pool2d(stage(x), 2, return_indices=True)
            places.append(place)
        for stage in self.decoder:
            x = stage(F.max_unpool2d(x, places.pop(), 2))
        return x


NETWORKS = {
    "unet_tiny": lambda: UNet(2, convolved_skips=False),
    "unet2": lambda: UNet(1, convolved_skips=True),
    "unet_plus_plus": NestedUNet,
    "fcn32s": FCN32s,
    "segnet": SegNet,
}


class Segmentation(nn.Module):
    """A network with the loss and the score of `vtadl_jax.detectors.segmentation`.

    Images are [B, 3, H, W] in [0, 255].
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, name: str, map_sigma: float):
        super().__init__()
        self.network: nn.Module = NETWORKS[name]()
        self.map_sigma = map_sigma
        for buffer, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(buffer, torch.tensor(values)[:, None, None], persistent=False)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images.float() / 255 - self.mean) / self.deviation)[:, 0]

    def forward(
        self, images: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the loss and its terms. mask: [B, H, W], 1 defective."""
        logits, truth = self.logits(images), mask.float()
        bce = F.binary_cross_entropy_with_logits(logits, truth)
        probability = torch.sigmoid(logits)
        total = probability.sum((1, 2)) + truth.sum((1, 2))
        overlap = 2 * (probability * truth).sum((1, 2))
        dice_loss = (1 - (overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)).mean()
        return BCE_WEIGHT * bce + dice_loss, {"bce": bce, "dice_loss": dice_loss}

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the terms [B, 2] and the map [B, H, W]."""
        maps = smooth(self.logits(images), self.map_sigma)
        flat = maps.flatten(1)
        top = flat.topk(max(1, int(TOP * flat.shape[1])))[0].mean(1)
        return torch.stack([flat.amax(1), top], 1), maps
