"""Golden numbers of published networks, if they are next to the checkout."""

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

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
    return recipe("make_params_features")


def _make_params():
    return recipe("make_params")


@functools.cache
def recipe(name: str):
    """The module that makes a golden's parameters and inputs, of that file name."""
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


@functools.lru_cache(maxsize=2)
def numbers(stem: str = STEM) -> dict[str, np.ndarray]:
    """The arrays of a golden, by name."""
    return dict(np.load(FOLDER / f"{stem}.npz"))


@functools.cache
def facts(stem: str) -> dict[str, Any]:
    """All sets of a golden's numbers."""
    return json.loads((FOLDER / f"{stem}.json").read_text())


def check_samples(name: str, full, stored: np.ndarray, stride: int, tolerance: float) -> None:
    """Compares an array, [B, …] in PyTorch's layout, with every stride-th value of each image.

    tolerance: relative to the largest stored value.
    """
    found = np.asarray(full, np.float64).reshape(len(full), -1)[:, ::stride]
    stored = stored.reshape(len(stored), -1)
    assert found.shape == stored.shape, name
    difference = np.abs(found - stored).max()
    assert difference <= tolerance * np.abs(stored).max(), (name, difference)


def gradient_norms() -> dict[str, float]:
    return json.loads((FOLDER / f"{STEM}.json").read_text())["grad_norms"]
