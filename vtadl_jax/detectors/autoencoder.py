"""A convolutional auto-encoder: the baseline that the papers compare VT-ADL with.

Stride-2 convolutions down to the size of the decoder's first map, a short latent vector, and
VT-ADL's decoder. With `model.loss.ssim_weight` 0 it is the papers' MSE auto-encoder, otherwise the
one with MSE and SSIM. The anomaly map is the reconstruction error.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.networks.decoder import (
    ConvDecoderOptions,
    Decoder,
    check_decoder,
    plan_decoder,
)
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.reconstruction import reconstruction_terms, to_uint8, to_unit_range
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.strided_conv import TAPS, halving_conv
from vtadl_jax.options import LARGEST_SIZE, option

SCORE_TERMS = ("mse", "dissimilarity", "max_error")
SLOPE = 0.1  # negative slope of the leaky ReLU


@dataclasses.dataclass(frozen=True)
class ReconstructionLossOptions:
    """Weights of the loss terms."""

    mse_weight: float = option(1.0, "on the mean squared error")
    ssim_weight: float = option(0.0, "on 1 - SSIM")


@dataclasses.dataclass(frozen=True)
class AutoencoderOptions:
    """Options of the auto-encoder detector."""

    latent_dim: int = option(128, "length of the latent vector", at_least=1, limit=LARGEST_SIZE)
    decoder: ConvDecoderOptions = ConvDecoderOptions()
    loss: ReconstructionLossOptions = ReconstructionLossOptions()


class ConvEncoder(nn.Module):
    """Encoder: images [B, H, W, C] in [-1, 1] → latent vectors [B, latent_dim] float32.

    One convolution per entry of `features`: each halves both sides and has no normalization.
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
        latent = nn.Dense(self.latent_dim, dtype=self.dtype, name="latent")(
            x.reshape(x.shape[0], -1)
        )
        return latent.astype(jnp.float32)


class AutoEncoder(nn.Module):
    """Encoder and decoder: images [B, H, W, C] in [-1, 1] → reconstruction [B, H, W, C]."""

    encoder: ConvEncoder
    decoder: Decoder

    def __call__(self, images, train: bool = False, parallel=SINGLE_DEVICE):
        return self.decoder(self.encoder(images)[:, None], train=train, parallel=parallel)


def build(options: AutoencoderOptions, inputs: Inputs) -> AutoEncoder:
    """Returns the network. Raises UserError for sizes that do not match each other."""
    decoder, dtype = options.decoder, jnp.dtype(inputs.dtype)
    check_decoder(decoder, inputs.parallel)
    if inputs.microbatches > 1:
        raise UserError(
            f"train.accumulate {inputs.microbatches}: the auto-encoder does not support "
            "microbatches: use 1 and a smaller batch_size"
        )
    shape = plan_decoder(inputs.image_size, decoder.vector_dim)
    num_halvings = int(math.log2(math.prod(shape.strides)))
    # The decoder's widths in reverse order; extra layers repeat the widest.
    widths = decoder.features[::-1]
    features = (*widths, *[widths[-1]] * num_halvings)[:num_halvings]
    return AutoEncoder(
        encoder=ConvEncoder(features, options.latent_dim, dtype),
        decoder=Decoder(
            shape=shape,
            features=decoder.features,
            channels=inputs.channels,
            norm_statistics=decoder.norm_statistics,
            dtype=dtype,
        ),
    )


def autoencoder(options: AutoencoderOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    network, weights = build(options, inputs), options.loss

    def init(key):
        images = jnp.zeros((1, *inputs.image_size, inputs.channels))
        return initializer(network.init)(key, images)

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params = parallel.gather_params_except(("vector",), variables["params"])
        images = to_unit_range(batch["image"])
        recon, updates = network.apply(
            {"params": params, "stats": variables["stats"]},
            images,
            True,
            parallel,
            mutable=["stats"],
        )
        mse, dissimilarity = reconstruction_terms(images, recon)
        terms = {"mse": mse.mean(), "dissimilarity": dissimilarity.mean()}
        total = weights.mse_weight * terms["mse"] + weights.ssim_weight * terms["dissimilarity"]
        return total, (terms, updates["stats"])

    def score(variables, images):
        images = to_unit_range(images)
        recon = cast(jax.Array, network.apply(variables, images))
        errors = jnp.square(images - recon).mean(-1)
        maps = upsample_maps(errors, inputs.image_size, inputs.map_sigma)
        terms = [*reconstruction_terms(images, recon), maps.max((1, 2))]
        return Scores(jnp.stack(terms, -1), maps, to_uint8(recon))

    return Detector(init, score, SCORE_TERMS, (1.0, 1.0, 0.0), loss)
