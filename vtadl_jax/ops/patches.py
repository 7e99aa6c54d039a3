"""Patches of an image and their linear embedding.

A TPU stores an image as one plane per channel; to flatten patches as (row, column, channel) would
interleave the planes lane by lane. There the embedding contracts the planes directly, and a product
with a permutation matrix reorders its weight gradient. Elsewhere it is a copy and one matrix
product. The choice is made when a program is lowered.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.platform import by_platform


def patchify(images, patch_size: int):
    """Cuts images into non-overlapping patches.

    images: [B, H, W, C] with H and W divisible by patch_size P. Returns [B, (H/P)·(W/P), P·P·C]; a
    patch is flattened as (row, column, channel), patches are ordered row by row.
    """
    batch, height, width, channels = images.shape
    rows, cols = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, cols, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * cols, -1)


def merge_patches(patches, image_size: tuple[int, int]):
    """Inverts `patchify`: square patches [B, N, P·P·C] → [B, H, W, C]."""
    (batch, num_patches, size), (height, width) = patches.shape, image_size
    side = math.isqrt(height * width // num_patches)
    rows, cols = height // side, width // side
    x = patches.reshape(batch, rows, cols, side, side, size // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)


def embed_patches(images, kernel, patch_size: int, dtype):
    """Returns `patchify(images, P) @ kernel`, with operands and result rounded to `dtype`.

    images: [B, H, W, C], kernel: [P·P·C, D] float32. Returns [B, N, D].
    """
    return by_platform(
        images,
        kernel,
        tpu=lambda images, kernel: by_planes(images, kernel, patch_size, jnp.dtype(dtype)),
        default=lambda images, kernel: by_rows(images, kernel, patch_size, dtype),
    )


def by_rows(images, kernel, patch_size: int, dtype):
    """Embeds by one copy and one product."""
    return jnp.matmul(patchify(images.astype(dtype), patch_size), kernel.astype(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_planes(images, kernel, patch_size: int, dtype):
    """Embeds by contracting the channel planes; `ops/dense.py` explains why no weight is cast."""
    planes = _planes(images.astype(dtype).astype(jnp.float32), patch_size)
    taps = kernel.reshape(patch_size, patch_size, images.shape[-1], -1)
    out = jnp.einsum("bcirjs,rscd->bijd", planes, taps, precision=_precision(dtype))
    return out.reshape(images.shape[0], -1, kernel.shape[-1]).astype(dtype)


def _precision(dtype):
    """Returns the precision: operands rounded to bfloat16, or the caller's default for float32."""
    return jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else None


def _planes(images, patch_size: int):
    """Rearranges [B, H, W, C] into planes [B, C, rows, P, columns, P]."""
    batch, height, width, channels = images.shape
    shape = (batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return images.transpose(0, 3, 1, 2).reshape(shape)


def _fwd(images, kernel, patch_size, dtype):
    return by_planes(images, kernel, patch_size, dtype), (images, kernel)


def _bwd(patch_size, dtype, residuals, g):
    images, kernel = residuals
    batch, height, width, channels = images.shape
    g = g.reshape(batch, height // patch_size, width // patch_size, -1).astype(dtype)
    taps = kernel.reshape(patch_size, patch_size, channels, -1)
    grad_planes = jnp.einsum("bijd,rscd->bcirjs", g, taps.astype(dtype))
    grad_images = grad_planes.reshape(batch, channels, height, width).transpose(0, 2, 3, 1)
    # Plane by plane first: [row, (channel, column), D]. The permutation has one term per sum, so it
    # does not round values that `dtype` can represent.
    by_plane = jnp.einsum(
        "bcirjs,bijd->rcsd",
        _planes(images.astype(dtype), patch_size),
        g,
        preferred_element_type=jnp.float32,
    )
    size = channels * patch_size
    order = np.arange(size).reshape(channels, patch_size).T.ravel()
    permutation = np.eye(size, dtype=np.float32)[order]
    exact = jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    grad_kernel = jnp.einsum(
        "nm,rmd->rnd", permutation, by_plane.reshape(patch_size, size, -1), precision=exact
    )
    return grad_images.astype(images.dtype), grad_kernel.reshape(kernel.shape).astype(kernel.dtype)


by_planes.defvjp(_fwd, _bwd)
