"""UNet 2.0 and the plain U-Net of half its widths ("Tiny"), as in the repository Pytorch-UNet-2.

U-Nets (Ronneberger et al., 2015) with zero padding, batch norm and bilinear upsampling. UNet 2.0
has two more convolutions on each skip. Both end in a sigmoid there; here in logits.
"""

import functools

import jax.numpy as jnp

from vtadl_jax.networks.segmentation.layers import CHANNELS, Forward, Layer, Network, conv, norm
from vtadl_jax.ops.pooling import max_pool
from vtadl_jax.ops.resize import double_aligned

WIDTHS = (64, 128, 256, 512, 512)
UP_WIDTHS = (256, 128, 64, 64)
DEPTH = len(UP_WIDTHS)


def double_conv(forward: Forward, name: str, x):
    """Applies two convolutions, each with batch norm and ReLU."""
    for i in (0, 3):
        x = forward.conv_norm_relu(f"{name}.{i}", f"{name}.{i + 1}", x)
    return x


def apply(forward: Forward, x, convolved_skips: bool):
    """Returns logits [B, H, W, 1]. x: [B, H, W, 3]."""
    x = double_conv(forward, "inc.conv.conv", x)
    skips = [x]
    for i in range(1, DEPTH + 1):
        x = double_conv(forward, f"down{i}.mpconv.1.conv", max_pool(x))
        skips.append(x)
    for i in range(1, DEPTH + 1):
        level = DEPTH - i
        skip = skips[level]
        if convolved_skips:
            skip = double_conv(forward, f"P{level + 1}.conv", skip)
        x = jnp.concatenate([skip, double_aligned(x).astype(skip.dtype)], -1)
        x = double_conv(forward, f"up{i}.conv.conv", x)
    return forward.conv("outc.conv", x)


def network(convolved_skips: bool = True, divisor: int = 1) -> Network:
    """Returns the network: 19,667,969 parameters; 3,352,257 without convolutions on the skips and
    with all widths divided by 2."""
    widths = [width // divisor for width in WIDTHS]
    ups = [width // divisor for width in UP_WIDTHS]
    layers = _double("inc.conv.conv", CHANNELS, widths[0])
    for i in range(1, DEPTH + 1):
        layers += _double(f"down{i}.mpconv.1.conv", widths[i - 1], widths[i])
    if convolved_skips:
        for i in range(DEPTH, 0, -1):
            layers += _double(f"P{i}.conv", widths[i - 1], widths[i - 1])
    below = widths[-1]
    for i, width in enumerate(ups, 1):
        layers += _double(f"up{i}.conv.conv", widths[DEPTH - i] + below, width)
        below = width
    layers += [conv("outc.conv", below, 1, 1)]
    run = functools.partial(apply, convolved_skips=convolved_skips)
    return Network(tuple(layers), run, 2**DEPTH)


def _double(name: str, inputs: int, outputs: int) -> list[Layer]:
    return [
        conv(f"{name}.0", inputs, outputs),
        norm(f"{name}.1", outputs),
        conv(f"{name}.3", outputs, outputs),
        norm(f"{name}.4", outputs),
    ]
