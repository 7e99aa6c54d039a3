"""Images as blocks of pixels, a layout that fills the lanes of a TPU.

A TPU pads the minor axis of an array to 128 lanes, so pixels of 3 or 16 channels waste most of it.
Here one vector holds a block of (bh, bw) pixels: [B, H/bh, W/bw, C·bw·bh], values ordered (channel,
column, row). On blocks, a transposed convolution is a plain 3 × 3 convolution whose kernel is
mostly zero, and BatchNorm reduces over full lanes.
"""

import jax
import jax.numpy as jnp
import numpy as np

Block = tuple[int, int]  # (rows, columns) of pixels


def split_into_blocks(x, block: Block):
    """Rearranges [B, H, W, C] into blocks [B, H/bh, W/bw, C·bw·bh]."""
    batch, height, width, channels = x.shape
    bh, bw = block
    x = x.reshape(batch, height // bh, bh, width // bw, bw, channels)
    return x.transpose(0, 1, 3, 5, 4, 2).reshape(batch, height // bh, width // bw, -1)


def split_columns(x, block: Block, parts: int):
    """Makes every block `parts` times narrower: [B, h, w, C·bw·bh] → [B, h, parts·w, …]."""
    batch, height, width, size = x.shape
    bh, bw = block
    x = x.reshape(batch, height, width, size // (bh * bw), parts, bw // parts * bh)
    return x.transpose(0, 1, 2, 4, 3, 5).reshape(batch, height, width * parts, size // parts)


def merge_blocks(x, block: Block):
    """Inverts `split_into_blocks`: [B, h, w, C·bw·bh] → [B, h·bh, w·bw, C].

    Columns are interleaved by a product with a permutation matrix: a copy would move single lanes.
    The result is channel-planar in memory, as `ssim` reads it.
    """
    batch, height, width, size = x.shape
    bh, bw = block
    channels = size // (bh * bw)
    x = x.reshape(batch, height, width, channels, bw, bh).transpose(0, 3, 1, 5, 4, 2)
    x = x.reshape(batch, channels, height * bh, bw * width)
    # Column bw·j + q comes from lane width·q + j. One term per sum: exact at the highest precision.
    source = np.arange(bw * width).reshape(bw, width).T.ravel()
    interleave = np.eye(bw * width, dtype=np.float32)[:, source].astype(x.dtype)
    x = jnp.einsum("bchl,lw->bchw", x, interleave, precision=jax.lax.Precision.HIGHEST)
    return x.transpose(0, 2, 3, 1)


def _placement(kernel: int, stride: int, padding: int, block: int) -> np.ndarray:
    """Returns [3, block, block·stride, kernel] of 0 and 1: the tap between two pixels on one axis.

    Input pixel i of the previous, same or next block (0, 1, 2) contributes to output pixel o by tap
    o + padding - stride·i.
    """
    neighbour, i, o, tap = np.indices((3, block, block * stride, kernel))
    position = (neighbour - 1) * block + i
    return (tap == o + padding - stride * position).astype(np.float32)


def blocked_transposed_conv(x, kernel, stride: int, padding: int, block: Block):
    """Applies `transposed_conv` to blocks; output blocks are `stride` times as large, same grid.

    x: [B, h, w, C·bw·bh], kernel: [kh, kw, C, F]. Returns [B, h, w, F·(bw·stride)·(bh·stride)].
    Requires that the kernel reaches no further than one block, and outputs of exactly `stride`
    times the input's sides.
    """
    rows, cols = (
        _placement(k, stride, padding, b) for k, b in zip(kernel.shape[:2], block, strict=True)
    )
    # Every entry is one tap or zero; the highest precision moves float32 taps unrounded.
    dense = jnp.einsum(
        "uiok,vjpl,klcf->uvcjifpo",
        rows.astype(kernel.dtype),
        cols.astype(kernel.dtype),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
    )
    dense = dense.reshape(3, 3, x.shape[-1], -1)
    return jax.lax.conv_general_dilated(
        x, dense, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
