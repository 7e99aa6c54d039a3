"""Convolutions with a stride, as one matrix product.

`halving_conv` is the counterpart of `transposed_conv` in encoders. XLA's CPU compiler has no fast
path for the gradients of strided convolutions; a product and its two gradients are fast everywhere.
`valid_conv` takes any kernel and stride; its copies of the input grow with the kernel, so only the
CPU makes them.
"""

import jax
import jax.numpy as jnp

from vtadl_jax.ops.platform import by_platform

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


def valid_conv(x, kernel, stride: int = 1):
    """Computes a convolution without padding, as `torch.nn.Conv2d(C, C', K, stride)` without bias.

    x: [B, H, W, C], kernel: [K, K, C, C'] of the same dtype; sides of at least K. Returns [B, h, w,
    C'] with h = (H - K) // stride + 1.
    """
    return by_platform(
        x,
        kernel,
        cpu=lambda x, kernel: _by_product(x, kernel, stride),
        default=lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
    )


def _by_product(x, kernel, stride: int):
    """Copies what every output sees into a row, first along columns, then along rows."""
    taps, outputs = len(kernel), kernel.shape[-1]
    rows, columns = ((side - taps) // stride + 1 for side in x.shape[1:3])
    last_row, last_column = (stride * (count - 1) + 1 for count in (rows, columns))
    x = jnp.stack([x[:, :, j : j + last_column : stride] for j in range(taps)], 3)
    x = jnp.stack([x[:, i : i + last_row : stride] for i in range(taps)], 3)
    return x.reshape(x.shape[0], rows, columns, -1) @ kernel.reshape(-1, outputs)
