"""FCN32s on VGG16 (Long et al., 2015), as in the repository FCN-pytorch: no skips at all.

Its decoder is not that of the paper: five learned doublings instead of one bilinear upsampling, and
batch norms after the ReLUs.
"""

import jax

from vtadl_jax.networks.segmentation.layers import Forward, Network, conv, norm, up
from vtadl_jax.networks.segmentation.vgg16 import PLACES, STAGES, channels
from vtadl_jax.ops.pooling import max_pool

UP_WIDTHS = (512, 512, 256, 128, 64, 32)
VGG = tuple(f"pretrained_net.features.{place}" for place in PLACES)


def apply(forward: Forward, x):
    """Returns logits [B, H, W, 1]. x: [B, H, W, 3]."""
    names = iter(VGG)
    for stage in STAGES:
        for _ in stage:
            x = jax.nn.relu(forward.conv(next(names), x))
        x = max_pool(x)
    for i in range(1, len(UP_WIDTHS)):
        x = forward.norm(f"bn{i}", jax.nn.relu(forward.up(f"deconv{i}", x)))
    return forward.conv("classifier", x)


def network() -> Network:
    """Returns the network of 18,643,713 parameters."""
    layers = [conv(name, *widths) for name, widths in zip(VGG, channels(), strict=True)]
    for i in range(1, len(UP_WIDTHS)):
        layers += [up(f"deconv{i}", *UP_WIDTHS[i - 1 : i + 1]), norm(f"bn{i}", UP_WIDTHS[i])]
    layers += [conv("classifier", UP_WIDTHS[-1], 1, 1)]
    return Network(tuple(layers), apply, 32, VGG)
