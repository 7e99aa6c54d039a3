"""Depthwise convolution: each channel has its own filter.

XLA's CPU compiler has no fast path for it; there it is a sum of shifted products in one pass. Other
compilers get the native convolution.
"""

import functools

import jax
import jax.numpy as jnp

from vtadl_jax.ops.platform import by_platform

PRECISION = jax.lax.Precision.HIGHEST


def depthwise_conv(x, kernel, stride: int = 1):
    """Applies a depthwise convolution with zero padding as TensorFlow's 'SAME'.

    x: [B, H, W, C], kernel: [k, k, C]. Returns [B, ceil(H / stride), ceil(W / stride), C].
    """
    return by_platform(
        x,
        kernel,
        cpu=functools.partial(shifted, stride=stride),
        default=functools.partial(native, stride=stride),
    )


def native(x, kernel, stride: int):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=PRECISION,
    )


def shifted(x, kernel, stride: int):
    size = kernel.shape[0]
    outputs = [-(-side // stride) for side in x.shape[1:3]]
    margins = []
    for side, out in zip(x.shape[1:3], outputs, strict=True):
        total = max((out - 1) * stride + size - side, 0)
        margins.append((total // 2, total - total // 2))
    padded = jnp.pad(x, ((0, 0), *margins, (0, 0)))
    rows, columns = ((out - 1) * stride + 1 for out in outputs)
    found = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            view = padded[:, i : i + rows : stride, j : j + columns : stride]
            found = found + view * kernel[i, j]
    return found
