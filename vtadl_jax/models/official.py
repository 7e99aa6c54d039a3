"""VT-ADL as its authors published it in PyTorch (2021): the network and loss that their checkpoints
were trained with, quirks included.

It differs from the paper in most places; each comment that begins with QUIRK says what the paper
has instead. Only the published sizes of the decoder exist: 512 × 512 RGB images, [0, 1] inside.
"""

import functools
import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vtadl_jax import losses
from vtadl_jax.errors import UserError
from vtadl_jax.models.decoder import (
    NORM_MOMENTUM,
    NormParams,
    UpParams,
    batch_moments,
    normalize,
)
from vtadl_jax.models.detector import ALONE, Detector, Layout, Scores
from vtadl_jax.models.parts import call_parts, map_parts
from vtadl_jax.models.vit import PatchViT, build_encoder
from vtadl_jax.models.vtadl import SCORE_TERMS, check_encoder
from vtadl_jax.ops.dense import weight_product
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.ssim import ssim
from vtadl_jax.ops.transposed_conv import transposed_conv

IMAGE_SIZE = (512, 512)
# QUIRK: six transposed convolutions of odd sizes and widths; the paper has five.
# (in, out, kernel, stride, padding); sides 8 → 15 → 49 → 245 → 497 → 502 → 512.
DECODER = (
    (8, 16, 3, 2, 1),
    (16, 32, 9, 3, 1),
    (32, 32, 7, 5, 1),
    (32, 16, 9, 2, 0),
    (16, 8, 6, 1, 0),
    (8, 3, 11, 1, 0),
)
BASE = (8, 8, 8)  # (channels, height, width) that the capsule's vector is viewed as
VECTOR_DIM = math.prod(BASE)
TOKEN_FLOOR = 2.2e-16
# What the published network cannot have otherwise; configs/official.py says the same.
FIXED = {
    "image_size": IMAGE_SIZE,
    "data.channels": 3,
    "model.class_token": True,
    "model.qkv_bias": False,
    "model.final_norm": False,
    "model.norm_epsilon": 1e-5,
    "model.decoder.sees": "vector",
    "model.decoder.vector_dim": VECTOR_DIM,
    "model.decoder.features": tuple(layer[1] for layer in DECODER[:-1]),
    "model.mdn.covariance": "diag",
    "model.mdn.conditional": True,
    "model.mdn.fixed_features": False,
    "model.mdn.noisy_features": True,
    "model.mdn.scale_floor": 0.0,
    "model.mdn.stop_gradient": False,
}


class Capsule(nn.Module):
    """Tokens → the vector that the image is decoded from. tokens: [B, N, D]. Returns [B, 512].

    QUIRK: the paper projects the tokens by a matrix. Here they are vectors of 8, each mapped to 512
    by its own matrix and routed to one output capsule, whose routing weight, a softmax over one
    entry, is 1: a projection of all tokens, then squashed to a length below 1.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, layout: Layout = ALONE):
        flat = tokens.reshape(len(tokens), -1)
        init = nn.initializers.normal(0.01)
        kernel = self.param("kernel", init, (flat.shape[-1], VECTOR_DIM))
        return squash(
            layout.where_the_weight_lies(
                lambda x: weight_product(x, kernel, jnp.dtype(self.dtype)), flat
            )
        )


def squash(s):
    """|s|² / (1 + |s|²) · s / |s| along the last axis, differentiable at zero too."""
    square = jnp.square(s).sum(-1, keepdims=True)
    positive = square > 0
    length = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return length / (1 + square) * s


class OfficialDecoder(nn.Module):
    """vector [B, 512] → image [B, 512, 512, 3] float32 in (-1, 1). parts: as in `map_parts`."""

    parts: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, vector, train: bool, axis=None):
        x = vector.reshape(-1, *BASE).transpose(0, 2, 3, 1)  # channel first, as PyTorch views it
        before = None  # the BatchNorm on the way to a layer
        for i, (inputs, features, size, stride, padding) in enumerate(DECODER):
            up = UpParams(inputs, features, size, stride, use_bias=True, name=f"up{i}")()
            up = jax.tree.map(lambda value: value.astype(self.dtype), up)

            def layer(x, up=up, before=before, stride=stride, padding=padding):
                if before is not None:
                    x = normalize(x, before[0], **before[1])
                return (
                    transposed_conv(x.astype(self.dtype), up["kernel"], stride, padding)
                    + up["bias"]
                )

            x = map_parts(layer, self.parts if train else 1)(x)
            if i < len(DECODER) - 1:
                norm, running = NormParams(features, name=f"norm{i}")()
                if train:
                    moments = batch_moments(x, features, axis)
                    self._keep(running, moments, x.size // features)
                else:
                    moments = tuple(v.value for v in running)
                before = moments, norm
        return jnp.tanh(x.astype(jnp.float32))

    def _keep(self, running, moments, count: int):
        """PyTorch normalises by the variance of n values, and keeps that of n - 1."""
        mean, var = moments
        for old, new in zip(running, (mean, var * count / (count - 1)), strict=True):
            old.value = NORM_MOMENTUM * old.value + (1 - NORM_MOMENTUM) * new


class DiagonalMixture(nn.Module):
    """tokens [B, N, D] → patch losses [B, N] float32."""

    num_components: int
    width: int
    dtype: Any = jnp.float32

    def setup(self):
        def kernel(name, *outputs):
            init = nn.initializers.normal(self.width**-0.5)
            return self.param(name, init, (self.width, *outputs))

        self.pi = kernel("pi", self.num_components)
        self.mu = kernel("mu", self.width, self.num_components)
        self.sigma_sq = kernel("sigma_sq", self.width, self.num_components)

    def parameters_of(self, tokens):
        """tokens [T, D] → weights [K, T], means and log-variances [D, K, T]; float32."""
        tokens = jnp.maximum(tokens, TOKEN_FLOOR)  # QUIRK: the negative half of a token is not seen

        def head(kernel):
            return weight_product(tokens, kernel, jnp.dtype(self.dtype), True)

        # QUIRK: a softplus makes the log-variance, so no variance is below 1; the paper has full
        # covariances whose scales are softplus.
        return jax.nn.softmax(head(self.pi), 0), head(self.mu), jax.nn.softplus(head(self.sigma_sq))

    def __call__(self, tokens):
        y = tokens.reshape(-1, tokens.shape[-1]).astype(jnp.float32)
        weights, mu, log_var = self.parameters_of(y)
        square = jnp.square(y.T[:, None] - mu) * jnp.exp(-log_var)
        # QUIRK: log 2π once, not for each of the D numbers; a constant.
        nll = 0.5 * (math.log(2 * math.pi) + (log_var + square).sum(0))
        # QUIRK: the weights are outside of the logarithm: no density, but a bound on one. The paper
        # has -log Σ w N.
        return (weights * nll).sum(0).reshape(tokens.shape[:2])


class OfficialVTADL(nn.Module):
    """images [B, 512, 512, 3] in [0, 1] → tokens, reconstruction, patch losses [B, N]."""

    encoder: PatchViT
    capsule: Capsule
    decoder: OfficialDecoder
    mixture: DiagonalMixture
    noise_std: float = 0.2
    parts: int = 1  # as in `map_parts`, in training

    def __call__(self, images):
        tokens = self.encoder(images)
        return tokens, self.decoder(self.capsule(tokens), train=False), self.mixture(tokens)

    def train(self, images, keys, layout: Layout):
        """The same with noise and the batch's statistics; keys, layout: as in `Detector.loss`."""
        tokens = layout.settled(call_parts(self.encoder, self.parts, images, layout=layout))
        if self.noise_std > 0:
            # QUIRK: decoder and density both see the noise, and the density explains the noisy
            # token; the paper adds it before the mixture.
            draw = functools.partial(jax.random.normal, shape=tokens.shape[1:], dtype=tokens.dtype)
            tokens = tokens + self.noise_std * jax.vmap(draw)(keys)
        recon = self.decoder(self.capsule(tokens, layout), train=True, axis=layout.axis)
        return tokens, recon, call_parts(self.mixture, self.parts, tokens)

    def mixture_parameters(self, tokens):
        return self.mixture.parameters_of(tokens)


def build(config: ConfigDict) -> OfficialVTADL:
    """The network of a config. Raises UserError where it is not one that was published."""
    check(config)
    model, dtype = config.model, jnp.dtype(config.dtype)
    return OfficialVTADL(
        # QUIRK: attention is scaled by the width of a token; the standard, and ours, is a head's.
        encoder=build_encoder(model, dtype, attention_scale=model.width**-0.5),
        capsule=Capsule(dtype),
        decoder=OfficialDecoder(config.train.accumulate, dtype),
        mixture=DiagonalMixture(model.mdn.num_components, model.width, dtype),
        noise_std=model.mdn.noise_std,
        parts=config.train.accumulate,
    )


def check(config: ConfigDict) -> None:
    """Raise UserError for fields that this network has no freedom in."""
    for name, value in FIXED.items():
        found = functools.reduce(getattr, name.split("."), config)
        if found != value:
            raise UserError(
                f"{name} {found}: the official network has {value}: start from configs/official.py"
            )
    check_encoder(config)
    model = config.model
    if model.mdn.feature_dim != model.width:
        raise UserError(
            f"model.mdn.feature_dim {model.mdn.feature_dim}: the official density is of whole "
            f"tokens: use model.width = {model.width}"
        )
    if model.mdn.num_components < 1:
        raise UserError(f"model.mdn.num_components {model.mdn.num_components}: use at least 1")


def to_unit_interval(images):
    """uint8 [0, 255] → float32. QUIRK: [0, 1], of which tanh wastes half its range."""
    return images.astype(jnp.float32) / 255


def objective(
    network: OfficialVTADL,
    weights: ConfigDict,
    params,
    batch_stats,
    images,
    keys,
    layout: Layout = ALONE,
):
    """The published loss, 5·MSE - 0.5·SSIM + Σ patch losses. images: [B, 512, 512, 3] in [0, 1].

    Returns (loss, (terms, new batch_stats)). QUIRK: patch losses are summed over an image, which
    makes the term 10⁴ times the others; the paper does not say.
    """
    params = layout.whole_but(("blocks", "capsule"), params)
    (_, recon, nll), updates = network.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        keys,
        layout,
        method="train",
        mutable=["batch_stats"],
    )
    compare = map_parts(functools.partial(ssim, data_range=1.0), network.parts)
    terms = {
        "nll": nll.sum(-1).mean(),
        "mse": losses.squared_error(images, recon).mean(),
        "ssim": compare(images, recon).mean(),
    }
    total = (
        weights.nll_weight * terms["nll"]
        + weights.mse_weight * terms["mse"]
        - weights.ssim_weight * terms["ssim"]
    )
    return total, (terms, updates["batch_stats"])


def official(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    network = build(config)
    grid = tuple(side // config.model.patch_size for side in IMAGE_SIZE)

    def init(key):
        images = jnp.zeros((1, *IMAGE_SIZE, 3))
        return jax.jit(network.init)(key, images)

    def loss(params, batch_stats, images, keys, layout=ALONE):
        images = to_unit_interval(images)
        return objective(network, config.loss, params, batch_stats, images, keys, layout)

    def score(variables, images):
        images = to_unit_interval(images)
        _, recon, nll = cast(tuple, network.apply(variables, images))
        dissimilarity = 1.0 - ssim(images, recon, 1.0)
        terms = (losses.squared_error(images, recon), dissimilarity, nll.max(-1))
        nll_map = nll.reshape(-1, *grid)
        return Scores(
            terms=jnp.stack(terms, axis=-1),
            anomaly_map=upsample_maps(nll_map, IMAGE_SIZE, config.eval.map_sigma),
            recon=losses.to_uint8(2 * recon - 1),
        )

    return Detector(init, loss, score, SCORE_TERMS)
