"""Periodic noise of the drawn parts' surfaces, made once a process and sampled at points."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 throughout; a float64 scalar from np.cos would widen it

TILE = 1024  # texels of a noise tile, which repeats after two image sides; a power of two
TEXELS_PER_SIDE = 512
WIDE = 12.0  # standard deviation in texels from which a blur by Fourier transforms is faster


@cache
def noise_tile(kind: str) -> Array:
    """[TILE, TILE] float32 periodic noise of unit variance: 'grain', 'brush' or 'cloud'."""
    white = np.random.default_rng(20210).standard_normal((TILE, TILE)).astype(np.float32)

    def octave(*sigma: float) -> Array:
        blurred = white
        for axis in (0, 1):
            blurred = _blur_along(blurred, sigma[axis], axis)
        return blurred / blurred.std()

    if kind == "grain":
        tile = octave(1.4, 1.4) + 0.8 * octave(4.0, 4.0) + 0.4 * octave(9.0, 9.0)
    elif kind == "brush":
        tile = octave(1.1, 60.0) + 0.5 * octave(4.0, 120.0) + 0.25 * octave(1.2, 12.0)
    else:
        tile = octave(45.0, 45.0) + 0.6 * octave(18.0, 18.0) + 0.3 * octave(7.0, 7.0)
    return tile / tile.std()


def _blur_along(field: Array, sigma: float, axis: int) -> Array:
    """scipy.ndimage.gaussian_filter1d of a periodic field, summed in float64 as there.

    Wide kernels are applied by Fourier transforms: float64 rounding is all that differs, which
    float32 results do not show.
    """
    from scipy import ndimage  # imports slowly, and most processes do not need it

    if sigma < WIDE:
        return ndimage.gaussian_filter1d(field, sigma, axis, mode="wrap")
    pulse = np.zeros(field.shape[axis])
    pulse[0] = 1.0
    kernel = np.fft.rfft(ndimage.gaussian_filter1d(pulse, sigma, mode="wrap"))
    lines = np.moveaxis(field, axis, -1).astype(np.float64)
    blurred = np.fft.irfft(np.fft.rfft(lines) * kernel.real, n=lines.shape[-1])
    return np.moveaxis(blurred, -1, axis).astype(np.float32, order="C")


def sample_tile(kind: str, x: Array, y: Array, offset: int) -> Array:
    """Noise at points x, y (fractions of the image side), the tile cut at `offset` texels."""
    column = ((x * TEXELS_PER_SIDE).astype(np.int32) + offset) & (TILE - 1)
    row = ((y * TEXELS_PER_SIDE).astype(np.int32) + offset * 7) & (TILE - 1)
    return noise_tile(kind).ravel().take(row * TILE + column)
