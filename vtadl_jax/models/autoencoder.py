"""A convolutional auto-encoder: the baseline beside which the papers put VT-ADL.

Halving convolutions down to the decoder's first map, a short latent vector, and VT-ADL's own
decoder. With `loss.ssim_weight` 0 it is the papers' auto-encoder with MSE, otherwise with both.
Where it reconstructs badly is the anomaly map.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vtadl_jax import losses
from vtadl_jax.errors import UserError
from vtadl_jax.models.decoder import Decoder, check_widths, plan_decoder
from vtadl_jax.models.detector import ALONE, Detector, Scores
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.strided_conv import TAPS, halving_conv

SCORE_TERMS = ("mse", "dissimilarity", "max_error")
SLOPE = 0.1  # of the leaky ReLU


class ConvEncoder(nn.Module):
    """images [B, H, W, C] in [-1, 1] → latent vectors [B, latent_dim] float32.

    A layer halves both sides, has one width of `features` and no norm.
    """

    features: Sequence[int]
    latent_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        x = images.astype(self.dtype)
        init = nn.initializers.he_normal()
        for i, width in enumerate(self.features):
            kernel = self.param(f"down{i}", init, (TAPS, TAPS, x.shape[-1], width))
            bias = self.param(f"bias{i}", nn.initializers.zeros, (width,))
            x = halving_conv(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)
            x = nn.leaky_relu(x, SLOPE)
        latent = nn.Dense(self.latent_dim, dtype=self.dtype, name="latent")(x.reshape(len(x), -1))
        return latent.astype(jnp.float32)


class AutoEncoder(nn.Module):
    """images [B, H, W, C] in [-1, 1] → reconstruction [B, H, W, C]."""

    encoder: ConvEncoder
    decoder: Decoder

    def __call__(self, images, train: bool = False, layout=ALONE):
        return self.decoder(self.encoder(images)[:, None], train=train, layout=layout)


def build(config: ConfigDict) -> AutoEncoder:
    """The network of a config. Raises UserError where its numbers do not fit together."""
    model, dtype = config.model, jnp.dtype(config.dtype)
    check_widths(model.decoder.features)
    if model.autoencoder.latent_dim < 1:
        raise UserError(f"model.autoencoder.latent_dim {model.autoencoder.latent_dim}: use 1 up")
    if config.train.accumulate > 1:
        raise UserError(
            f"train.accumulate {config.train.accumulate}: the auto-encoder works on a batch at "
            "once: use 1 and a smaller batch_size"
        )
    shape = plan_decoder(tuple(config.image_size), model.decoder.vector_dim)
    num_halvings = int(math.log2(math.prod(shape.strides)))
    # The decoder's widths backwards; more layers than it has repeat the widest.
    widths = tuple(model.decoder.features)[::-1]
    features = (*widths, *[widths[-1]] * num_halvings)[:num_halvings]
    return AutoEncoder(
        encoder=ConvEncoder(features, model.autoencoder.latent_dim, dtype),
        decoder=Decoder(
            shape=shape,
            features=tuple(model.decoder.features),
            channels=config.data.channels,
            norm_statistics=model.decoder.norm_statistics,
            dtype=dtype,
        ),
    )


def autoencoder(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    network, weights = build(config), config.loss

    def init(key):
        images = jnp.zeros((1, *config.image_size, config.data.channels))
        return jax.jit(network.init)(key, images)

    def loss(params, batch_stats, images, keys, layout=ALONE):
        del keys
        variables = {"params": layout.whole_but(("vector",), params), "batch_stats": batch_stats}
        images = losses.to_unit_range(images)
        recon, updates = network.apply(variables, images, True, layout, mutable=["batch_stats"])
        mse, dissimilarity = losses.reconstruction_terms(images, recon)
        terms = {"mse": mse.mean(), "dissimilarity": dissimilarity.mean()}
        total = weights.mse_weight * terms["mse"] + weights.ssim_weight * terms["dissimilarity"]
        return total, (terms, updates["batch_stats"])

    def score(variables, images):
        images = losses.to_unit_range(images)
        recon = cast(jax.Array, network.apply(variables, images))
        errors = jnp.square(images - recon).mean(-1)
        maps = upsample_maps(errors, tuple(config.image_size), config.eval.map_sigma)
        terms = [*losses.reconstruction_terms(images, recon), maps.max((1, 2))]
        return Scores(jnp.stack(terms, -1), maps, losses.to_uint8(recon))

    return Detector(init, loss, score, SCORE_TERMS)
