"""A small transformer that reconstructs tokens from a noisy bottleneck, as Dinomaly's decoder.

Guo et al., 2025: dropout in the bottleneck is the only noise, and linear attention spreads what it
lets through. Plain functions: `init` makes the weights, `apply` runs the network.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.networks.layers import dense, layer_norm
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

    product = functools.partial(dense, dtype=dtype)

    def block(x, layer):
        heads = (*x.shape[:2], 3, options.num_heads, -1)
        qkv = product(layer_norm(x, layer["norm_attention"], EPSILON), layer["qkv"])
        q, k, v = jnp.moveaxis(qkv.reshape(heads), 2, 0)
        x = x + product(linear_attention(q, k, v).reshape(x.shape), layer["out"])
        up = jax.nn.gelu(product(layer_norm(x, layer["norm_mlp"], EPSILON), layer["up"]))
        return x + product(up, layer["down"]), None

    hidden = drop(jax.nn.gelu(product(drop(tokens, 0), params["squeeze"])), 1)
    x = drop(product(hidden, params["expand"]), 2)
    x, _ = jax.lax.scan(block, x, params["blocks"])
    return product(layer_norm(x, params["norm"], EPSILON), params["head"])


def _dense(key, rows: int, columns: int):
    kernel = jax.random.truncated_normal(key, -2, 2, (rows, columns)) / jnp.sqrt(rows)
    return {"kernel": kernel, "bias": jnp.zeros(columns)}


def _norm(width: int):
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
