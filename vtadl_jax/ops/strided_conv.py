"""A 4 × 4 convolution of stride 2, as one matrix product.

The counterpart of `transposed_conv` in encoders. XLA's CPU compiler has no fast path for the
gradients of strided convolutions; a product and its two gradients are fast everywhere.
"""

import jax.numpy as jnp

TAPS = 4


def halving_conv(x, kernel):
    """Computes out[o] = Σ_t x[2·o + t - 1] · kernel[t] along both axes, zeros beyond the border.

    x: [B, H, W, C] with even sides, kernel: [4, 4, C, C']. Returns [B, H / 2, W / 2, C'], equal to
    `torch.nn.Conv2d(C, C', 4, stride=2, padding=1)`.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Cells of 2 × 2 pixels; each output sees 2 × 2 cells.
    cells = padded.reshape(batch, rows + 1, 2, columns + 1, 2, channels)
    cells = cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows + 1, columns + 1, -1)
    views = [cells[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
    by_cell = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return jnp.concatenate(views, -1) @ by_cell.reshape(TAPS * TAPS * channels, -1)
