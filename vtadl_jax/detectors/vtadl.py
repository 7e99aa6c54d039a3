"""VT-ADL (Mishra et al., 2021) as a detector: encoder, decoder and mixture density network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs, Part, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.networks.decoder import Decoder, DecoderOptions, check_decoder, plan_decoder
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.mdn import MdnOptions, MixtureDensity, build_mixture, check_mixture
from vtadl_jax.networks.microbatch import call_microbatches, map_microbatches
from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel
from vtadl_jax.networks.token_decoder import TokenDecoder
from vtadl_jax.networks.vit import PatchViT, VitOptions, build_encoder, check_encoder, grid_of
from vtadl_jax.networks.vit_weights import load_encoder
from vtadl_jax.ops.inspected import only_inside
from vtadl_jax.ops.reconstruction import DATA_RANGE, reconstruction_terms, to_uint8, to_unit_range
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.ssim import ssim
from vtadl_jax.options import option

SCORE_TERMS = ("mse", "dissimilarity", "max_nll")


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Weights of the loss terms."""

    nll_weight: float = option(1.0, "on the mean nll of a token")
    mse_weight: float = option(5.0, "on the mean squared error")
    ssim_weight: float = option(0.5, "on 1 - SSIM")


@dataclasses.dataclass(frozen=True)
class VTADLOptions:
    """Options of the vtadl detector; the defaults are the paper's where it gives them."""

    vit: VitOptions = VitOptions()
    decoder: DecoderOptions = DecoderOptions()
    mdn: MdnOptions = MdnOptions()
    loss: LossOptions = LossOptions()
    init_pixels: str = option(
        "unit",
        "what a pretrained encoder was trained on: 'unit' [-1, 1]; 'imagenet' mean and deviation",
        choices=("unit", "imagenet"),
    )


class GivenTokens(nn.Module):
    """Encoder of what is encoded already: tokens [B, N, D] → same. It has no parameters."""

    def __call__(self, tokens, parallel: Parallel = SINGLE_DEVICE):
        del parallel
        return tokens


class VTADL(nn.Module):
    """Network: images [B, H, W, C] in [-1, 1] → (reconstruction [B, H, W, C], token nll [B, N])."""

    encoder: PatchViT | GivenTokens
    decoder: Decoder | TokenDecoder
    mixture: MixtureDensity
    microbatches: int = 1  # as in `map_microbatches`, in training

    def __call__(self, images):
        tokens = self.encoder(images)
        return self.decoder(tokens, train=False), self.mixture(tokens)

    def train(self, images, keys, parallel: Parallel):
        """Runs the network in training mode: with noise and batch statistics.

        keys, parallel: as in `Detector.loss`.
        """
        tokens = parallel.constrain_batch(
            call_microbatches(self.encoder, self.microbatches, images, parallel=parallel)
        )
        recon = self.decoder(tokens, train=True, parallel=parallel)
        # Online EM updates its statistics once, by the whole batch.
        parts = 1 if self.mixture.learning == "em" else self.microbatches
        return recon, call_microbatches(self.mixture, parts, tokens, keys)


def build(options: VTADLOptions, inputs: Inputs) -> VTADL:
    """Returns the network. Raises UserError for sizes that do not match each other."""
    dtype = jnp.dtype(inputs.dtype)
    check(options, inputs)
    return VTADL(
        encoder=build_encoder(options.vit, dtype),
        decoder=build_decoder(options.decoder, options.vit.patch_size, inputs),
        mixture=build_mixture(options.mdn, dtype),
        microbatches=inputs.microbatches,
    )


def build_decoder(
    decoder: DecoderOptions, patch_size: int, inputs: Inputs
) -> Decoder | TokenDecoder:
    """Returns the decoder of tokens of patches; call `check_decoder` on its options before."""
    dtype = jnp.dtype(inputs.dtype)
    if decoder.sees == "tokens":
        return TokenDecoder(inputs.image_size, patch_size, inputs.channels, dtype)
    return Decoder(
        shape=plan_decoder(inputs.image_size, decoder.vector_dim),
        features=decoder.features,
        channels=inputs.channels,
        pool=decoder.sees == "mean",
        microbatches=inputs.microbatches,
        norm_statistics=decoder.norm_statistics,
        dtype=dtype,
    )


def check(options: VTADLOptions, inputs: Inputs) -> None:
    """Raises UserError (field, value, remedy) for sizes that cannot be built."""
    check_encoder(options.vit, inputs.image_size)
    check_decoder(options.decoder, inputs.parallel)
    check_mixture(options.mdn, inputs.parallel)
    if options.mdn.feature_dim > options.vit.width:
        raise UserError(
            f"model.mdn.feature_dim {options.mdn.feature_dim}: use 1 to model.vit.width = "
            f"{options.vit.width}"
        )


def vtadl(options: VTADLOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    network = build(options, inputs)
    grid = grid_of(options.vit, inputs.image_size)

    def init(key):
        images = jnp.zeros((1, *inputs.image_size, inputs.channels))
        return {"stats": {}} | initializer(network.init)(key, images)

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        params = parallel.gather_params_except(("blocks", "vector"), variables["params"])
        images = to_unit_range(batch["image"])
        own = {"params": params, "stats": variables["stats"]}
        return network_loss(network, options.loss, own, images, images, keys, parallel)

    def score(variables, images):
        images = to_unit_range(images)
        return network_scores(network, variables, images, images, grid, inputs)

    def load_pretrained(variables, arrays):
        encoder = load_encoder(
            variables["params"]["encoder"],
            arrays,
            grid,
            options.vit.patch_size,
            options.init_pixels,
        )
        return {**variables, "params": {**variables["params"], "encoder": encoder}}

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 1.0, 1.0),
        loss,
        load_pretrained=load_pretrained,
        parts=parts_of(network, options, inputs),
    )


def network_loss(network: VTADL, weights: LossOptions, variables, seen, images, keys, parallel):
    """Returns the result of `Detector.loss`, with the network's new stats.

    variables: of the network, parameters gathered. seen: what its encoder takes. images:
    [B, H, W, C] in [-1, 1], to reconstruct.
    """
    (recon, nll), updates = network.apply(
        variables, seen, keys, parallel, method="train", mutable=["stats"]
    )
    compare = map_microbatches(reconstruction_terms, network.microbatches)
    mse, dissimilarity = compare(images, recon)
    terms = {"nll": nll.mean(), "mse": mse.mean(), "dissimilarity": dissimilarity.mean()}
    total = (
        weights.nll_weight * terms["nll"]
        + weights.mse_weight * terms["mse"]
        + weights.ssim_weight * terms["dissimilarity"]
    )
    return total, (terms, updates.get("stats", variables["stats"]))


def network_scores(
    network: VTADL, variables, seen, images, grid: tuple[int, int], inputs: Inputs
) -> Scores:
    """Returns the scores of images [B, H, W, C] in [-1, 1]. seen, variables: as in `network_loss`.
    grid: (rows, columns) of the tokens."""
    recon, nll = cast(tuple, network.apply(variables, seen))
    nll_map = only_inside(nll.reshape(-1, *grid))
    return Scores(
        terms=jnp.stack([*reconstruction_terms(images, recon), nll_map.max((1, 2))], axis=-1),
        anomaly_map=upsample_maps(nll_map, inputs.image_size, inputs.map_sigma),
        recon=to_uint8(recon),
    )


def parts_of(
    network: VTADL, options: VTADLOptions, inputs: Inputs
) -> dict[str, Callable[[int], Part]]:
    """Returns the parts of a train step that can be compiled alone; see `Detector.parts`."""

    def tokens_of(images: int) -> jax.ShapeDtypeStruct:
        rows, columns = grid_of(options.vit, inputs.image_size)
        shape = (images, rows * columns, options.vit.width)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(inputs.dtype))

    def decoder(images: int) -> Part:
        tokens, module = tokens_of(images), network.decoder

        def value(variables, tokens):
            recon, _ = module.apply(variables, tokens, train=True, mutable=["stats"])
            return jnp.square(cast(jax.Array, recon)).sum()

        init = functools.partial(module.init, train=False)
        return Part(value, jax.eval_shape(init, jax.random.key(0), tokens), (tokens,))

    def mixture(images: int) -> Part:
        tokens, module = tokens_of(images), network.mixture

        def value(variables, tokens):
            keys = jax.random.split(jax.random.key(0), images)
            return cast(jax.Array, module.apply(variables, tokens, keys)).sum()

        return Part(value, jax.eval_shape(module.init, jax.random.key(0), tokens), (tokens,))

    def similarity(images: int) -> Part:
        shape = (images, *inputs.image_size, inputs.channels)
        pixels = jax.ShapeDtypeStruct(shape, jnp.float32)

        def value(_, recon, images):
            return ssim(images, recon, DATA_RANGE).sum()

        return Part(value, {"params": {}}, (pixels, pixels))

    return {"decoder": decoder, "mixture": mixture, "ssim": similarity}
