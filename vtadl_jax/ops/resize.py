"""Bilinear resampling and Gaussian smoothing of maps as products with two small matrices.

The matrices are constants built in float64 numpy, so resampling and smoothing of a token grid to
image size fold into one matrix per axis. For score maps, not for photographs: there is no
anti-aliasing when shrinking.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.inspected import only_inside
from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform


def bilinear_matrix(size_in: int, size_out: int, align_corners: bool = False) -> np.ndarray:
    """Returns the weights of linear interpolation, [size_out, size_in] float64.

    align_corners False samples at pixel centres and repeats the border, as PyTorch's
    `interpolate(mode='bilinear')`; True aligns the first and last samples of input and output.
    """
    if align_corners:
        position = np.linspace(0, size_in - 1, size_out)
    else:
        position = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    position = np.clip(position, 0, size_in - 1)
    left = np.minimum(np.floor(position).astype(int), max(size_in - 2, 0))
    fraction = position - left
    matrix = np.zeros((size_out, size_in))
    matrix[np.arange(size_out), left] = 1 - fraction
    matrix[np.arange(size_out), np.minimum(left + 1, size_in - 1)] += fraction
    return matrix


def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> np.ndarray:
    """Returns the [size, size] float64 matrix of scipy's `gaussian_filter1d(mode='reflect')`."""
    if sigma <= 0:
        return np.eye(size)
    radius = int(truncate * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
        # 'reflect' mirrors about the outer pixel edge (d c b a | a b c d | d c b a), period 2n.
        source = (rows + offset) % (2 * size)
        np.add.at(matrix, (rows, np.minimum(source, 2 * size - 1 - source)), tap)
    return matrix


def upsample_maps(
    maps, size: tuple[int, int], sigma: float = 0.0, align_corners: bool = False
) -> jax.Array:
    """Upsamples maps to image size, then smooths with a Gaussian of `sigma` pixels (0: none).

    maps: [B, h, w]. Returns [B, H, W] float32 with (H, W) = size, the lowest value where nothing is
    inspected (`ops/inspected.py`).
    """
    rows, cols = (
        (gaussian_matrix(n, sigma) @ bilinear_matrix(m, n, align_corners)).astype(np.float32)
        for m, n in zip(maps.shape[1:], size, strict=True)
    )
    precision = jax.lax.Precision.HIGHEST
    maps = jnp.asarray(maps, jnp.float32)
    return only_inside(jnp.einsum("uh,bhw,vw->buv", rows, maps, cols, precision=precision))


def double_aligned(x) -> jax.Array:
    """Doubles both sides of maps by bilinear interpolation with aligned corners.

    x: [B, h, w, C]. Returns [B, 2h, 2w, C] of the same type, as PyTorch's
    `Upsample(scale_factor=2, mode='bilinear', align_corners=True)`. `jax.image.resize` has no
    aligned corners. Products with matrices; on the CPU, whose products would cost as much as a
    convolution, weighted sums of neighbours in one loop.
    """
    return by_platform(x, cpu=double_by_neighbours, default=double_by_products)


def double_by_products(x) -> jax.Array:
    """Computes `double_aligned` by a product with a matrix along each axis."""
    rows, columns = (bilinear_matrix(n, 2 * n, True).astype(x.dtype) for n in x.shape[1:3])
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("uh,bhwc->buwc", rows, x, precision=precision)
    return jnp.einsum("vw,buwc->buvc", columns, x, precision=precision)


@jax.custom_vjp
def double_by_neighbours(x) -> jax.Array:
    """Computes `double_aligned` from each pixel and the ones before and after it, axis by axis."""
    return outlined(lambda x: _double(_double(x, 1), 2))(x)


def _doubled(x):
    return double_by_neighbours(x), None


def _gradient_of_doubled(_, g):
    return (outlined(lambda g: _halve(_halve(g, 2), 1))(g),)


double_by_neighbours.defvjp(_doubled, _gradient_of_doubled)


def _double(x, axis: int):
    """Doubles an axis. Outputs 2k and 2k + 1 lie k / (2n - 1) before and (n - 1 - k) / (2n - 1)
    after input k, in steps of the inputs."""
    before, after = _shares(x, axis)
    even = x + before * (_shifted(x, axis, -1) - x)
    odd = x + after * (_shifted(x, axis, 1) - x)
    sides = [*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :]]
    return jnp.stack([even, odd], axis + 1).reshape(sides)


def _halve(g, axis: int):
    """Returns the gradient of `_double`'s input from that of its output."""
    pairs = g.reshape(*g.shape[:axis], -1, 2, *g.shape[axis + 1 :])
    even, odd = (jnp.take(pairs, i, axis + 1) for i in (0, 1))
    before, after = _shares(even, axis)
    kept = (1 - before) * even + (1 - after) * odd
    return kept + _shifted(before * even, axis, 1) + _shifted(after * odd, axis, -1)


def _shares(x, axis: int):
    """Returns the weights of the pixels before and after, shaped to multiply x; 0 at the ends."""
    n = x.shape[axis]
    k = np.arange(n).reshape([n if i == axis else 1 for i in range(x.ndim)])
    return (jnp.asarray(values / (2 * n - 1), x.dtype) for values in (k, n - 1 - k))


def _shifted(x, axis: int, step: int):
    """Returns x[k + step] at k, step 1 or -1, and 0 beyond the ends."""
    n = x.shape[axis]
    zeros = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    if step == 1:
        return jnp.concatenate([jax.lax.slice_in_dim(x, 1, n, axis=axis), zeros], axis)
    return jnp.concatenate([zeros, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)


def double_aligned_reference(x) -> jax.Array:
    """Computes `double_aligned` pixel by pixel from its definition."""
    _, height, width, _ = x.shape

    def neighbours(side: int, place: int) -> tuple[int, int, float]:
        position = place * (side - 1) / (2 * side - 1)
        before = int(position)
        return before, min(before + 1, side - 1), position - before

    result = []
    for row in range(2 * height):
        top, bottom, down = neighbours(height, row)
        for column in range(2 * width):
            left, right, across = neighbours(width, column)
            above = (1 - across) * x[:, top, left] + across * x[:, top, right]
            below = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
            result.append((1 - down) * above + down * below)
    return jnp.stack(result, 1).reshape(x.shape[0], 2 * height, 2 * width, -1)
