"""Detectors, one file each: a method and its options. Pure: no files, no optimizer, no mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vtadl_jax.detectors.autoencoder import AutoencoderOptions, autoencoder
from vtadl_jax.detectors.capsnet import CapsNetOptions, capsnet
from vtadl_jax.detectors.context_mdn import ContextOptions, context_mdn
from vtadl_jax.detectors.contnet_gaussian import ContnetGaussianOptions, contnet_gaussian
from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.expert_options import ExpertsOptions
from vtadl_jax.detectors.experts import experts
from vtadl_jax.detectors.feature_reconstruction import (
    FeatureReconstructionOptions,
    feature_reconstruction,
)
from vtadl_jax.detectors.filter_mixture import FilterMixtureOptions, filter_mixture
from vtadl_jax.detectors.image_mixture import ImageMixtureOptions, image_mixture
from vtadl_jax.detectors.official import OfficialOptions, official
from vtadl_jax.detectors.patch_memory import PatchMemoryOptions, patch_memory
from vtadl_jax.detectors.piade import PiadeOptions, piade
from vtadl_jax.detectors.position_gaussian import PositionGaussianOptions, position_gaussian
from vtadl_jax.detectors.pyramid_ae import PyramidOptions, pyramid_ae
from vtadl_jax.detectors.segmentation import SegmentationOptions, segmentation
from vtadl_jax.detectors.spade import SpadeOptions, spade
from vtadl_jax.detectors.subspace import SubspaceOptions, subspace
from vtadl_jax.detectors.unet import UNetOptions, unet
from vtadl_jax.detectors.vtadl import VTADLOptions, vtadl
from vtadl_jax.detectors.vtadl_pretrained import VTADLPretrainedOptions, vtadl_pretrained
from vtadl_jax.errors import UserError
from vtadl_jax.options import nearest


class Method(NamedTuple):
    """A detector's options dataclass and the function that builds the detector from them."""

    options: type
    make: Callable[[Any, Inputs], Detector]


DETECTORS: dict[str, Method] = {
    "vtadl": Method(VTADLOptions, vtadl),
    "vtadl_pretrained": Method(VTADLPretrainedOptions, vtadl_pretrained),
    "official": Method(OfficialOptions, official),
    "autoencoder": Method(AutoencoderOptions, autoencoder),
    "pyramid_ae": Method(PyramidOptions, pyramid_ae),
    "piade": Method(PiadeOptions, piade),
    "filter_mixture": Method(FilterMixtureOptions, filter_mixture),
    "position_gaussian": Method(PositionGaussianOptions, position_gaussian),
    "contnet_gaussian": Method(ContnetGaussianOptions, contnet_gaussian),
    "context_mdn": Method(ContextOptions, context_mdn),
    "patch_memory": Method(PatchMemoryOptions, patch_memory),
    "spade": Method(SpadeOptions, spade),
    "subspace": Method(SubspaceOptions, subspace),
    "feature_reconstruction": Method(FeatureReconstructionOptions, feature_reconstruction),
    "experts": Method(ExpertsOptions, experts),
    "unet": Method(UNetOptions, unet),
    "capsnet": Method(CapsNetOptions, capsnet),
    "segmentation": Method(SegmentationOptions, segmentation),
    "image_mixture": Method(ImageMixtureOptions, image_mixture),
}


def find_method(name: str) -> Method:
    """Returns the registry entry of a detector. Raises UserError for an unknown name."""
    if name not in DETECTORS:
        known = ", ".join(sorted(DETECTORS))
        raise UserError(f"detector {name!r}{nearest(name, DETECTORS)}: known are {known}")
    return DETECTORS[name]
