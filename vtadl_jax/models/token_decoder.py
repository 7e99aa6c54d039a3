"""Decoding each token alone into its own patch: what the reconstruction vector is compared with."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vtadl_jax.models.detector import ALONE, Layout
from vtadl_jax.ops.patches import merge_patches


class TokenDecoder(nn.Module):
    """tokens [B, N, D] → image [B, H, W, channels] in (-1, 1), float32; image_size: (H, W).

    One linear layer and tanh, shared by all tokens: no pixel sees more of the image than attention
    brought to its token. `train` and `layout` as in `Decoder`; neither changes anything.
    """

    image_size: tuple[int, int]
    patch_size: int
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, train: bool, layout: Layout = ALONE):
        del train, layout
        features = self.patch_size**2 * self.channels
        patches = nn.Dense(features, dtype=self.dtype, name="patch")(tokens)
        return jnp.tanh(merge_patches(patches.astype(jnp.float32), self.image_size))
