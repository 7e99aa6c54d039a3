"""Parts of a train step by themselves, value and gradient: a choice within one is compared sooner
than with all of the step around it."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import losses, sharding
from vtadl_jax.models.vtadl import build
from vtadl_jax.ops.ssim import ssim

Value = Callable[..., jax.Array]


def trace_part(config: ConfigDict, mesh: Mesh, part: str, images: int) -> tuple[Any, dict]:
    """(traced program, shapes of its variables). What the part gives is summed; gradients are those
    of its parameters and of what it is given: tokens, or reconstructions."""
    value, variables, inputs = PARTS[part](config, images)
    split, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def placed(tree, sharding):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    variables = placed(variables, everywhere)
    step = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
    return step.trace(variables, *placed(inputs, split)), variables


def _tokens(config: ConfigDict, images: int) -> jax.ShapeDtypeStruct:
    height, width = (side // config.model.patch_size for side in config.image_size)
    shape = (images, height * width, config.model.width)
    return jax.ShapeDtypeStruct(shape, jnp.dtype(config.dtype))


def _decoder(config: ConfigDict, images: int) -> tuple[Value, Any, tuple]:
    decoder, tokens = build(config).decoder, _tokens(config, images)
    variables = jax.eval_shape(
        lambda key, tokens: decoder.init(key, tokens, train=False), jax.random.key(0), tokens
    )

    def value(variables, tokens):
        recon, _ = decoder.apply(variables, tokens, train=True, mutable=["batch_stats"])
        return jnp.square(cast(jax.Array, recon)).sum()

    return value, variables, (tokens,)


def _mixture(config: ConfigDict, images: int) -> tuple[Value, Any, tuple]:
    mixture, tokens = build(config).mixture, _tokens(config, images)
    variables = jax.eval_shape(mixture.init, jax.random.key(0), tokens)

    def value(variables, tokens):
        keys = jax.random.split(jax.random.key(0), images)
        return cast(jax.Array, mixture.apply(variables, tokens, keys)).sum()

    return value, variables, (tokens,)


def _ssim(config: ConfigDict, images: int) -> tuple[Value, Any, tuple]:
    pixels = jax.ShapeDtypeStruct(
        (images, *config.image_size, config.data.channels), jnp.dtype(jnp.float32)
    )

    def value(_, recon, images):
        return ssim(images, recon, losses.DATA_RANGE).sum()

    return value, {"params": {}}, (pixels, pixels)


PARTS: dict[str, Callable[[ConfigDict, int], tuple[Value, Any, tuple]]] = {
    "decoder": _decoder,
    "mixture": _mixture,
    "ssim": _ssim,
}
