"""UNet++ (Zhou et al., 2018), as `NestedUNet` of the repository pytorch-nested-unet.

A triangle of blocks x[i, j], level i (resolution) and column j: each sees all blocks before it on
its level, and the one below, upsampled. Without deep supervision: the output is that of x[0, 4].
"""

import jax.numpy as jnp

from vtadl_jax.networks.segmentation.layers import CHANNELS, Forward, Network, conv, norm
from vtadl_jax.ops.pooling import max_pool
from vtadl_jax.ops.resize import double_aligned

WIDTHS = (32, 64, 128, 256, 512)
DEPTH = len(WIDTHS) - 1


def block(forward: Forward, name: str, x):
    """Applies two convolutions, each with batch norm and ReLU."""
    for i in (1, 2):
        x = forward.conv_norm_relu(f"{name}.conv{i}", f"{name}.bn{i}", x)
    return x


def apply(forward: Forward, x):
    """Returns logits [B, H, W, 1]. x: [B, H, W, 3]."""
    rows: list[list] = []  # rows[i][j] is x[i, j]
    for i in range(DEPTH + 1):
        below = block(forward, f"conv{i}_0", max_pool(rows[-1][0]) if rows else x)
        rows.append([below])
        for level in range(i - 1, -1, -1):  # the diagonal up from x[i, 0]
            column = i - level
            raised = double_aligned(below).astype(below.dtype)
            below = block(
                forward, f"conv{level}_{column}", jnp.concatenate([*rows[level], raised], -1)
            )
            rows[level].append(below)
    return forward.conv("final", rows[0][DEPTH])


def network() -> Network:
    """Returns the network of 9,163,329 parameters."""
    layers = []
    for column in range(DEPTH + 1):
        for level in range(DEPTH + 1 - column):
            width, name = WIDTHS[level], f"conv{level}_{column}"
            if column:
                inputs = column * width + WIDTHS[level + 1]
            else:
                inputs = WIDTHS[level - 1] if level else CHANNELS
            layers += [conv(f"{name}.conv1", inputs, width), norm(f"{name}.bn1", width)]
            layers += [conv(f"{name}.conv2", width, width), norm(f"{name}.bn2", width)]
    layers += [conv("final", WIDTHS[0], 1, 1)]
    return Network(tuple(layers), apply, 2**DEPTH)
