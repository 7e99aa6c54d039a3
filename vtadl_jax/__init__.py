"""VT-ADL in JAX: detects and locates defects in images, trained on good images only.

    from vtadl_jax import Predictor
    predictor = Predictor.from_workdir("runs/mvtec-screw")
    if predictor("part.png").is_defective: ...

Importing this package defines no flags and loads no heavy module; the names below load on first
use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtadl_jax.evaluation.predictor import Prediction, Predictor
    from vtadl_jax.evaluation.trained_run import Run, load_run
    from vtadl_jax.experiment import base

__version__ = "0.2.0"
__all__ = ["Prediction", "Predictor", "Run", "base", "load_run"]
_HOMES = {
    "Prediction": "evaluation.predictor",
    "Predictor": "evaluation.predictor",
    "Run": "evaluation.trained_run",
    "load_run": "evaluation.trained_run",
    "base": "experiment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
