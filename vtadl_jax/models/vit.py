"""The patch encoder: a pre-norm Vision Transformer without dropout (paper §III, eq. 1-3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-5


def patchify(images, patch_size: int):
    """Cut images into non-overlapping patches.

    images: [B, H, W, C] with H and W divisible by patch_size P. Returns [B, (H/P)·(W/P), P·P·C];
    a patch is flattened (row, column, channel), patches follow each other row by row.
    """
    batch, height, width, channels = images.shape
    rows, cols = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, cols, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * cols, -1)


class EncoderBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm and inside a residual. tokens [B, N, D] → same."""

    num_heads: int
    mlp_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, _=None):
        width = tokens.shape[-1]
        h = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_attention")(tokens)
        qkv = nn.DenseGeneral(
            (3, self.num_heads, width // self.num_heads),
            use_bias=False,
            dtype=self.dtype,
            name="qkv",
        )(h)
        q, k, v = (qkv[:, :, i] for i in range(3))
        h = jax.nn.dot_product_attention(q, k, v)  # softmax in float32, scale 1/√(head width)
        h = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="attention_out")(h)
        tokens = tokens + h
        h = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_mlp")(tokens)
        h = nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(h)
        h = nn.Dense(width, dtype=self.dtype, name="mlp_out")(nn.gelu(h, approximate=False))
        return tokens + h, None


class PatchViT(nn.Module):
    """Images to one encoded token per patch.

    images: [B, H, W, C] in [-1, 1]. Returns [B, N, width], N = (H/P)·(W/P). The layers are one
    scanned block, so the program does not grow with depth; parameters carry a leading depth axis.
    The class token, the extra row of the paper's position table, takes part in attention and is
    dropped at the end.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    class_token: bool = True
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        patches = patchify(images.astype(self.dtype), self.patch_size)
        tokens = nn.Dense(self.width, dtype=self.dtype, name="patch_embedding")(patches)
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(self.dtype), (len(tokens), 1, self.width))
            tokens = jnp.concatenate([token, tokens], axis=1)
        position = self.param(
            "position_embedding", nn.initializers.normal(0.02), (1, tokens.shape[1], self.width)
        )
        tokens = tokens + position.astype(self.dtype)
        block = nn.remat(EncoderBlock, prevent_cse=False) if self.remat else EncoderBlock
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        tokens, _ = blocks(self.num_heads, self.mlp_dim, self.dtype, name="blocks")(tokens, None)
        return tokens[:, 1:] if self.class_token else tokens
