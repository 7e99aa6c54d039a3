"""Golden numbers of the published network, if they are next to the checkout."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "golden"
STEM = "official_vtadl_seed11"


def skip_without_golden() -> None:
    if not (FOLDER / f"{STEM}.npz").is_file():
        pytest.skip("no golden numbers of the official network beside the repository")


@functools.cache
def _make_params():
    spec = importlib.util.spec_from_file_location("make_params", FOLDER / "make_params.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state_dicts() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(auto-encoder, mixture): name → array in PyTorch's layouts."""
    return _make_params().state_dicts(STEM)


def images() -> np.ndarray:
    """[2, 3, 512, 512] float32 in [0, 1]."""
    return _make_params().images(STEM)


def numbers() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / f"{STEM}.npz"))


def gradient_norms() -> dict[str, float]:
    return json.loads((FOLDER / f"{STEM}.json").read_text())["grad_norms"]
