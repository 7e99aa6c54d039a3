"""Converts our variables and gradients to the names and layouts of `torch_paper.PaperVTADL`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


def named_arrays(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our parameters, statistics or gradients under the peer's names and in its layouts.

    tree: one of the nested dicts {'encoder': …, 'decoder': …, 'mixture': …}; parts may be absent.
    """
    for path, value in _flatten(tree):
        *parents, leaf = path
        array = np.asarray(value)
        if parents[:2] == ["encoder", "blocks"]:  # scanned: the leading axis is the depth
            for i, layer in enumerate(array):
                name = ".".join([*parents[:2], str(i), *parents[2:]])
                yield f"{name}.{_leaf(leaf)}", _layout(parents[-1], leaf, layer)
        else:
            name = ".".join(parents).replace("decoder.up", "decoder.ups.")
            name = name.replace("decoder.norm", "decoder.norms.")
            yield f"{name}.{_leaf(leaf)}", _layout(parents[-1], leaf, array)


def load_variables(network: nn.Module, variables: Any) -> None:
    """Loads our parameters and statistics into the peer. Raises ValueError if names differ."""
    state = {
        name: torch.tensor(array)
        for part in ("params", "stats")
        for name, array in named_arrays(variables[part])
    }
    missing, unexpected = network.load_state_dict(state, strict=False)
    left = [name for name in missing if not name.endswith("num_batches_tracked")]
    if left or unexpected:
        raise ValueError(f"parameters do not match: missing {left}, unexpected {unexpected}")


def _flatten(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if hasattr(value, "items"):
            yield from _flatten(value, (*path, key))
        else:
            yield (*path, key), value


def _leaf(name: str) -> str:
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return names.get(name, name)


def _layout(module: str, leaf: str, array: np.ndarray) -> np.ndarray:
    """Returns one array of ours in PyTorch's layout."""
    if leaf == "kernel" and module.startswith("up"):  # [kh, kw, in, out] → [in, out, kh, kw]
        return array.transpose(2, 3, 0, 1)
    if module in ("logits", "loc", "scale_diag", "scale_lower"):  # rows first → components first
        array = np.moveaxis(array, -1, -2)
        return (
            array.reshape(-1, array.shape[-1] * array.shape[-2]).T
            if leaf == "kernel"
            else (array.ravel())
        )
    if leaf == "kernel" and module == "attention_out":  # [heads, head width, out]
        return array.reshape(-1, array.shape[-1]).T
    if leaf == "kernel":  # [in, …] → [out, in]
        return array.reshape(array.shape[0], -1).T
    return array
