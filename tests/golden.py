"""Golden numbers of published networks, if they are next to the checkout."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "golden"
STEM = "official_vtadl_seed11"


def skip_without(stem: str) -> None:
    if not (FOLDER / f"{stem}.npz").is_file():
        pytest.skip(f"no golden numbers {stem} beside the repository")


def skip_without_golden() -> None:
    skip_without(STEM)


def feature_parameters(stem: str):
    """The recipe of a feature network's golden: its parameters and inputs. Skips without it."""
    skip_without(stem)
    return _module("make_params_features")


def _make_params():
    return _module("make_params")


@functools.cache
def _module(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state_dicts() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(auto-encoder, mixture): name → array in PyTorch's layouts."""
    return _make_params().state_dicts(STEM)


def images() -> np.ndarray:
    """[2, 3, 512, 512] float32 in [0, 1]."""
    return _make_params().images(STEM)


def numbers(stem: str = STEM) -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / f"{stem}.npz"))


def gradient_norms() -> dict[str, float]:
    return json.loads((FOLDER / f"{STEM}.json").read_text())["grad_norms"]
