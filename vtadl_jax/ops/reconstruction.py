"""Reconstruction errors of images, shared by training losses and scores (paper §IV)."""

import jax
import jax.numpy as jnp

from vtadl_jax.ops.inspected import restored_outside
from vtadl_jax.ops.ssim import ssim

DATA_RANGE = 2.0  # images span [-1, 1]


def to_unit_range(images):
    """Converts uint8 [0, 255] to float32 [-1, 1], the range of the decoder's tanh."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images):
    """Converts float [-1, 1] to uint8 [0, 255], rounded."""
    return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def squared_error(images, recon):
    """Returns the mean squared error of each image where it is inspected, [B, H, W, C] → [B]
    float32."""
    recon, times = restored_outside(images, recon)
    # Row sums first: XLA's CPU back end would add three axes in one long, inexact float32 sum.
    return jnp.square(images - recon).mean((2, 3)).mean(1) * times


def reconstruction_terms(images, recon):
    """Returns mean squared error and 1 - SSIM, each [B] float32; images, recon: [B, H, W, C].

    The paper's eq. 9 adds 0.5·SSIM to a loss that is minimized, which would make reconstructions
    dissimilar; the dissimilarity 1 - SSIM is used instead.
    """
    recon, times = restored_outside(images, recon)
    with jax.named_scope("mse"):
        mse = squared_error(images, recon)
    with jax.named_scope("ssim"):
        return mse, (1.0 - ssim(images, recon, DATA_RANGE)) * times
