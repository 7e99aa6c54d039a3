"""Training losses and the image-level terms they share with scoring (paper §IV)."""

import jax
import jax.numpy as jnp

from vtadl_jax.ops.ssim import ssim

DATA_RANGE = 2.0  # images span [-1, 1]


def to_unit_range(images):
    """uint8 [0, 255] → float32 [-1, 1], where the decoder's tanh can reach."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images):
    """float [-1, 1] → uint8 [0, 255], rounded."""
    return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def squared_error(images, recon):
    """Mean squared error of each image, [B, H, W, C] → [B] float32."""
    # Row sums first: XLA's CPU adds three axes at once in one long float32 sum.
    return jnp.square(images - recon).mean((2, 3)).mean(1)


def reconstruction_terms(images, recon):
    """Per-image mean squared error and 1 - SSIM, each [B] float32; images, recon: [B, H, W, C].

    Eq. 9 adds 0.5·SSIM to a loss that is minimised; read literally that would make reconstructions
    dissimilar, so the dissimilarity 1 - SSIM is what is meant and used.
    """
    with jax.named_scope("mse"):
        mse = squared_error(images, recon)
    with jax.named_scope("ssim"):
        return mse, 1.0 - ssim(images, recon, DATA_RANGE)
