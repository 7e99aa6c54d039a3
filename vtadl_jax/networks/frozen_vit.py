"""Vision Transformers as frozen feature extractors: one function of a description.

DINO (Caron et al., 2021), DINOv2 (Oquab et al., 2023; registers: Darcet et al., 2023), DINOv3
(Siméoni et al., 2025), ViT (Dosovitskiy et al., 2021), DeiT (Touvron et al., 2021) and MAE (He et
al., 2022) differ in sizes, in how a position is given and in the MLP. What can be computed before
is part of the weights, which `frozen_vit_load.py` makes: pixel standardization, LayerScale,
positions at the image's grid. Nothing is trained here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.networks.layers import dense, layer_norm
from vtadl_jax.ops.attention import attention
from vtadl_jax.ops.patches import embed_patches

PIXEL_CENTRE = 128.0  # subtracted from pixels: the difference is exact in bfloat16, too
PIXELS = {  # mean and deviation of pixels in [0, 1] that an encoder was trained with
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclasses.dataclass(frozen=True)
class Vit:
    """Sizes and variants of an encoder; `frozen_vit_table.py` lists those with a name.

    patch: side in pixels. mlp_dim: hidden units. num_heads: 0 for 64 channels a head. registers:
    tokens beside class token and patches. swiglu: the MLP's gated form. rope: rotary positions in
    place of a table. resize: how the authors' program resizes the table, a key of
    `resample.RESIZES`. pixels: key of `PIXELS`.
    """

    patch: int
    width: int
    depth: int
    mlp_dim: int
    num_heads: int = 0
    registers: int = 0
    class_token: bool = True
    layer_scale: bool = False
    swiglu: bool = False
    rope: bool = False
    norm_epsilon: float = 1e-6
    resize: str = "antialias"
    pixels: str = "imagenet"

    @property
    def heads(self) -> int:
        return self.num_heads or self.width // 64

    @property
    def prefix(self) -> int:
        """Number of tokens before those of patches."""
        return int(self.class_token) + self.registers

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a file's arrays tell: two descriptions with one structure fit the same files."""
        sizes = (self.patch, self.width, self.depth, self.mlp_dim, self.registers)
        return (*sizes, self.class_token, self.layer_scale, self.swiglu, self.rope)

    def __str__(self) -> str:
        found = [f"patch {self.patch}, width {self.width}, depth {self.depth}, MLP {self.mlp_dim}"]
        if not self.class_token:
            found.append("no class token")
        if self.registers:
            found.append(f"{self.registers} registers")
        names = (("LayerScale", self.layer_scale), ("SwiGLU", self.swiglu), ("RoPE", self.rope))
        return ", ".join([*found, *(name for name, there in names if there)])


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which blocks' outputs become features, and how.

    blocks: numbers from 0, growing. norm: apply the final LayerNorm to each. combine: 'mean' of the
    blocks or 'concat'.
    """

    blocks: tuple[int, ...]
    norm: bool = True
    combine: str = "mean"

    @property
    def depth(self) -> int:
        """Number of blocks that are needed."""
        return self.blocks[-1] + 1

    def width(self, vit: Vit) -> int:
        return vit.width * (len(self.blocks) if self.combine == "concat" else 1)


def middle_blocks(depth: int) -> tuple[int, ...]:
    """Returns blocks from 5/12 to 3/4 of the depth: 5 to 8 of 12, 10 to 17 of 24."""
    return tuple(range(depth * 5 // 12, max(depth * 3 // 4, depth * 5 // 12 + 1)))


def weight_shapes(vit: Vit, grid: tuple[int, int], channels: int, reading: Reading) -> Any:
    """Returns the tree of shapes. Blocks, which are stacked, only up to the last that is read."""
    width, layers, tokens = vit.width, reading.depth, grid[0] * grid[1]
    norm = {"scale": (width,), "bias": (width,)}

    def sizes(inputs: int, outputs: int):
        return {"kernel": (inputs, outputs), "bias": (outputs,)}

    block = {
        "norm_attention": norm,
        "qkv": sizes(width, 3 * width),
        "attention_out": sizes(width, width),
        "norm_mlp": norm,
        "mlp_in": sizes(width, vit.mlp_dim * (2 if vit.swiglu else 1)),
        "mlp_out": sizes(vit.mlp_dim, width),
    }
    shapes: dict[str, Any] = {
        "patch": sizes(vit.patch**2 * channels, width),
        "blocks": jax.tree.map(lambda shape: (layers, *shape), block, is_leaf=_is_shape),
    }
    if vit.prefix:
        shapes["prefix"] = (vit.prefix, width)
    if vit.rope:
        shapes["rope"] = dict.fromkeys(("cos", "sin"), (tokens, width // vit.heads))
    else:
        shapes["position"] = (tokens, width)
    if reading.norm:
        shapes["norm"] = norm
    return shapes


def empty_weights(vit: Vit, grid: tuple[int, int], channels: int, reading: Reading) -> Any:
    """Returns zeros in the shapes of the weights."""
    shapes = weight_shapes(vit, grid, channels, reading)
    return jax.tree.map(lambda shape: jnp.zeros(shape), shapes, is_leaf=_is_shape)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def image_features(weights, images, vit: Vit, reading: Reading, dtype: Any = jnp.float32):
    """Encodes images; returns the chosen blocks' patch tokens on the grid.

    images: uint8 [B, H, W, C], sides multiples of the patch. dtype: of the operands of matrix
    products; float32 products have float32's accuracy on every device. Returns
    [B, H / patch, W / patch, reading.width(vit)] float32.
    """
    precision = "highest" if jnp.dtype(dtype) == jnp.float32 else "default"
    with jax.default_matmul_precision(precision):
        found = _encode(weights, images, vit, reading, dtype)
    rows, columns = (side // vit.patch for side in images.shape[1:3])
    return found[:, vit.prefix :].reshape(images.shape[0], rows, columns, -1)


def _encode(weights, images, vit: Vit, reading: Reading, dtype):
    """Returns the features of all tokens [B, prefix + N, features].

    The blocks are one scanned function, so the program does not grow with depth, and outputs of
    blocks that are not chosen are not kept.
    """
    pixels = images.astype(jnp.float32) - PIXEL_CENTRE
    tokens = embed_patches(pixels, weights["patch"]["kernel"], vit.patch, dtype)
    tokens = tokens.astype(jnp.float32) + weights["patch"]["bias"]
    if not vit.rope:
        tokens = tokens + weights["position"]
    if vit.prefix:
        prefix = jnp.broadcast_to(weights["prefix"], (tokens.shape[0], *weights["prefix"].shape))
        tokens = jnp.concatenate([prefix, tokens], 1)
    rope = _with_prefix(weights["rope"], vit.prefix) if vit.rope else None
    concat, last = reading.combine == "concat", reading.depth
    # Place and weight of each block's output. Outputs of blocks that are not chosen are
    # overwritten by the next chosen block, or have no weight in the mean.
    places = jnp.array([sum(b < i for b in reading.blocks) for i in range(last)])
    shares = jnp.array([(i in reading.blocks) / len(reading.blocks) for i in range(last)])

    def step(carry, layer):
        tokens, kept = carry
        block, place, share = layer
        tokens = _block(tokens, block, vit, rope, dtype)
        out = layer_norm(tokens, weights["norm"], vit.norm_epsilon) if reading.norm else tokens
        kept = kept.at[place].set(out) if concat else kept + share * out
        return (tokens, kept), None

    kept = jnp.zeros((len(reading.blocks), *tokens.shape) if concat else tokens.shape)
    blocks = (weights["blocks"], places, shares.astype(jnp.float32))
    (_, kept), _ = jax.lax.scan(step, (tokens, kept), blocks)
    return jnp.concatenate(list(kept), -1) if concat else kept


def _block(tokens, layer, vit: Vit, rope, dtype):
    """Attention and MLP, each pre-norm with a residual. tokens: [B, N, D] float32 → same."""
    h = layer_norm(tokens, layer["norm_attention"], vit.norm_epsilon)
    qkv = dense(h, layer["qkv"], dtype).reshape(*h.shape[:2], 3, vit.heads, -1)
    q, k, v = (qkv[:, :, i] for i in range(3))
    if rope is not None:
        q, k = _rotate(q, rope), _rotate(k, rope)
    h = attention(*(x.astype(dtype) for x in (q, k, v))).reshape(h.shape)
    tokens = tokens + dense(h, layer["attention_out"], dtype)
    h = dense(layer_norm(tokens, layer["norm_mlp"], vit.norm_epsilon), layer["mlp_in"], dtype)
    if vit.swiglu:
        gate, value = jnp.split(h, 2, -1)
        h = jax.nn.silu(gate) * value
    else:
        h = jax.nn.gelu(h, approximate=False)
    return tokens + dense(h, layer["mlp_out"], dtype)


def _with_prefix(rope, prefix: int):
    """Returns cos and sin [1, prefix + N, 1, d]: tokens without a position are not rotated."""
    cos = jnp.pad(rope["cos"], ((prefix, 0), (0, 0)), constant_values=1)
    sin = jnp.pad(rope["sin"], ((prefix, 0), (0, 0)))
    return cos[None, :, None], sin[None, :, None]


def _rotate(x, rope):
    """Rotates channel i with channel i + d/2 by the token's angle. x: [B, N, heads, d]."""
    cos, sin = rope
    first, second = jnp.split(x, 2, -1)
    return x * cos + jnp.concatenate([-second, first], -1) * sin
