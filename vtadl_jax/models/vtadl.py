"""VT-ADL (Mishra et al., 2021) as a detector: encoder, decoder and mixture put together."""

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vtadl_jax import losses
from vtadl_jax.errors import UserError
from vtadl_jax.models.decoder import Decoder, check_widths, plan_decoder
from vtadl_jax.models.detector import ALONE, Detector, Layout, Scores
from vtadl_jax.models.mdn import MixtureDensity
from vtadl_jax.models.parts import call_parts, map_parts
from vtadl_jax.models.token_decoder import TokenDecoder
from vtadl_jax.models.vit import PatchViT, build_encoder
from vtadl_jax.ops.resize import upsample_maps

SCORE_TERMS = ("mse", "dissimilarity", "max_nll")


class VTADL(nn.Module):
    """images [B, H, W, C] in [-1, 1] → (reconstruction [B, H, W, C], nll per token [B, N])."""

    encoder: PatchViT
    decoder: Decoder | TokenDecoder
    mixture: MixtureDensity
    parts: int = 1  # as in `map_parts`, in training

    def __call__(self, images):
        tokens = self.encoder(images)
        return self.decoder(tokens, train=False), self.mixture(tokens)

    def train(self, images, keys, layout: Layout):
        """The same with noise and the batch's statistics; keys, layout: as in `Detector.loss`."""
        tokens = layout.settled(call_parts(self.encoder, self.parts, images, layout=layout))
        recon = self.decoder(tokens, train=True, layout=layout)
        return recon, call_parts(self.mixture, self.parts, tokens, keys)


def build(config: ConfigDict) -> VTADL:
    """The network of a config. Raises UserError where its numbers do not fit together."""
    model = config.model
    dtype = jnp.dtype(config.dtype)
    check(config)
    return VTADL(
        encoder=build_encoder(model, dtype),
        decoder=build_decoder(config, dtype),
        mixture=MixtureDensity(
            num_components=model.mdn.num_components,
            feature_dim=model.mdn.feature_dim,
            covariance=model.mdn.covariance,
            conditional=model.mdn.conditional,
            scale_floor=model.mdn.scale_floor,
            noise_std=model.mdn.noise_std,
            stop_gradient=model.mdn.stop_gradient,
            fixed_features=model.mdn.fixed_features,
            noisy_features=model.mdn.noisy_features,
            dtype=dtype,
        ),
        parts=config.train.accumulate,
    )


def build_decoder(config: ConfigDict, dtype) -> Decoder | TokenDecoder:
    """The decoder of a config, which `check` has seen."""
    model, image_size = config.model, tuple(config.image_size)
    if model.decoder.sees == "tokens":
        return TokenDecoder(image_size, model.patch_size, config.data.channels, dtype)
    return Decoder(
        shape=plan_decoder(image_size, model.decoder.vector_dim),
        features=tuple(model.decoder.features),
        channels=config.data.channels,
        pool=model.decoder.sees == "mean",
        parts=config.train.accumulate,
        norm_statistics=model.decoder.norm_statistics,
        dtype=dtype,
    )


def check_encoder(config: ConfigDict) -> None:
    """Raise UserError, naming field, value and remedy, for an encoder that can't be built."""
    model = config.model
    for side in config.image_size:
        if side % model.patch_size:
            raise UserError(
                f"image_size {tuple(config.image_size)}: {side} is not divisible by "
                f"model.patch_size {model.patch_size}: use "
                f"{max(side // model.patch_size, 1) * model.patch_size} or another patch size"
            )
    if model.width % model.num_heads:
        raise UserError(
            f"model.width {model.width} is not divisible by model.num_heads {model.num_heads}"
        )


def check(config: ConfigDict) -> None:
    """Raise UserError, naming field, value and remedy, for sizes that can't be built."""
    model, mdn = config.model, config.model.mdn
    check_encoder(config)
    check_widths(model.decoder.features)
    if model.decoder.sees not in ("vector", "mean", "tokens"):
        raise UserError(
            f"model.decoder.sees {model.decoder.sees!r}: use 'vector', 'mean' or 'tokens'"
        )
    if (statistics := model.decoder.norm_statistics) not in ("global", "device"):
        raise UserError(f"model.decoder.norm_statistics {statistics!r}: use 'global' or 'device'")
    if statistics == "device" and config.train.parallel != "pmap":
        raise UserError(
            "model.decoder.norm_statistics 'device' needs one device's program mapped over all: "
            "use --config.train.parallel=pmap, or 'global'"
        )
    if mdn.covariance not in ("full", "diag"):
        raise UserError(f"model.mdn.covariance {mdn.covariance!r}: use 'full' or 'diag'")
    if not 1 <= mdn.feature_dim <= model.width:
        raise UserError(
            f"model.mdn.feature_dim {mdn.feature_dim}: use 1 to model.width = {model.width}"
        )
    if mdn.num_components < 1:
        raise UserError(f"model.mdn.num_components {mdn.num_components}: use at least 1")
    if mdn.scale_floor <= 0:
        raise UserError(f"model.mdn.scale_floor {mdn.scale_floor}: must be positive")


def vtadl(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    network = build(config)
    height, width = config.image_size
    grid = (height // config.model.patch_size, width // config.model.patch_size)
    weights = config.loss

    def init(key):
        images = jnp.zeros((1, height, width, config.data.channels))
        return {"batch_stats": {}} | jax.jit(network.init)(key, images)

    def loss(params, batch_stats, images, keys, layout=ALONE):
        params = layout.whole_but(("blocks", "vector"), params)
        images = losses.to_unit_range(images)
        (recon, nll), updates = network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            keys,
            layout,
            method="train",
            mutable=["batch_stats"],
        )
        compare = map_parts(losses.reconstruction_terms, network.parts)
        mse, dissimilarity = compare(images, recon)
        terms = {"nll": nll.mean(), "mse": mse.mean(), "dissimilarity": dissimilarity.mean()}
        total = (
            weights.nll_weight * terms["nll"]
            + weights.mse_weight * terms["mse"]
            + weights.ssim_weight * terms["dissimilarity"]
        )
        return total, (terms, updates.get("batch_stats", batch_stats))

    def score(variables, images):
        images = losses.to_unit_range(images)
        recon, nll = cast(tuple, network.apply(variables, images))
        terms = jnp.stack([*losses.reconstruction_terms(images, recon), nll.max(-1)], axis=-1)
        nll_map = nll.reshape(-1, *grid)
        return Scores(
            terms=terms,
            anomaly_map=upsample_maps(nll_map, (height, width), config.eval.map_sigma),
            recon=losses.to_uint8(recon),
        )

    return Detector(init, loss, score, SCORE_TERMS)
