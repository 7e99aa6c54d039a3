"""A small transformer that reconstructs tokens from a noisy bottleneck, as Dinomaly's decoder.

Guo et al., 2025: dropout in the bottleneck is the only noise, and linear attention spreads what it
lets through. Plain functions: `init` makes the weights, `apply` runs the network.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.ops.linear_attention import linear_attention
from vtadl_jax.options import LARGEST_SIZE, option

MLP_RATIO = 4
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class ReconstructorOptions:
    """Options of the network."""

    width: int = option(128, "of its tokens", at_least=1, limit=LARGEST_SIZE)
    hidden: int = option(512, "units of the bottleneck", at_least=1, limit=LARGEST_SIZE)
    depth: int = option(2, "blocks of the decoder", at_least=1, limit=LARGEST_SIZE)
    num_heads: int = option(4, "of the attention", at_least=1, limit=LARGEST_SIZE)
    dropout: float = option(
        0.2, "share of the bottleneck's values that is dropped in training", at_least=0, below=1
    )


def check(options: ReconstructorOptions, where: str) -> None:
    """Raises UserError if the heads do not divide the width. where: prefix of the fields."""
    if options.width % options.num_heads:
        raise UserError(
            f"{where}num_heads {options.num_heads}: does not divide {where}width "
            f"{options.width}: use a divisor"
        )


def init(key: jax.Array, features: int, options: ReconstructorOptions) -> dict[str, Any]:
    """Returns the weights for tokens of `features` values. Blocks are stacked: [depth, ...]."""
    width, keys = options.width, jax.random.split(key, 4)

    def block(key):
        names = {"qkv": (width, 3 * width), "out": (width, width)}
        names |= {"up": (width, MLP_RATIO * width), "down": (MLP_RATIO * width, width)}
        split = jax.random.split(key, len(names))
        layers = {
            name: _dense(k, *size) for k, (name, size) in zip(split, names.items(), strict=True)
        }
        return {**layers, "norm_attention": _norm(width), "norm_mlp": _norm(width)}

    return {
        "squeeze": _dense(keys[0], features, options.hidden),
        "expand": _dense(keys[1], options.hidden, width),
        "blocks": jax.vmap(block)(jax.random.split(keys[2], options.depth)),
        "norm": _norm(width),
        "head": _dense(keys[3], width, features),
    }


def apply(params, tokens, options: ReconstructorOptions, dtype=jnp.float32, keys=None):
    """Reconstructs tokens [B, N, D] → [B, N, D] float32.

    dtype: of matrix products. keys: [B], one for each image's dropout; None without dropout.
    """

    def drop(x, number):
        if keys is None or options.dropout == 0:
            return x
        folded = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        keep = 1 - options.dropout
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(folded)
        return jnp.where(kept, x / keep, 0)

    def dense(x, layer):
        product = jnp.matmul(
            x.astype(dtype), layer["kernel"].astype(dtype), preferred_element_type=jnp.float32
        )
        return product + layer["bias"]

    def block(x, layer):
        heads = (*x.shape[:2], 3, options.num_heads, -1)
        q, k, v = jnp.moveaxis(
            dense(_normalise(x, layer["norm_attention"]), layer["qkv"]).reshape(heads), 2, 0
        )
        x = x + dense(linear_attention(q, k, v).reshape(x.shape), layer["out"])
        up = jax.nn.gelu(dense(_normalise(x, layer["norm_mlp"]), layer["up"]))
        return x + dense(up, layer["down"]), None

    hidden = drop(jax.nn.gelu(dense(drop(tokens, 0), params["squeeze"])), 1)
    x = drop(dense(hidden, params["expand"]), 2)
    x, _ = jax.lax.scan(block, x, params["blocks"])
    return dense(_normalise(x, params["norm"]), params["head"])


def _dense(key, rows: int, columns: int):
    kernel = jax.random.truncated_normal(key, -2, 2, (rows, columns)) / jnp.sqrt(rows)
    return {"kernel": kernel, "bias": jnp.zeros(columns)}


def _norm(width: int):
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def _normalise(x, norm):
    """LayerNorm over the last axis, float32."""
    off = x - x.mean(-1, keepdims=True)
    return (
        off * jax.lax.rsqrt(jnp.square(off).mean(-1, keepdims=True) + EPSILON) * norm["scale"]
        + norm["bias"]
    )
