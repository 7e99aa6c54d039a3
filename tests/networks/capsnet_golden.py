"""Golden numbers of the CapsNet, if they are next to the checkout."""

import functools

import numpy as np

from tests import golden
from vtadl_jax.detectors.capsnet import CapsNetLossOptions, CapsNetOptions
from vtadl_jax.networks.capsnet import NetworkOptions

STEM = "capsnet_seed23"
SIZE, CHANNELS = (28, 28), 1


def skip_without() -> None:
    golden.skip_without(STEM)


def _recipe():
    return golden.recipe("make_params_ae")


@functools.cache
def state_dict() -> dict[str, np.ndarray]:
    """Name → array in PyTorch's layouts, float32."""
    return _recipe().params(STEM)


def images() -> np.ndarray:
    """[6, 28, 28, 1] float32 in [0, 1]."""
    return _recipe().images(STEM).transpose(0, 2, 3, 1)


def numbers(layout: str) -> dict:
    """The numbers of a layout: 'channels' or 'flat'."""
    return golden.facts(STEM)["main" if layout == "channels" else "flat"]


def labels() -> np.ndarray:
    return np.array(golden.facts(STEM)["main"]["labels"])


def assert_array(name: str, full: np.ndarray, tolerance: float) -> None:
    """Compares full [B, …], in PyTorch's layout, with the stored values of the array, every
    stride-th of each image; tolerance: relative to the largest of them."""
    about = golden.facts(STEM)["arrays"][name]
    assert list(full.shape) == about["shape"]
    stored = golden.numbers(STEM)[name].reshape(len(full), -1)
    golden.check_samples(name, full, stored, about["stride"], tolerance)


def options(layout: str = "channels", **loss) -> CapsNetOptions:
    return CapsNetOptions(
        mean=(0.1307,),
        std=(0.3081,),
        network=NetworkOptions(layout=layout, **{k: loss.pop(k) for k in _NETWORK & loss.keys()}),
        loss=CapsNetLossOptions(**loss),
    )


_NETWORK = {"iterations", "stop_gradient"}
