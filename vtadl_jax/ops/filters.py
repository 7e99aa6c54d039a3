"""Fixed filter responses of an image: local, multi-scale, and untrained, so they cannot collapse.

Five per scale: Gaussian, its two first differences, its Laplacian and the local standard deviation.
Filters are products with two small constant matrices, one per axis, as in `resize`; the coarse
scales work on an averaged image. `filter_bank_reference` is the plain definition.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from vtadl_jax.errors import UserError
from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform
from vtadl_jax.ops.resize import gaussian_matrix

SIGMAS = (1, 2, 4, 8)  # pixels
NUM_FILTERS = 5  # per scale
PRECISION = jax.lax.Precision.HIGHEST
VARIANCE_FLOOR = 1e-6


def difference_matrix(size: int, order: int) -> np.ndarray:
    """Returns central first (order 1) or second differences as a matrix, edges repeated.

    [size, size] float64.
    """
    rows = np.arange(size)
    before, after = np.maximum(rows - 1, 0), np.minimum(rows + 1, size - 1)
    matrix = np.zeros((size, size))
    for column, weight in (
        ((after, 0.5), (before, -0.5)) if order == 1 else ((after, 1), (before, 1))
    ):
        np.add.at(matrix, (rows, column), weight)
    if order == 2:
        matrix[rows, rows] -= 2
    return matrix


def average_matrix(size: int, factor: int) -> np.ndarray:
    """Returns the matrix [size / factor, size] float64 of means of `factor` neighbours."""
    return np.kron(np.eye(size // factor), np.full((1, factor), 1 / factor))


def separable(images, rows: np.ndarray, columns: np.ndarray):
    """Filters along both axes: [B, H, W], [h, H], [w, W] → [B, h, w] float32."""
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    return jnp.einsum("uh,bhw,vw->buv", rows, images, columns, precision=PRECISION)


def filter_bank(images, stride: int, sigmas: tuple[int, ...] = SIGMAS):
    """Computes the filter bank of images [B, H, W] float32.

    Returns [B, H / stride, W / stride, 5 · len(sigmas)] float32. Per scale, in units of the image:
    Gaussian; |d/dx| and |d/dy| of it times sigma; |Laplacian| times sigma²; standard deviation in a
    Gaussian window. The last four are smoothed with the same sigma, all are averaged over cells of
    `stride` pixels. For sigmas above 2 the image is averaged over sigma / 2 pixels and filtered
    with sigma 2. Raises UserError for sides that stride and scales do not divide.
    """
    return jnp.concatenate([_scale(images, stride, sigma) for sigma in sigmas], axis=-1)


def _scale(images, stride: int, sigma: int):
    factor = reduction(images.shape[1:], stride, sigma)
    sides = images.shape[1:]
    if factor > 1:
        images = separable(images, *(average_matrix(n, factor) for n in sides))
    sides, sigma = images.shape[1:], sigma // factor
    smooth = [gaussian_matrix(n, sigma) for n in sides]
    first = [sigma * difference_matrix(n, 1) for n in sides]
    second = [sigma**2 * difference_matrix(n, 2) for n in sides]
    cells = [average_matrix(n, stride // factor) for n in sides]
    pooled = [c @ s for c, s in zip(cells, smooth, strict=True)]
    base = separable(images, *smooth)
    maps = (
        jnp.abs(jnp.einsum("bhw,vw->bhv", base, first[1].astype(np.float32), precision=PRECISION)),
        jnp.abs(jnp.einsum("uh,bhw->buw", first[0].astype(np.float32), base, precision=PRECISION)),
        jnp.abs(_laplacian(base, second)),
        jnp.sqrt(_variance(images, sigma) + VARIANCE_FLOOR),
    )
    responses = [separable(base, *cells), *(separable(m, *pooled) for m in maps)]
    return jnp.stack(responses, axis=-1)


def _variance(images, sigma: int):
    """Returns the variance in the Gaussian window of each pixel, [B, H, W] → [B, H, W] float32.

    By differences from the pixel itself, first along rows, then along columns: the difference of
    the window's mean square and the square of its mean is below float32's rounding in flat bright
    areas, where the result would depend on the batch size and on the program.
    """
    mean, across = _moments(images, 2, sigma)
    _, along = _moments(mean, 1, sigma)
    rows = gaussian_matrix(images.shape[1], sigma).astype(np.float32)
    return jnp.einsum("uh,bhw->buw", rows, across, precision=PRECISION) + along


def _moments(images, axis: int, sigma: int):
    """Returns mean and variance in a Gaussian window along an axis, both [B, H, W]."""
    radius, count = int(4 * sigma + 0.5), images.shape[axis]
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    margins = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
    wide = _mirrored(images, margins)
    first = second = jnp.zeros_like(images)
    for k, weight in enumerate(taps):
        offset = jax.lax.slice_in_dim(wide, k, k + count, axis=axis) - images
        first, second = first + weight * offset, second + weight * jnp.square(offset)
    return images + first, jnp.maximum(second - jnp.square(first), 0)


def _mirrored(images, margins):
    """Pads as scipy's 'reflect'. XLA's CPU compiler would pad again for each reader."""

    def pad(x):
        return jnp.pad(x, margins, mode="symmetric")

    return by_platform(images, cpu=outlined(pad), default=pad)


def _laplacian(base, second):
    rows, columns = (m.astype(np.float32) for m in second)
    down = jnp.einsum("uh,bhw->buw", rows, base, precision=PRECISION)
    return down + jnp.einsum("bhw,vw->bhv", base, columns, precision=PRECISION)


def reduction(sides: tuple[int, ...], stride: int, sigma: int) -> int:
    """Returns the averaging factor before a filter of `sigma`, a divisor of the stride.

    Raises UserError if stride, sides and sigma do not fit.
    """
    factor = min(max(sigma // 2, 1), stride)
    if any(side % stride for side in sides) or stride % factor or sigma % factor:
        raise UserError(
            f"filter_bank: sides {tuple(sides)} and sigma {sigma} do not fit stride {stride}: use "
            "a stride that divides the image's sides, and powers of two for sigmas"
        )
    return factor


def filter_bank_reference(images: np.ndarray, stride: int, sigmas: tuple[int, ...] = SIGMAS):
    """Computes `filter_bank` with scipy's filters, float64, image by image."""
    found = []
    for image in np.asarray(images, np.float64):
        responses = []
        for sigma in sigmas:
            factor = reduction(image.shape, stride, sigma)
            small, s, step = _means(image, factor), sigma // factor, stride // factor

            def smooth(x, s=s):
                return ndimage.gaussian_filter(x, s, mode="reflect")

            base = smooth(small)
            dx, dy = (
                s * ndimage.correlate1d(base, [-0.5, 0, 0.5], axis, mode="reflect")
                for axis in (1, 0)
            )
            laplacian = s**2 * ndimage.laplace(base, mode="reflect")
            deviation = np.sqrt(np.maximum(smooth(small**2) - base**2, 0) + VARIANCE_FLOOR)
            maps = [np.abs(dx), np.abs(dy), np.abs(laplacian), deviation]
            responses += [_means(m, step) for m in (base, *map(smooth, maps))]
        found.append(np.stack(responses, -1))
    return np.stack(found)


def _means(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape
    cells = image.reshape(height // factor, factor, width // factor, factor)
    return cells.mean((1, 3))
