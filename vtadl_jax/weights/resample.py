"""A patch embedding and its position table for other patches, grids and pixels than they learned.

numpy and JAX's resize, no files.
"""

import math

import jax
import numpy as np

# Mean and deviation of ImageNet's pixels in [0, 1], which DeiT, DINO and others subtract.
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def absorb(kernel, bias, pixels: str, channels: int):
    """Patch kernel [P, P, 3, D] and bias [D] for our images, in [-1, 1] and of 1 or 3 channels.

    Exact: the standardisation (x - mean) / deviation is linear, and a grey image is one of three
    equal channels.
    """
    if pixels == "imagenet":
        mean, deviation = IMAGENET
        bias = bias + np.einsum("pqcd,c->d", kernel, (0.5 - mean) / deviation)
        kernel = kernel * (0.5 / deviation)[:, None]
    if channels == 1 and kernel.shape[2] == 3:
        kernel = kernel.sum(2, keepdims=True)
    return kernel.astype(np.float32), bias.astype(np.float32)


def resize_patch_kernel(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """[P, P, C, D] → [P', P', C, D] by FlexiViT's pseudo-inverse.

    Of a patch enlarged from P to P', the new kernel makes exactly the token that the old one makes
    of the patch before; interpolating the kernel itself would change its norm and its meaning.
    """
    if kernel.shape[0] == patch_size:
        return kernel
    # In float64: the pseudo-inverse of a reduction is poorly conditioned.
    enlarge = np.asarray(resize_matrix(kernel.shape[0], patch_size), np.float64)
    inverse = np.linalg.pinv(enlarge.T)
    return np.einsum("up,vq,pqcd->uvcd", inverse, inverse, kernel, optimize=True).astype(np.float32)


def resize_positions(table: np.ndarray, grid: tuple[int, int], extra: int) -> np.ndarray:
    """[1, extra + n·n, D] → [1, extra + rows·columns, D], bicubic with antialiasing as timm's.

    The first `extra` rows, the class token's, have no place on the grid and stay. A table whose
    rows are no square is returned as it is.
    """
    first, rest = table[:, :extra], table[:, extra:]
    side = math.isqrt(rest.shape[1])
    if side**2 != rest.shape[1] or (side, side) == grid:
        return table
    down, along = (np.asarray(resize_matrix(side, n)) for n in grid)
    image = rest.reshape(side, side, -1)
    resized = np.einsum("up,vq,pqd->uvd", down, along, image, optimize=True)
    return np.concatenate([first, resized.reshape(1, -1, table.shape[-1])], 1).astype(np.float32)


def resize_matrix(old: int, new: int):
    """[new, old]: bicubic resampling along one axis, at pixel centres, antialiased."""
    return jax.image.resize(np.eye(old, dtype=np.float32), (new, old), "cubic")
