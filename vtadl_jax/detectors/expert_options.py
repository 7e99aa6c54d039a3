"""Options of the experts detector, and the making of its experts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.detectors.context_mdn import ContextOptions, context_mdn
from vtadl_jax.detectors.contract import Detector, Fit, Inputs
from vtadl_jax.detectors.feature_reconstruction import (
    FeatureReconstructionOptions,
    feature_reconstruction,
)
from vtadl_jax.detectors.filter_mixture import (
    FilterMdnOptions,
    FilterMixtureOptions,
    filter_mixture,
)
from vtadl_jax.detectors.patch_memory import PatchMemoryOptions, patch_memory
from vtadl_jax.detectors.position_gaussian import (
    STATISTICS,
    PositionGaussianOptions,
    position_gaussian,
)
from vtadl_jax.detectors.subspace import SubspaceOptions, subspace
from vtadl_jax.errors import UserError
from vtadl_jax.networks.feature_options import FILTERS
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import LARGEST_SIZE, fields_of, nearest, option

MAKERS: dict[str, Callable[[Any, Inputs], Detector]] = {
    "filter_mixture": filter_mixture,
    "patch_memory": patch_memory,
    "position_gaussian": position_gaussian,
    "subspace": subspace,
    "context_mdn": context_mdn,
    "feature_reconstruction": feature_reconstruction,
    "encoder": filter_mixture,
}
TRAINED = ("context_mdn", "feature_reconstruction")  # by steps; the others are fitted
FIXED = (FILTERS, STATISTICS)  # features without weights
SIDE_MULTIPLE = 32  # of images that are reduced for experts without a frozen network


@dataclasses.dataclass(frozen=True)
class ExpertsOptions:
    """Options of the experts detector: which detectors, and the options of each."""

    use: tuple[str, ...] = option(
        ("filter_mixture", "patch_memory"),
        f"the experts: some of {', '.join(MAKERS)}. encoder: a mixture over a frozen network",
        filled=True,
    )
    weigh: str = option(
        "drawn",
        "experts by how well they find defects drawn onto held-out good images, or all alike",
        choices=("drawn", "equal"),
    )
    filter_side: int = option(
        0,
        "of the shorter side of images for experts without a frozen network; 0: as they are",
        unit="px",
        at_least=0,
        limit=LARGEST_SIZE,
    )
    filter_mixture: FilterMixtureOptions = FilterMixtureOptions()
    patch_memory: PatchMemoryOptions = PatchMemoryOptions()
    position_gaussian: PositionGaussianOptions = PositionGaussianOptions()
    subspace: SubspaceOptions = SubspaceOptions()
    context_mdn: ContextOptions = ContextOptions()
    feature_reconstruction: FeatureReconstructionOptions = FeatureReconstructionOptions()
    encoder: FilterMixtureOptions = FilterMixtureOptions(
        "dinov2_vits14", mdn=FilterMdnOptions(num_components=40, feature_dim=64)
    )


def make_experts(options: ExpertsOptions, inputs: Inputs) -> dict[str, Detector]:
    """Returns the chosen detectors by name.

    Raises UserError for unknown or repeated names, for options of an expert that is not chosen, and
    for frozen networks of different names, as there is one file of weights.
    """
    for name in options.use:
        if name not in MAKERS:
            known = ", ".join(MAKERS)
            raise UserError(f"model.use {name!r}{nearest(name, MAKERS)}: use some of {known}")
    if not options.use or len(set(options.use)) < len(options.use):
        raise UserError(f"model.use {options.use}: name one or more experts, each once")
    _check_unread(options)
    networks = {name: getattr(options, name).features for name in options.use}
    frozen = {name: network for name, network in networks.items() if network not in FIXED}
    if len(set(frozen.values())) > 1:
        each = ", ".join(f"model.{name}.features {network!r}" for name, network in frozen.items())
        raise UserError(f"{each}: init_from has the weights of one network: use one for all")
    reduced = _reduced(inputs, options.filter_side)
    found = {}
    for name, network in networks.items():
        size = reduced if network in FIXED else inputs.image_size
        ratio = size[0] / inputs.image_size[0]
        own = dataclasses.replace(inputs, image_size=size, map_sigma=inputs.map_sigma * ratio)
        found[name] = _at_size(MAKERS[name](getattr(options, name), own), size, inputs.image_size)
    return found


def _check_unread(options: ExpertsOptions) -> None:
    """Raises UserError for options of an expert that is not chosen."""
    for name in MAKERS.keys() - set(options.use):
        given, usual = fields_of(getattr(options, name)), fields_of(getattr(ExpertsOptions(), name))
        for (field, value, _), (_, default, _) in zip(given, usual, strict=True):
            if value != default:
                raise UserError(
                    f"model.{name}.{field} {value!r}: not read, as model.use has no {name!r}: "
                    f"leave it at {default!r}"
                )


def _reduced(inputs: Inputs, side: int) -> tuple[int, int]:
    """Returns (H, W) of images whose shorter side is `side`; never larger than they are."""
    height, width = inputs.image_size
    shorter = min(height, width)
    if not side or side >= shorter:
        return height, width
    if side % SIDE_MULTIPLE:
        near = max(round(side / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE
        raise UserError(f"model.filter_side {side}: use a multiple of {SIDE_MULTIPLE}, as {near}")

    def scaled(length: int) -> int:
        return max(round(length * side / shorter / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE

    return scaled(height), scaled(width)


def _at_size(detector: Detector, size: tuple[int, int], full: tuple[int, int]) -> Detector:
    """Returns a detector for images of `full` size that sees them reduced to `size`."""
    if size == full:
        return detector

    def reduce(images):
        shape = (images.shape[0], *size, images.shape[-1])
        # Lanczos in place of linear is within the spread of fits (docs/experiments.md).
        smaller = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)
        return jnp.clip(jnp.round(smaller), 0, 255).astype(jnp.uint8)

    def score(variables, images):
        found = detector.score(variables, reduce(images))
        return dataclasses.replace(found, anomaly_map=upsample_maps(found.anomaly_map, full))

    loss, fit = detector.loss, detector.fit

    def loss_of(variables, batch, keys, *parallel):
        assert loss is not None, "a detector without loss has no steps"
        return loss(variables, {**batch, "image": reduce(batch["image"])}, keys, *parallel)

    def gather(variables, images, key):
        assert fit is not None, "a detector without fit gathers nothing"
        return fit.gather(variables, reduce(images), key)

    return dataclasses.replace(
        detector,
        score=score,
        loss=None if loss is None else loss_of,
        fit=None if fit is None else Fit(gather, fit.solve, fit.reduce),
    )
