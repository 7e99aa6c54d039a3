"""Golden numbers of the CapsNet, if they are next to the checkout."""

import functools
import importlib.util
import json

import numpy as np
import pytest

from tests.golden import FOLDER
from vtadl_jax.detectors.capsnet import CapsNetLossOptions, CapsNetOptions
from vtadl_jax.networks.capsnet import NetworkOptions

STEM = "capsnet_seed23"
SIZE, CHANNELS = (28, 28), 1


def skip_without() -> None:
    if not (FOLDER / f"{STEM}.npz").is_file():
        pytest.skip("no golden numbers of the CapsNet beside the repository")


@functools.cache
def _recipe():
    spec = importlib.util.spec_from_file_location("make_params_ae", FOLDER / "make_params_ae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def state_dict() -> dict[str, np.ndarray]:
    """Name → array in PyTorch's layouts, float32."""
    return _recipe().params(STEM)


def images() -> np.ndarray:
    """[6, 28, 28, 1] float32 in [0, 1]."""
    return _recipe().images(STEM).transpose(0, 2, 3, 1)


@functools.cache
def _json() -> dict:
    return json.loads((FOLDER / f"{STEM}.json").read_text())


def numbers(layout: str) -> dict:
    """The numbers of a layout: 'channels' or 'flat'."""
    return _json()["main" if layout == "channels" else "flat"]


def labels() -> np.ndarray:
    return np.array(_json()["main"]["labels"])


def assert_array(name: str, full: np.ndarray, tolerance: float) -> None:
    """Compares full [B, …], in PyTorch's layout, with the stored values of the array, every
    stride-th of each image; tolerance: relative to the largest of them."""
    want = np.load(FOLDER / f"{STEM}.npz")[name]
    about = _json()["arrays"][name]
    assert list(full.shape) == about["shape"]
    found = np.asarray(full).reshape(len(full), -1)[:, :: about["stride"]]
    difference = np.abs(found - want.reshape(found.shape)).max()
    assert difference <= tolerance * np.abs(want).max(), (name, difference)


def options(layout: str = "channels", **loss) -> CapsNetOptions:
    return CapsNetOptions(
        mean=(0.1307,),
        std=(0.3081,),
        network=NetworkOptions(layout=layout, **{k: loss.pop(k) for k in _NETWORK & loss.keys()}),
        loss=CapsNetLossOptions(**loss),
    )


_NETWORK = {"iterations", "stop_gradient"}
