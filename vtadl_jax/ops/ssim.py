"""Structural similarity of two images (Wang et al., 2004), differentiable.

The moments under the Gaussian window are four valid filterings of padded maps; their adjoint is the
same filtering of a zero-padded map, so the gradient costs three more (six for both images).
On the CPU each filtering is 11 shifted adds along each axis of contiguous rows, and images are
processed one by one, so that their maps stay in the cache. Elsewhere it is a product with a banded
matrix on each side, of several maps of all images at once.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform

WINDOW = 11
HALF = WINDOW // 2
SIGMA = 1.5
# Padding beyond the border: zeros, or the image mirrored about its outermost pixels (numpy's and
# PyTorch's 'reflect').
Padding = Literal["zero", "reflect"]
NUMPY_MODE: dict[Padding, Any] = {"zero": "constant", "reflect": "reflect"}


def gaussian_window(size: int = WINDOW, sigma: float = SIGMA) -> np.ndarray:
    """Returns normalized Gaussian taps, [size] float64."""
    x = np.arange(size) - (size - 1) / 2
    taps = np.exp(-0.5 * (x / sigma) ** 2)
    return taps / taps.sum()


def ssim(x, y, data_range: float, padding: Padding = "zero"):
    """Returns the mean structural similarity of each image pair, paper eq. 7.

    x, y: [B, H, W, C] with values spanning `data_range` (2 for images in [-1, 1]). The window is
    padded at the border; C1 = (0.01 R)², C2 = (0.03 R)². Returns [B] float32, at most 1.

    Raises:
      UserError: an unknown `padding`, or sides too short to mirror (reflect needs 6 pixels).
    """
    if padding not in get_args(Padding):
        raise UserError(f"padding {padding!r}: use one of {', '.join(get_args(Padding))}")
    if padding == "reflect" and min(x.shape[1:3]) <= HALF:
        raise UserError(
            f"padding 'reflect' needs sides of at least {HALF + 1} pixels, got "
            f"{x.shape[1]}x{x.shape[2]}: use 'zero'"
        )
    x, y = (jnp.asarray(a, jnp.float32) for a in (x, y))

    return by_platform(
        x,
        y,
        cpu=lambda x, y: by_image(x, y, data_range, padding),
        default=lambda x, y: at_once(x, y, data_range, padding),
    )


def similarity(mu_x, mu_y, squares, products, data_range: float):
    """Returns SSIM from E x, E y, E (x² + y²) and E xy; it needs only the sum of the variances."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mu_squares, mu_products = mu_x * mu_x + mu_y * mu_y, mu_x * mu_y
    luminance = (2 * mu_products + c1) / (mu_squares + c1)
    return luminance * (2 * (products - mu_products) + c2) / (squares - mu_squares + c2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_image(x, y, data_range: float, padding: Padding):
    """Computes SSIM one image after the other.

    Gradients of an image are computed in the forward pass, while its maps are in the cache: they
    are linear in the cotangent, one number per image.
    """
    return jax.lax.map(lambda pair: _of_image(pair[0], pair[1], data_range, padding), (x, y))


def _by_image_fwd(x, y, data_range, padding):
    def value_and_grads(pair):
        x, y = pair
        return jax.value_and_grad(_of_image, argnums=(0, 1))(x, y, data_range, padding)

    return jax.lax.map(value_and_grads, (x, y))


def _by_image_bwd(data_range, padding, grads, g):
    return tuple(g[:, None, None, None] * grad for grad in grads)


by_image.defvjp(_by_image_fwd, _by_image_bwd)


def _of_image(x, y, data_range: float, padding: Padding):
    """Returns the SSIM of x, y: [H, W, C]. Reduces rows first: XLA's CPU back end makes a single
    reduction of everything a scalar loop."""
    ends = ((HALF, HALF), (HALF, HALF), (0, 0))
    padded = (jnp.pad(a, ends, NUMPY_MODE[padding]) for a in (x, y))
    mu_x, mu_y, squares, products = _moments(
        x.shape[-1], *(a.reshape(a.shape[0], -1) for a in padded)
    )
    return similarity(mu_x, mu_y, squares, products, data_range).mean(-1).mean()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _moments(channels: int, x, y):
    """Returns E x, E y, E (x² + y²), E xy of padded maps [H + 10, (W + 10)·C], each [H, W·C]."""
    combinations = (
        lambda x, y: x,
        lambda x, y: y,
        lambda x, y: x * x + y * y,
        lambda x, y: x * y,
    )
    return tuple(_filter(channels, combine, x, y) for combine in combinations)


def _moments_bwd(channels, maps, grads):
    ends = ((2 * HALF, 2 * HALF), (2 * HALF * channels, 2 * HALF * channels))
    of_x, of_y, of_squares, of_products = (
        _filter(channels, lambda g: g, jnp.pad(g, ends)) for g in grads
    )
    x, y = maps
    return (
        of_x + 2 * x * of_squares + y * of_products,
        of_y + 2 * y * of_squares + x * of_products,
    )


_moments.defvjp(lambda channels, x, y: (_moments(channels, x, y), (x, y)), _moments_bwd)


def _filter(channels: int, combine, *maps):
    """Filters `combine(*maps)` with the window along both axes; the first pass computes `combine`.

    A shift by one pixel is a shift by C contiguous values.
    """
    taps = gaussian_window().astype(np.float32)
    height, width = maps[0].shape[0] - 2 * HALF, maps[0].shape[1] - 2 * HALF * channels

    @outlined
    def down(*maps):
        return sum(taps[t] * combine(*(m[t : t + height] for m in maps)) for t in range(WINDOW))

    @outlined
    def along(rows):
        return sum(taps[t] * rows[:, t * channels : t * channels + width] for t in range(WINDOW))

    return along(down(*maps))


def at_once(x, y, data_range: float, padding: Padding):
    """Computes SSIM of all images at once by products with banded matrices."""
    # x separately: its moments need no gradient if x is data.
    (mu_x,) = blur(padding, x)
    mu_y, squares, products = blur(padding, y, x * x + y * y, x * y)
    return similarity(mu_x, mu_y, squares, products, data_range).mean((1, 2, 3))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def blur(padding: Padding, *maps):
    """Filters images [B, H, W, C] float32 with the window; returns a tuple of as many maps."""
    return _band_matmul(padding, maps)


blur.defvjp(
    lambda padding, *maps: (blur(padding, *maps), None),
    lambda padding, _, grads: _band_matmul(padding, grads, adjoint=True),
)


def band_matrix(n: int, padding: Padding) -> np.ndarray:
    """Returns the padded window along an axis, [n, n] float64; symmetric for zero padding."""
    padded = np.pad(np.eye(n), ((HALF, HALF), (0, 0)), NUMPY_MODE[padding])
    return sum(tap * padded[t : t + n] for t, tap in enumerate(gaussian_window()))


def _band_matmul(padding: Padding, maps, adjoint: bool = False):
    """Filters all maps in one product per axis: separate products compile for minutes.

    Three bfloat16 passes (HIGH) keep 16 bits; the images are channel planes in memory.
    """
    x = jnp.stack([m.transpose(0, 3, 1, 2) for m in maps])
    rows, cols = (band_matrix(n, padding).astype(np.float32) for n in x.shape[-2:])
    if adjoint:
        rows, cols = rows.T, cols.T
    precision = jax.lax.Precision.HIGH
    x = jnp.einsum("mbchw,vw->mbchv", x, cols, precision=precision)
    x = jnp.einsum("uh,mbchv->mbcuv", rows, x, precision=precision)
    return tuple(m.transpose(0, 2, 3, 1) for m in x)


def ssim_reference(
    x: np.ndarray, y: np.ndarray, data_range: float, padding: Padding = "zero"
) -> np.ndarray:
    """Computes `ssim` from its definition: an explicit float64 sum over every 11 × 11 window."""
    window = np.outer(gaussian_window(), gaussian_window())[None, :, :, None]
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    pad = ((0, 0), (HALF, HALF), (HALF, HALF), (0, 0))
    px, py = (np.pad(np.float64(a), pad, NUMPY_MODE[padding]) for a in (x, y))
    total = np.zeros(len(x))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            a, b = px[:, i : i + WINDOW, j : j + WINDOW], py[:, i : i + WINDOW, j : j + WINDOW]
            mu_a, mu_b, aa, bb, ab = ((window * v).sum((1, 2)) for v in (a, b, a * a, b * b, a * b))
            value = (2 * mu_a * mu_b + c1) * (2 * (ab - mu_a * mu_b) + c2)
            value /= (mu_a**2 + mu_b**2 + c1) * (aa - mu_a**2 + bb - mu_b**2 + c2)
            total += value.mean(-1)
    return total / (x.shape[1] * x.shape[2])
