"""Network parts and detectors, a file each. Pure Flax: no files, no optimiser, no mesh."""

from collections.abc import Callable

from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models.autoencoder import autoencoder
from vtadl_jax.models.detector import Detector
from vtadl_jax.models.filter_mixture import filter_mixture
from vtadl_jax.models.image_mixture import image_mixture
from vtadl_jax.models.official import official
from vtadl_jax.models.position_gaussian import position_gaussian
from vtadl_jax.models.surroundings import surroundings
from vtadl_jax.models.vtadl import vtadl

DETECTORS: dict[str, Callable[[ConfigDict], Detector]] = {
    "vtadl": vtadl,
    "official": official,
    "autoencoder": autoencoder,
    "filter_mixture": filter_mixture,
    "position_gaussian": position_gaussian,
    "surroundings": surroundings,
    "image_mixture": image_mixture,
}


def make_detector(config: ConfigDict) -> Detector:
    """The detector that `config.detector` names. Raises UserError for an unknown name."""
    if config.detector not in DETECTORS:
        raise UserError(f"detector {config.detector!r}: known are {', '.join(sorted(DETECTORS))}")
    return DETECTORS[config.detector](config)
