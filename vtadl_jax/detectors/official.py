"""VT-ADL as its authors published it in PyTorch (2021): the network and loss that their checkpoints
were trained with, quirks included.

It differs from the paper in most places; each comment that begins with QUIRK says what the paper
has instead. The decoder has the published sizes only: 512 × 512 RGB images, in [0, 1] internally.
"""

import dataclasses
import functools
import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs, Scores
from vtadl_jax.detectors.vtadl import SCORE_TERMS, LossOptions
from vtadl_jax.errors import UserError
from vtadl_jax.networks.decoder import (
    NORM_MOMENTUM,
    NormParams,
    UpParams,
    batch_moments,
    normalize,
)
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.microbatch import call_microbatches, map_microbatches
from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel
from vtadl_jax.networks.vit import (
    PatchViT,
    VitOptions,
    VitSizes,
    build_encoder,
    check_encoder,
    grid_of,
)
from vtadl_jax.ops.dense import weight_product
from vtadl_jax.ops.inspected import only_inside, restored_outside
from vtadl_jax.ops.reconstruction import squared_error, to_uint8
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.ssim import ssim
from vtadl_jax.ops.transposed_conv import transposed_conv
from vtadl_jax.options import LARGEST_SIZE, option

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
BASE = (8, 8, 8)  # (channels, height, width) that the capsule's vector is reshaped to
VECTOR_DIM = math.prod(BASE)
TOKEN_FLOOR = 2.2e-16


@dataclasses.dataclass(frozen=True)
class OfficialVitOptions(VitSizes):
    """Sizes of the encoder; the defaults are the published ones."""


@dataclasses.dataclass(frozen=True)
class OfficialMixtureOptions:
    """Options of the published mixture: diagonal covariances, over whole tokens."""

    num_components: int = option(10, "Gaussians", at_least=1, limit=LARGEST_SIZE)
    noise_std: float = option(0.2, "of the noise on the tokens, in training only", at_least=0)


@dataclasses.dataclass(frozen=True)
class OfficialOptions:
    """Options of the official detector: the sizes that the published network leaves open."""

    vit: OfficialVitOptions = OfficialVitOptions()
    mdn: OfficialMixtureOptions = OfficialMixtureOptions()
    loss: LossOptions = LossOptions()


class Capsule(nn.Module):
    """Capsule layer: tokens → reconstruction vector. tokens: [B, N, D]. Returns [B, 512].

    QUIRK: the paper projects the tokens by a matrix. Here they are split into vectors of 8, each
    mapped to 512 by its own matrix and routed to one output capsule, whose routing weight, a
    softmax over one entry, is 1: a projection of all tokens, then squashed to a length below 1.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, parallel: Parallel = SINGLE_DEVICE):
        flat = tokens.reshape(tokens.shape[0], -1)
        init = nn.initializers.normal(0.01)
        kernel = self.param("kernel", init, (flat.shape[-1], VECTOR_DIM))
        return squash(
            parallel.apply_sharded(lambda x: weight_product(x, kernel, jnp.dtype(self.dtype)), flat)
        )


def squash(s):
    """Returns |s|² / (1 + |s|²) · s / |s| along the last axis; differentiable at zero, too."""
    square = jnp.square(s).sum(-1, keepdims=True)
    positive = square > 0
    length = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return length / (1 + square) * s


class OfficialDecoder(nn.Module):
    """Decoder: vector [B, 512] → image [B, 512, 512, 3] float32 in (-1, 1).

    microbatches: as in `map_microbatches`, in training.
    """

    microbatches: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, vector, train: bool, axis=None):
        x = vector.reshape(-1, *BASE).transpose(0, 2, 3, 1)  # channel first, as in PyTorch
        before = None  # the BatchNorm before a layer
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

            x = map_microbatches(layer, self.microbatches if train else 1)(x)
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
        """Updates the running statistics. PyTorch normalizes by the biased variance (1 / n), but
        stores the unbiased one (1 / (n - 1))."""
        mean, var = moments
        for old, new in zip(running, (mean, var * count / (count - 1)), strict=True):
            old.value = NORM_MOMENTUM * old.value + (1 - NORM_MOMENTUM) * new


class DiagonalMixture(nn.Module):
    """Diagonal mixture density network: tokens [B, N, D] → patch losses [B, N] float32."""

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
        """Returns weights [K, T], means and log-variances [D, K, T], float32. tokens: [T, D]."""
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
    """Network: images [B, 512, 512, 3] in [0, 1] → tokens, reconstruction, patch losses [B, N]."""

    encoder: PatchViT
    capsule: Capsule
    decoder: OfficialDecoder
    mixture: DiagonalMixture
    noise_std: float = 0.2
    microbatches: int = 1  # as in `map_microbatches`, in training

    def __call__(self, images):
        tokens = self.encoder(images)
        return tokens, self.decoder(self.capsule(tokens), train=False), self.mixture(tokens)

    def train(self, images, keys, parallel: Parallel):
        """Runs the network in training mode: with noise and batch statistics.

        keys, parallel: as in `Detector.loss`.
        """
        tokens = parallel.constrain_batch(
            call_microbatches(self.encoder, self.microbatches, images, parallel=parallel)
        )
        if self.noise_std > 0:
            # QUIRK: decoder and density both see the noise, and the density explains the noisy
            # token; the paper adds it before the mixture.
            draw = functools.partial(jax.random.normal, shape=tokens.shape[1:], dtype=tokens.dtype)
            tokens = tokens + self.noise_std * jax.vmap(draw)(keys)
        recon = self.decoder(self.capsule(tokens, parallel), train=True, axis=parallel.axis)
        return tokens, recon, call_microbatches(self.mixture, self.microbatches, tokens)

    def mixture_parameters(self, tokens):
        return self.mixture.parameters_of(tokens)


def build(options: OfficialOptions, inputs: Inputs) -> OfficialVTADL:
    """Returns the network. Raises UserError for sizes other than the published ones."""
    check(options, inputs)
    width, dtype = options.vit.width, jnp.dtype(inputs.dtype)
    sizes = {f.name: getattr(options.vit, f.name) for f in dataclasses.fields(options.vit)}
    return OfficialVTADL(
        # QUIRK: attention is scaled by the width of a token; the standard, and ours, is a head's.
        encoder=build_encoder(VitOptions(**sizes), dtype, attention_scale=width**-0.5),
        capsule=Capsule(dtype),
        decoder=OfficialDecoder(inputs.microbatches, dtype),
        mixture=DiagonalMixture(options.mdn.num_components, width, dtype),
        noise_std=options.mdn.noise_std,
        microbatches=inputs.microbatches,
    )


def check(options: OfficialOptions, inputs: Inputs) -> None:
    """Raises UserError for inputs that differ from those that the published network fixes."""
    fixed = (
        ("image_size", inputs.image_size, IMAGE_SIZE),
        ("data.channels", inputs.channels, 3),
    )
    for name, found, value in fixed:
        if found != value:
            raise UserError(
                f"{name} {found}: the official network has {value}: start from configs/official.py"
            )
    check_encoder(options.vit, inputs.image_size)


def to_unit_interval(images):
    """Converts uint8 [0, 255] to float32. QUIRK: to [0, 1], so tanh wastes half of its range."""
    return images.astype(jnp.float32) / 255


def objective(
    network: OfficialVTADL,
    weights: LossOptions,
    variables,
    images,
    keys,
    parallel: Parallel = SINGLE_DEVICE,
):
    """Returns the published loss, 5·MSE - 0.5·SSIM + Σ patch losses, as (loss, (terms, stats)).

    images: [B, 512, 512, 3] in [0, 1]. QUIRK: patch losses are summed over an image, which makes
    the term 10⁴ times the others; the paper does not say.
    """
    params = parallel.gather_params_except(("blocks", "capsule"), variables["params"])
    (_, recon, nll), updates = network.apply(
        {"params": params, "stats": variables["stats"]},
        images,
        keys,
        parallel,
        method="train",
        mutable=["stats"],
    )
    compare = map_microbatches(functools.partial(ssim, data_range=1.0), network.microbatches)
    terms = {
        "nll": nll.sum(-1).mean(),
        "mse": squared_error(images, recon).mean(),
        "ssim": compare(images, recon).mean(),
    }
    total = (
        weights.nll_weight * terms["nll"]
        + weights.mse_weight * terms["mse"]
        - weights.ssim_weight * terms["ssim"]
    )
    return total, (terms, updates["stats"])


def official(options: OfficialOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    network = build(options, inputs)
    grid = grid_of(options.vit, IMAGE_SIZE)

    def init(key):
        images = jnp.zeros((1, *IMAGE_SIZE, 3))
        return initializer(network.init)(key, images)

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        images = to_unit_interval(batch["image"])
        return objective(network, options.loss, variables, images, keys, parallel)

    def score(variables, images):
        images = to_unit_interval(images)
        _, recon, nll = cast(tuple, network.apply(variables, images))
        restored, times = restored_outside(images, recon)
        dissimilarity = (1.0 - ssim(images, restored, 1.0)) * times
        nll_map = only_inside(nll.reshape(-1, *grid))
        terms = (squared_error(images, recon), dissimilarity, nll_map.max((1, 2)))
        return Scores(
            terms=jnp.stack(terms, axis=-1),
            anomaly_map=upsample_maps(nll_map, IMAGE_SIZE, inputs.map_sigma),
            recon=to_uint8(2 * recon - 1),
        )

    return Detector(init, score, SCORE_TERMS, (1.0, 1.0, 1.0), loss)
