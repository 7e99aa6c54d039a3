"""What the pyramidal auto-encoder and PIADE have in common as detectors; no network of its own.

Both reconstruct RGB images in [0, 1] from the features of a ResNet that is trained further, and
compare them by MSE, a perceptual distance and, in PIADE, SSIM. This file makes the detector of the
network's tables and of the function that reconstructs; grey images are repeated to three channels.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs, Scores, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.networks import named_layers, perceptual, resnet
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.named_layers import ForwardPass, Layer, Params
from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel
from vtadl_jax.networks.resnet import Resnet
from vtadl_jax.ops.inspected import restored_outside
from vtadl_jax.ops.reconstruction import squared_error, to_uint8
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.ssim import ssim
from vtadl_jax.options import option

RESNET_FILE, VGG_FILE = "conv1.weight", "features.0.weight"  # arrays that tell the files apart


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Weights of the loss terms."""

    mse_weight: float = option(1.0, "on the mean squared error", at_least=0)
    perceptual_weight: float = option(
        1.0, "on the distance in the first layers of VGG-11; 0: without that network", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as tables of layers and the function that wires them.

    backbone: sizes of the ResNet; trained: whether steps change it. table: the other layers, by
    `scheme` of `named_layers.init`. reconstruct: (forward pass, images [B, H, W, 3] in [0, 1]) →
    reconstruction of the same shape.
    """

    backbone: Resnet
    trained: bool
    table: Mapping[str, Layer]
    scheme: str
    reconstruct: Callable[[ForwardPass, jax.Array], jax.Array]

    def init(self, key: jax.Array) -> Variables:
        """Returns variables without those of the loss."""
        keys = jax.random.split(key)
        ours = named_layers.init(keys[0], self.table, self.scheme)
        return self.with_backbone(
            {"params": ours[0], "stats": ours[1], "frozen": {}},
            *named_layers.init(keys[1], self.backbone.table(), "he"),
        )

    def with_backbone(self, variables: Variables, params: Params, stats: Params) -> Variables:
        """Returns variables with other weights of the ResNet, where `trained` has them."""
        if not self.trained:
            frozen = {**variables["frozen"], "backbone": {"params": params, "stats": stats}}
            return {**variables, "frozen": frozen}
        found = {"params": params, "stats": stats}
        return {**variables, **{group: {**variables[group], **found[group]} for group in found}}

    def forward(
        self,
        variables: Variables,
        dtype: Any,
        train: bool = False,
        parallel: Parallel = SINGLE_DEVICE,
    ) -> ForwardPass:
        """Returns a pass through the network; its statistics include the frozen ones."""
        frozen = variables.get("frozen", {}).get("backbone", {"params": {}, "stats": {}})
        return ForwardPass(
            {**variables["params"], **frozen["params"]},
            {**variables["stats"], **frozen["stats"]},
            dtype,
            train,
            parallel,
            fixed=frozenset(frozen["stats"]),
        )


def compare(vgg: Params, images, recon, weights: Mapping[str, float], dtype: Any):
    """Returns (terms: name → [B], the weighted sum [B]) of images and reconstructions.

    weights: of 'mse', 'ssim' and 'perceptual'; a term of weight 0 is left out, but for the MSE.
    SSIM is subtracted, so that the sum may be negative; its term is the dissimilarity 1 - SSIM.
    """
    terms = {"mse": squared_error(images, recon)}
    recon, times = restored_outside(images, recon)
    total = weights["mse"] * terms["mse"]
    if weights["ssim"]:
        similarity = ssim(images, recon, 1.0)
        terms["dissimilarity"] = (1.0 - similarity) * times
        total = total - weights["ssim"] * similarity
    if weights["perceptual"]:
        terms["perceptual"] = perceptual.perceptual_distance(vgg, images, recon, dtype)
        total = total + weights["perceptual"] * terms["perceptual"]
    return terms, total


def to_rgb(images):
    """Converts uint8 [B, H, W, 1 or 3] to float32 [B, H, W, 3] in [0, 1]."""
    return jnp.broadcast_to(images.astype(jnp.float32) / 255, (*images.shape[:-1], 3))


def rgb_reconstruction(
    network: Network, loss: LossOptions, inputs: Inputs, ssim_weight: float = 0.0
) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions.

    Its first score term is the loss of the image, which alone makes the score. Raises UserError for
    settings that batch norm over a whole batch does not allow.
    """
    if inputs.microbatches > 1:
        raise UserError(
            f"train.accumulate {inputs.microbatches}: batch norm needs the whole batch: use 1 and "
            "a smaller batch_size"
        )
    weights = {"mse": loss.mse_weight, "ssim": ssim_weight, "perceptual": loss.perceptual_weight}
    if not any(weights.values()):
        raise UserError("model.loss: all weights are 0: give one of them a value")
    has_vgg = weights["perceptual"] > 0
    names = ("mse", *("dissimilarity",) * (ssim_weight > 0), *("perceptual",) * has_vgg)

    def init(key):
        keys = jax.random.split(key)
        variables = network.init(keys[0])
        if has_vgg:
            variables["frozen"] = {**variables["frozen"], "vgg": perceptual.init(keys[1])}
        return variables

    def objective(variables, forward: ForwardPass, images):
        recon = network.reconstruct(forward, images)
        vgg = variables.get("frozen", {}).get("vgg", {})
        return recon, *compare(vgg, images, recon, weights, inputs.dtype)

    def value(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        forward = network.forward(variables, inputs.dtype, True, parallel)
        _, terms, total = objective(variables, forward, to_rgb(batch["image"]))
        stats = {name: forward.stats[name] for name in variables["stats"]}
        return total.mean(), ({name: term.mean() for name, term in terms.items()}, stats)

    def score(variables, images):
        rgb = to_rgb(images)
        recon, terms, total = objective(variables, network.forward(variables, inputs.dtype), rgb)
        errors = jnp.square(rgb - recon).mean(-1)
        grey = inputs.channels == 1
        return Scores(
            jnp.stack([total, *(terms[name] for name in names)], -1),
            upsample_maps(errors, inputs.image_size, inputs.map_sigma),
            to_uint8(2 * (recon.mean(-1, keepdims=True) if grey else recon) - 1),
        )

    def load_pretrained(variables, arrays):
        return _load(network, variables, arrays, has_vgg)

    def pretrained_notes(arrays: Collection[str]) -> list[str]:
        return _notes(network.backbone.title, arrays, has_vgg)

    return Detector(
        initializer(init),
        score,
        ("loss", *names),
        (1.0, *[0.0] * len(names)),
        value,
        load_pretrained=load_pretrained,
        pretrained_notes=pretrained_notes,
    )


def _load(network: Network, variables: Variables, arrays: Mapping[str, np.ndarray], has_vgg: bool):
    """Returns variables with the ResNet's and VGG's weights, whichever the arrays hold."""
    title = network.backbone.title
    if RESNET_FILE not in arrays and VGG_FILE not in arrays:
        raise UserError(
            f"holds neither {RESNET_FILE} of {title} nor {VGG_FILE} of {perceptual.TITLE}: give "
            "torchvision's state dicts, one or both, as FILE,FILE"
        )
    if VGG_FILE in arrays and not has_vgg:
        raise UserError(
            f"holds {perceptual.TITLE}, which is not read with model.loss.perceptual_weight 0: "
            "leave it out"
        )
    if RESNET_FILE in arrays:
        loaded = resnet.load(arrays, network.backbone.table(), title)
        variables = network.with_backbone(variables, *loaded)
    if VGG_FILE in arrays:
        frozen = {**variables["frozen"], "vgg": perceptual.load(arrays)}
        variables = {**variables, "frozen": frozen}
    return variables


def _notes(title: str, arrays: Collection[str], has_vgg: bool) -> list[str]:
    missing = [title] if RESNET_FILE not in arrays else []
    missing += [f"the loss's {perceptual.TITLE}"] if has_vgg and VGG_FILE not in arrays else []
    if not missing:
        return []
    verb = "have" if len(missing) > 1 else "has"
    return [
        f"{' and '.join(missing)} {verb} random weights at the start; the published method has "
        "torchvision's: give their files, separated by a comma, with --config.init_from "
        "(docs/weights.md)"
    ]
