"""The patch encoder: a pre-norm Vision Transformer without dropout (paper §III, eq. 1-3)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from vtadl_jax.models.detector import ALONE, Layout, drop_gathered
from vtadl_jax.ops.attention import attention
from vtadl_jax.ops.dense import dense_dot_general
from vtadl_jax.ops.patches import embed_patches

LAYER_NORM_EPSILON = 1e-5


class PatchEmbedding(nn.Module):
    """A linear layer on every patch. images: [B, H, W, C]. Returns [B, N, features]."""

    patch_size: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        shape = (self.patch_size**2 * images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        tokens = embed_patches(images, kernel, self.patch_size, self.dtype)
        return tokens + bias.astype(self.dtype)


class EncoderBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm and inside a residual. tokens [B, N, D] → same.

    attention_scale: of the logits; None for one over the root of a head's width.
    """

    num_heads: int
    mlp_dim: int
    qkv_bias: bool = False
    norm_epsilon: float = LAYER_NORM_EPSILON
    attention_scale: float | None = None
    dtype: Any = jnp.float32
    layout: Layout = ALONE

    @nn.compact
    def __call__(self, tokens, _=None):
        width = tokens.shape[-1]
        options: dict[str, Any] = {"dtype": self.dtype, "dot_general": dense_dot_general}
        h = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm_attention")(tokens)
        heads = (3, self.num_heads, width // self.num_heads)
        qkv = nn.DenseGeneral(heads, use_bias=self.qkv_bias, name="qkv", **options)(h)
        q, k, v = (qkv[:, :, i] for i in range(3))
        h = attention(q, k, v, self.attention_scale)
        h = nn.DenseGeneral(width, axis=(-2, -1), name="attention_out", **options)(h)
        tokens = tokens + h
        h = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm_mlp")(tokens)
        h = nn.Dense(self.mlp_dim, name="mlp_in", **options)(h)
        h = nn.Dense(width, name="mlp_out", **options)(nn.gelu(h, approximate=False))
        return self.layout.settled(tokens + h), None


class PatchViT(nn.Module):
    """Images to one encoded token per patch.

    images: [B, H, W, C] in [-1, 1]. Returns [B, N, width], N = (H/P)·(W/P). The layers are one
    scanned block, so the program does not grow with depth; parameters carry a leading depth axis.
    The class token, the extra row of the paper's position table, takes part in attention and is
    dropped at the end. Pretrained encoders (`weights/pretrained.py`) have biases on query, key and
    value, a LayerNorm at the end and an epsilon of 1e-6.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    class_token: bool = True
    qkv_bias: bool = False
    final_norm: bool = False
    norm_epsilon: float = LAYER_NORM_EPSILON
    attention_scale: float | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, layout: Layout = ALONE):
        """layout: the blocks' weights are gathered here, block by block; others come whole."""
        tokens = PatchEmbedding(
            self.patch_size, self.width, dtype=self.dtype, name="patch_embedding"
        )(images)
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(self.dtype), (len(tokens), 1, self.width))
            tokens = jnp.concatenate([token, tokens], axis=1)
        position = self.param(
            "position_embedding", nn.initializers.normal(0.02), (1, tokens.shape[1], self.width)
        )
        tokens = layout.settled(tokens + position.astype(self.dtype))
        block: Any = EncoderBlock
        if layout.gather is not None:
            block = nn.map_variables(block, "params", layout.whole)
        if self.remat:
            block = nn.remat(block, prevent_cse=False)
        elif layout.gather is not None:
            # Of a block, and of what it would recompute itself, all is kept but the weights.
            block = nn.remat(block, prevent_cse=False, policy=drop_gathered)
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        tokens, _ = blocks(
            self.num_heads,
            self.mlp_dim,
            self.qkv_bias,
            self.norm_epsilon,
            self.attention_scale,
            self.dtype,
            layout,
            name="blocks",
        )(tokens, None)
        if self.final_norm:
            tokens = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(tokens)
        return tokens[:, 1:] if self.class_token else tokens


def build_encoder(model: ConfigDict, dtype: Any, attention_scale: float | None = None) -> PatchViT:
    """The encoder of a config's section `model`; dtype: of its products."""
    return PatchViT(
        patch_size=model.patch_size,
        width=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_dim=model.mlp_dim,
        class_token=model.class_token,
        qkv_bias=model.qkv_bias,
        final_norm=model.final_norm,
        norm_epsilon=model.norm_epsilon,
        attention_scale=attention_scale,
        remat=model.remat,
        dtype=dtype,
    )
