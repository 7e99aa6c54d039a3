"""Peers of the benchmarks: the same computations in PyTorch and in other JAX libraries.

Only `vtadl_jax.benchmarks` imports this package. Its modules import torch or distrax at their top;
call `require_torch` first, so that a missing package is reported in one line.
"""

import importlib
import os
from types import ModuleType

from vtadl_jax.errors import UserError


def require_torch() -> ModuleType:
    """Returns torch, set to use every core. Raises UserError if it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"torch can't be imported ({error}): pip install 'vtadl_jax[bench]' for the peers"
        ) from error
    torch.set_num_threads(os.cpu_count() or 1)
    return torch
