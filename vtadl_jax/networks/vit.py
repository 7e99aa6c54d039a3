"""The patch encoder: a pre-norm Vision Transformer without dropout (paper §III, eq. 1-3)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel, drop_gathered
from vtadl_jax.ops.attention import attention
from vtadl_jax.ops.dense import dense_dot_general
from vtadl_jax.ops.patches import embed_patches
from vtadl_jax.options import LARGEST_SIZE, option

LAYER_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class VitSizes:
    """Options: sizes of an encoder."""

    patch_size: int = option(64, "side of a patch", unit="px", at_least=1, limit=LARGEST_SIZE)
    width: int = option(512, "of a token", at_least=1, limit=LARGEST_SIZE)
    depth: int = option(6, "blocks", at_least=1, limit=LARGEST_SIZE)
    num_heads: int = option(8, "of attention", at_least=1, limit=LARGEST_SIZE)
    mlp_dim: int = option(1024, "hidden units of a block's MLP", at_least=1, limit=LARGEST_SIZE)
    remat: bool = option(False, "recompute a block's activations in the backward pass")


@dataclasses.dataclass(frozen=True)
class VitOptions(VitSizes):
    """Options: sizes and variants of an encoder."""

    class_token: bool = option(True, "the extra row of the paper's position table")
    qkv_bias: bool = option(False, "on queries, keys and values; pretrained encoders: True")
    final_norm: bool = option(False, "a LayerNorm on the encoded tokens; pretrained encoders: True")
    norm_epsilon: float = option(
        LAYER_NORM_EPSILON, "of the LayerNorms; pretrained encoders: 1e-6", at_least=0
    )


class PatchEmbedding(nn.Module):
    """A linear layer applied to every patch. images: [B, H, W, C]. Returns [B, N, features]."""

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
    """Attention and MLP, each pre-norm and with a residual connection. tokens: [B, N, D] → same.

    attention_scale: factor of the logits; None for 1 / √(head width).
    """

    num_heads: int
    mlp_dim: int
    qkv_bias: bool = False
    norm_epsilon: float = LAYER_NORM_EPSILON
    attention_scale: float | None = None
    dtype: Any = jnp.float32
    parallel: Parallel = SINGLE_DEVICE

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
        return self.parallel.constrain_batch(tokens + h), None


class PatchViT(nn.Module):
    """Encoder: images → one encoded token per patch.

    images: [B, H, W, C] in [-1, 1]. Returns [B, N, width], N = (H/P)·(W/P). The layers are one
    scanned block, so the program does not grow with depth; parameters have a leading depth axis.
    The class token, the extra row of the paper's position table, takes part in attention and is
    dropped at the end. Pretrained encoders (`vit_weights.py`) have biases on query, key and value,
    a final LayerNorm and an epsilon of 1e-6.
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
    def __call__(self, images, parallel: Parallel = SINGLE_DEVICE):
        """Encodes images. parallel: gathers the weights of each block; others are passed whole."""
        tokens = PatchEmbedding(
            self.patch_size, self.width, dtype=self.dtype, name="patch_embedding"
        )(images)
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(self.dtype), (tokens.shape[0], 1, self.width))
            tokens = jnp.concatenate([token, tokens], axis=1)
        position = self.param(
            "position_embedding", nn.initializers.normal(0.02), (1, tokens.shape[1], self.width)
        )
        tokens = parallel.constrain_batch(tokens + position.astype(self.dtype))
        block: Any = EncoderBlock
        if parallel.gather is not None:
            block = nn.map_variables(block, "params", parallel.gather_params)
        if self.remat:
            block = nn.remat(block, prevent_cse=False)
        elif parallel.gather is not None:
            # Keeps all activations of a block (its own remat included) but not gathered weights.
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
            parallel,
            name="blocks",
        )(tokens, None)
        if self.final_norm:
            tokens = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(tokens)
        return tokens[:, 1:] if self.class_token else tokens


def build_encoder(
    options: VitOptions, dtype: Any, attention_scale: float | None = None
) -> PatchViT:
    """Returns the encoder of the options; dtype: of its matrix products."""
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return PatchViT(**fields, attention_scale=attention_scale, dtype=dtype)


def check_encoder(options: VitSizes, image_size: tuple[int, int]) -> None:
    """Raises UserError (field, value, remedy) for an encoder that cannot be built."""
    for side in image_size:
        if side % options.patch_size:
            raise UserError(
                f"image_size {image_size}: {side} is not divisible by "
                f"model.vit.patch_size {options.patch_size}: use "
                f"{max(side // options.patch_size, 1) * options.patch_size} or another patch size"
            )
    if options.width % options.num_heads:
        raise UserError(
            f"model.vit.width {options.width} is not divisible by model.vit.num_heads "
            f"{options.num_heads}"
        )


def grid_of(options: VitSizes, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of the grid of patches."""
    return image_size[0] // options.patch_size, image_size[1] // options.patch_size
