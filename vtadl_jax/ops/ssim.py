"""Structural similarity of two images (Wang et al., 2004), differentiable.

The Gaussian window is symmetric, so blurring is its own adjoint: the gradient costs three more
blurs of the same fast form. On the CPU a blur is 11 shifted adds along each axis of contiguous
rows; elsewhere it is a product with a banded matrix on each side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

WINDOW = 11
SIGMA = 1.5


def gaussian_window(size: int = WINDOW, sigma: float = SIGMA) -> np.ndarray:
    """Normalised Gaussian taps, [size] float64."""
    x = np.arange(size) - (size - 1) / 2
    taps = np.exp(-0.5 * (x / sigma) ** 2)
    return taps / taps.sum()


def _shifted_adds(x):
    taps, half = gaussian_window().astype(np.float32), WINDOW // 2
    for axis in (-2, -1):
        n = x.shape[axis]
        pad = [(0, 0)] * x.ndim
        pad[axis] = (half, half)
        padded = jnp.pad(x, pad)
        x = sum(
            taps[t] * jax.lax.slice_in_dim(padded, t, t + n, axis=axis % x.ndim)
            for t in range(WINDOW)
        )
        # Keeps the two passes apart: fused, each output would repeat the first pass 11 times.
        x = jax.lax.optimization_barrier(x)
    return x


def _band_matrix(n: int) -> np.ndarray:
    taps, half = gaussian_window(), WINDOW // 2
    offset = np.subtract.outer(np.arange(n), np.arange(n)) + half
    inside = (offset >= 0) & (offset < WINDOW)
    return np.where(inside, taps[np.clip(offset, 0, WINDOW - 1)], 0).astype(np.float32)


def _band_matmul(x):
    precision = jax.lax.Precision.HIGHEST
    rows, cols = _band_matrix(x.shape[-2]), _band_matrix(x.shape[-1])
    x = jnp.einsum("...hw,wv->...hv", x, cols, precision=precision)
    return jnp.einsum("uh,...hw->...uw", rows, x, precision=precision)


@jax.custom_vjp
def blur(x):
    """Gaussian window (11 taps, sigma 1.5) over the last two axes of [..., H, W], zero padding."""
    return jax.lax.platform_dependent(x, cpu=_shifted_adds, default=_band_matmul)


blur.defvjp(lambda x: (blur(x), None), lambda _, g: (blur(g),))


@functools.partial(jax.jit, static_argnames="data_range")
def ssim(x, y, data_range: float):
    """Mean structural similarity of each image pair, paper eq. 7.

    x, y: [B, H, W, C] with values spanning `data_range` (2 for images in [-1, 1]). The window is
    zero-padded at the border; C1 = (0.01 R)², C2 = (0.03 R)². Returns [B] float32, at most 1.
    """
    x, y = (jnp.moveaxis(jnp.asarray(a, jnp.float32), -1, 1) for a in (x, y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mu_x, mu_y = blur(x), blur(y)
    var_x = blur(x * x) - mu_x * mu_x
    var_y = blur(y * y) - mu_y * mu_y
    cov = blur(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + c1) / (mu_x * mu_x + mu_y * mu_y + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def ssim_reference(x: np.ndarray, y: np.ndarray, data_range: float) -> np.ndarray:
    """The definition in float64 numpy: an explicit weighted sum over every 11 × 11 window."""
    window = np.outer(gaussian_window(), gaussian_window())[None, :, :, None]
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    half = WINDOW // 2
    pad = ((0, 0), (half, half), (half, half), (0, 0))
    px, py = np.pad(np.float64(x), pad), np.pad(np.float64(y), pad)
    total = np.zeros(len(x))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            a, b = px[:, i : i + WINDOW, j : j + WINDOW], py[:, i : i + WINDOW, j : j + WINDOW]
            mu_a, mu_b, aa, bb, ab = ((window * v).sum((1, 2)) for v in (a, b, a * a, b * b, a * b))
            value = (2 * mu_a * mu_b + c1) * (2 * (ab - mu_a * mu_b) + c2)
            value /= (mu_a**2 + mu_b**2 + c1) * (aa - mu_a**2 + bb - mu_b**2 + c2)
            total += value.mean(-1)
    return total / (x.shape[1] * x.shape[2])
