"""Decodes each token alone into its patch: the alternative to the reconstruction vector."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel
from vtadl_jax.ops.patches import merge_patches


class TokenDecoder(nn.Module):
    """Decoder: tokens [B, N, D] → image [B, H, W, channels] in (-1, 1), float32.

    image_size: (H, W). One linear layer and tanh, shared by all tokens: a pixel sees the rest of
    the image only through its token's attention. `train` and `parallel`, for the interface of
    `Decoder`, have no effect.
    """

    image_size: tuple[int, int]
    patch_size: int
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, train: bool, parallel: Parallel = SINGLE_DEVICE):
        del train, parallel
        features = self.patch_size**2 * self.channels
        patches = nn.Dense(features, dtype=self.dtype, name="patch")(tokens)
        return jnp.tanh(merge_patches(patches.astype(jnp.float32), self.image_size))
