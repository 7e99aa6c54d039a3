"""VT-ADL over a pretrained encoder: its decoder and its density on the encoder's tokens.

The encoder of VT-ADL is replaced by a network that was trained on other images, frozen or trained
on. The middle blocks' tokens, whitened, are what the decoder reconstructs the image from and what
the mixture models; loss, terms and map are those of `vtadl.py`.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs
from vtadl_jax.detectors.vtadl import (
    SCORE_TERMS,
    VTADL,
    GivenTokens,
    LossOptions,
    build_decoder,
    network_loss,
    network_scores,
)
from vtadl_jax.errors import UserError
from vtadl_jax.networks.decoder import DecoderOptions, check_decoder
from vtadl_jax.networks.features import (
    FeatureOptions,
    empty_whitening,
    make_features,
    sample_places,
    whiten,
)
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.mdn import MdnOptions, build_mixture, check_mixture
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.reconstruction import to_unit_range
from vtadl_jax.options import LARGEST_SIZE, option


@dataclasses.dataclass(frozen=True)
class VTADLPretrainedOptions(FeatureOptions):
    """Options of the detector; the mixture's defaults are those that experiments favour."""

    token_dim: int = option(64, "whitened features of a token", at_least=1, limit=LARGEST_SIZE)
    fine_tune: bool = option(False, "True: training steps train the encoder, too")
    decoder: DecoderOptions = DecoderOptions()
    mdn: MdnOptions = MdnOptions(
        num_components=40,
        feature_dim=32,
        fixed_features=True,
        conditional=False,
        stop_gradient=True,
        learning="em",
    )
    loss: LossOptions = LossOptions()


def vtadl_pretrained(options: VTADLPretrainedOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions.

    The encoder's weights are in 'frozen', or, to be fine-tuned, in 'params' under 'encoder'. The
    whitening is fitted once, to the encoder as it was.
    """
    features = make_features(
        options, options.token_dim, inputs.image_size, inputs.channels, inputs.dtype
    )
    check(options, inputs, features.dim, trainable=features.load is not None)
    # Without a gradient from the density nothing shrinks tokens to raise it, and their norm tells.
    normalize = options.fine_tune and not options.mdn.stop_gradient
    network = VTADL(
        GivenTokens(),
        build_decoder(options.decoder, inputs.image_size[0] // features.grid[0], inputs),
        build_mixture(options.mdn, jnp.dtype(inputs.dtype), normalize),
        inputs.microbatches,
    )

    def init(key):
        tokens = jnp.zeros((1, features.grid[0] * features.grid[1], features.dim))
        made = initializer(network.init)(key, tokens)
        stats = {"network": made.get("stats", {}), "whitening": empty_whitening(features)}
        return placed({"network": made["params"]}, stats, features.frozen())

    def placed(params, stats, encoder):
        """Returns the variables, with the encoder's weights where they belong."""
        if options.fine_tune:
            return {"params": {**params, "encoder": encoder}, "stats": stats, "frozen": {}}
        return {"params": params, "stats": stats, "frozen": encoder}

    def encoder_of(variables):
        return variables["params"]["encoder"] if options.fine_tune else variables["frozen"]

    def tokens_of(variables, images):
        found = features.responses(encoder_of(variables), images)
        found = whiten(variables["stats"]["whitening"], found)
        return found.reshape(images.shape[0], -1, features.dim)

    def own(variables):
        """Returns the variables of decoder and mixture."""
        return {"params": variables["params"]["network"], "stats": variables["stats"]["network"]}

    def gather(variables, images, key):
        return sample_places(features.responses(encoder_of(variables), images), key)

    def solve(variables, samples, rng: np.random.Generator):
        del rng
        fitted = {k: np.asarray(v, np.float32) for k, v in features.fit(samples).items()}
        return {**variables, "stats": {**variables["stats"], "whitening": fitted}}

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        params = parallel.gather_params_except(("vector",), variables["params"])
        variables = {**variables, "params": params}
        tokens = parallel.constrain_batch(tokens_of(variables, batch["image"]))
        images = to_unit_range(batch["image"])
        total, (terms, stats) = network_loss(
            network, options.loss, own(variables), tokens, images, keys, parallel
        )
        return total, (terms, {**variables["stats"], "network": stats})

    def score(variables, images):
        tokens = tokens_of(variables, images)
        pixels = to_unit_range(images)
        return network_scores(network, own(variables), tokens, pixels, features.grid, inputs)

    def load_pretrained(variables, arrays):
        assert features.load is not None, "it has weights"
        return placed(variables["params"], variables["stats"], features.load(arrays))

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 1.0, 1.0),
        loss,
        Fit(gather, solve),
        load_pretrained=None if features.load is None else load_pretrained,
        pretrained_required=features.load is not None,
        steps_required=True,
    )


def check(options: VTADLPretrainedOptions, inputs: Inputs, token_dim: int, trainable: bool) -> None:
    """Raises UserError (field, value, remedy) for options that do not fit each other.

    token_dim: of the whitened tokens. trainable: whether the encoder has weights.
    """
    check_decoder(options.decoder, inputs.parallel)
    check_mixture(options.mdn, inputs.parallel)
    if options.mdn.feature_dim > token_dim:
        raise UserError(
            f"model.mdn.feature_dim {options.mdn.feature_dim}: use 1 to {token_dim}, the features "
            f"of a token (model.token_dim, at most those of {options.features!r})"
        )
    if options.fine_tune and not trainable:
        raise UserError(
            f"model.fine_tune {options.fine_tune}: model.features {options.features!r} has no "
            f"weights to train: name a pretrained network, as 'dinov2_vits14'"
        )
