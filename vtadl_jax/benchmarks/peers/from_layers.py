"""Copies our layers into a torch network that has the same ones in the same order; no names."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from vtadl_jax.benchmarks.peers.torch_capsnet import Capsules

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, Capsules)


class Weights(NamedTuple):
    """A layer's arrays: params 'kernel' or 'scale', and 'bias'; stats 'mean' and 'var' of norms."""

    params: Mapping[str, Any]
    stats: Mapping[str, Any]


def copy_layers(network: nn.Module, layers: Sequence[Weights]) -> None:
    """Copies arrays into the layers of a network, in the order in which it made them.

    Raises ValueError for other numbers or shapes of layers.
    """
    modules = [module for module in network.modules() if isinstance(module, KINDS)]
    if len(modules) != len(layers):
        raise ValueError(f"{len(layers)} layers for {len(modules)} of the peer")
    with torch.no_grad():
        for module, (params, stats) in zip(modules, layers, strict=True):
            arrays = {"weight": _weight(module, params), "bias": params.get("bias")}
            arrays |= {"running_mean": stats.get("mean"), "running_var": stats.get("var")}
            for name, array in arrays.items():
                tensor = getattr(module, name, None)
                if (tensor is None) != (array is None):
                    raise ValueError(f"{module}: {name} is on one side only")
                if tensor is not None and array is not None:
                    _copy(tensor, np.asarray(array), f"{module}: {name}")


def _copy(tensor: torch.Tensor, array: np.ndarray, what: str) -> None:
    if tuple(tensor.shape) != array.shape:
        raise ValueError(f"{what} is {tuple(tensor.shape)}, ours {array.shape}")
    tensor.copy_(torch.tensor(array))


def _weight(module: nn.Module, params: Mapping[str, Any]) -> np.ndarray:
    """Returns a layer's weight in PyTorch's layout."""
    if "scale" in params:
        return np.asarray(params["scale"])
    kernel = np.asarray(params["kernel"])
    if isinstance(module, nn.ConvTranspose2d):  # [k, k, in, out] → [in, out, k, k]
        return kernel.transpose(2, 3, 0, 1)
    if isinstance(module, nn.Conv2d):  # → [out, in, k, k]
        return kernel.transpose(3, 2, 0, 1)
    return kernel.T if isinstance(module, nn.Linear) else kernel
