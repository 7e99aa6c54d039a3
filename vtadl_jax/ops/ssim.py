"""Structural similarity of two images (Wang et al., 2004), differentiable.

The Gaussian window is symmetric, so blurring is its own adjoint: the value costs four blurs and
the gradient three more of the same fast form. On the CPU a blur is 11 shifted adds along each axis
of contiguous rows; elsewhere it is a product with a banded matrix on each side, of several maps at
once.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.outline import outlined

WINDOW = 11
SIGMA = 1.5


def gaussian_window(size: int = WINDOW, sigma: float = SIGMA) -> np.ndarray:
    """Normalised Gaussian taps, [size] float64."""
    x = np.arange(size) - (size - 1) / 2
    taps = np.exp(-0.5 * (x / sigma) ** 2)
    return taps / taps.sum()


def _shifted_adds(x):
    """Rows are viewed as [H, W·C], so that a shift by a pixel is one by C contiguous values."""
    batch, height, width, channels = x.shape
    taps, half = gaussian_window().astype(np.float32), WINDOW // 2

    @outlined
    def down(rows):
        rows = jnp.pad(rows, ((0, 0), (half, half), (0, 0)))
        return sum(taps[t] * rows[:, t : t + height] for t in range(WINDOW))

    @outlined
    def along(rows):
        n = width * channels
        rows = jnp.pad(rows, ((0, 0), (0, 0), (half * channels, half * channels)))
        return sum(taps[t] * rows[..., t * channels : t * channels + n] for t in range(WINDOW))

    return along(down(x.reshape(batch, height, width * channels))).reshape(x.shape)


def _band_matrix(n: int) -> np.ndarray:
    taps, half = gaussian_window(), WINDOW // 2
    offset = np.subtract.outer(np.arange(n), np.arange(n)) + half
    inside = (offset >= 0) & (offset < WINDOW)
    return np.where(inside, taps[np.clip(offset, 0, WINDOW - 1)], 0).astype(np.float32)


def _band_matmul(*maps):
    """All maps in one product an axis: they would compile for minutes one by one.

    Three bfloat16 passes (HIGH) keep 16 bits; the images are as channel planes in memory.
    """
    x = jnp.stack([m.transpose(0, 3, 1, 2) for m in maps])
    rows, cols = _band_matrix(x.shape[-2]), _band_matrix(x.shape[-1])
    precision = jax.lax.Precision.HIGH
    x = jnp.einsum("mbchw,vw->mbchv", x, cols, precision=precision)
    x = jnp.einsum("uh,mbchv->mbcuv", rows, x, precision=precision)
    return tuple(m.transpose(0, 2, 3, 1) for m in x)


@jax.custom_vjp
def blur(*maps):
    """Gaussian window (11 taps, sigma 1.5) over images [B, H, W, C] float32, zero padding.

    Returns a tuple, as many maps as were given.
    """
    return jax.lax.platform_dependent(
        *maps, cpu=lambda *maps: tuple(_shifted_adds(m) for m in maps), default=_band_matmul
    )


blur.defvjp(lambda *maps: (blur(*maps), None), lambda _, grads: blur(*grads))


def ssim(x, y, data_range: float):
    """Mean structural similarity of each image pair, paper eq. 7.

    x, y: [B, H, W, C] with values spanning `data_range` (2 for images in [-1, 1]). The window is
    zero-padded at the border; C1 = (0.01 R)², C2 = (0.03 R)². Returns [B] float32, at most 1.
    """
    x, y = (jnp.asarray(a, jnp.float32) for a in (x, y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # x alone: its blur needs no gradient where x is data. Only the sum of the two variances enters,
    # so their second moments share a blur.
    (mu_x,) = blur(x)
    mu_y, squares, products = blur(y, x * x + y * y, x * y)
    mu_squares = mu_x * mu_x + mu_y * mu_y
    variances = squares - mu_squares
    covariance = products - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + c1) / (mu_squares + c1)
    similarity = luminance * (2 * covariance + c2) / (variances + c2)
    # Row sums first: one reduction over three axes becomes a scalar loop on the CPU.
    return similarity.reshape(*x.shape[:2], -1).mean(-1).mean(-1)


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
