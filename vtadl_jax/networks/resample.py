"""Converts a patch embedding and its position table to other patch sizes, grids and pixel ranges.

Uses numpy and JAX's resize; no files. `resize_positions` is of encoders that are trained further,
`resize_table` of frozen ones, whose authors' programs resize in different ways.
"""

import math

import jax
import numpy as np

# Mean and deviation of ImageNet's pixels in [0, 1], by which DeiT, DINO and others standardize.
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def absorb(kernel, bias, pixels: str, channels: int):
    """Folds the pixel standardization into a patch kernel [P, P, 3, D] and bias [D].

    Returns kernel and bias for our images: in [-1, 1], 1 or 3 channels. Exact, because the
    standardization (x - mean) / deviation is affine and a grey image has three equal channels.
    """
    if pixels == "imagenet":
        mean, deviation = IMAGENET
        bias = bias + np.einsum("pqcd,c->d", kernel, (0.5 - mean) / deviation)
        kernel = kernel * (0.5 / deviation)[:, None]
    if channels == 1 and kernel.shape[2] == 3:
        kernel = kernel.sum(2, keepdims=True)
    return kernel.astype(np.float32), bias.astype(np.float32)


def resize_patch_kernel(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """Resizes a patch kernel [P, P, C, D] to [P', P', C, D] by FlexiViT's pseudo-inverse.

    For a patch enlarged from P to P', the new kernel gives exactly the token that the old kernel
    gives for the original patch. Interpolation of the kernel itself would change its norm.
    """
    if kernel.shape[0] == patch_size:
        return kernel
    # In float64: the pseudo-inverse of a reduction is poorly conditioned.
    enlarge = np.float64(resize_matrix(kernel.shape[0], patch_size))
    inverse = np.linalg.pinv(enlarge.T)
    return np.einsum("up,vq,pqcd->uvcd", inverse, inverse, kernel, optimize=True).astype(np.float32)


def resize_positions(table: np.ndarray, grid: tuple[int, int], extra: int) -> np.ndarray:
    """Resizes a position table, bicubic with antialiasing as timm does.

    [1, extra + n·n, D] → [1, extra + rows·columns, D]. The first `extra` rows (class token) have no
    grid position and stay unchanged. A table that is not a square grid is returned unchanged.
    """
    first, rest = table[:, :extra], table[:, extra:]
    side = math.isqrt(rest.shape[1])
    if side**2 != rest.shape[1] or (side, side) == grid:
        return table
    down, along = (resize_matrix(side, n) for n in grid)
    image = rest.reshape(side, side, -1)
    resized = np.einsum("up,vq,pqd->uvd", down, along, image, optimize=True)
    return np.concatenate([first, resized.reshape(1, -1, table.shape[-1])], 1).astype(np.float32)


def resize_matrix(old: int, new: int) -> np.ndarray:
    """Returns the matrix [new, old] of antialiased bicubic resampling along one axis."""
    with jax.ensure_compile_time_eval():  # an `init` that loads weights may be traced
        return np.asarray(jax.image.resize(np.eye(old, dtype=np.float32), (new, old), "cubic"))


RESIZES = {  # how PyTorch programs resize a table: (antialias, added to the new size for the scale)
    "antialias": (True, 0.0),
    "plain": (False, 0.0),
    "offset": (False, 0.1),
}


def resize_table(table: np.ndarray, grid: tuple[int, int], kind: str) -> np.ndarray:
    """Resizes a table of positions [n·n, D] to [rows·columns, D], bicubic, in float64.

    kind: key of `RESIZES`. A table of the same grid is returned unchanged, with 'offset' as well.
    """
    side = math.isqrt(len(table))
    table = np.asarray(table, np.float64)
    if (side, side) == tuple(grid):
        return table
    antialias, offset = RESIZES[kind]
    down, along = (bicubic_matrix(side, n, antialias, offset) for n in grid)
    image = table.reshape(side, side, -1)
    return np.einsum("up,vq,pqd->uvd", down, along, image, optimize=True).reshape(
        grid[0] * grid[1], -1
    )


def bicubic_matrix(old: int, new: int, antialias: bool, offset: float = 0.0) -> np.ndarray:
    """Returns the weights [new, old] float64 of PyTorch's `interpolate(mode='bicubic')`.

    Half-pixel centres. With antialias: Keys' kernel of a = -0.5, widened when shrinking, normalized
    inside the border. Without: a = -0.75 and a repeated border. offset: (new + offset) / old is the
    scale factor that the program gave, in place of the sizes' ratio.
    """
    scale = old / (new + offset)  # old samples per new one
    if antialias:
        centre = scale * (np.arange(new)[:, None] + 0.5) - 0.5
        distance = np.abs(np.arange(old) - centre) / max(scale, 1)
        weights = _cubic(distance, -0.5)
        return weights / weights.sum(1, keepdims=True)
    position = scale * (np.arange(new) + 0.5) - 0.5
    left = np.floor(position).astype(int)
    weights = np.zeros((new, old))
    for tap in (-1, 0, 1, 2):
        columns = np.clip(left + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), columns), _cubic(np.abs(left + tap - position), -0.75))
    return weights


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Returns Keys' cubic convolution kernel at distances x ≥ 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
