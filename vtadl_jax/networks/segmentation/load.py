"""Reads weights of segmentation networks from PyTorch state dicts: their own, or VGG16's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.segmentation.layers import Layer, Network, key_of
from vtadl_jax.networks.segmentation.vgg16 import PLACES, PLACES_NORMED, channels

COUNTER = "num_batches_tracked"  # of PyTorch's batch norms; not needed with a fixed momentum
NORM = {"scale": "weight", "bias": "bias"}
RUNNING = {"mean": "running_mean", "var": "running_var"}
KERNEL = {"kernel": "weight", "bias": "bias"}


def load(
    network: Network,
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (params, stats) with the arrays of a file in their places.

    arrays: the state dict of the network's repository, all of it; or torchvision's VGG16 without or
    with batch norms for a network with such an encoder, whose other layers stay as they are; the
    classifier of a VGG16 is not read. Raises UserError that names arrays which are missing, not
    finite, of another shape or not of this network.
    """
    params, stats = dict(params), dict(stats)
    layers: Sequence[Layer]
    if "features.0.weight" in arrays:
        layers, names = _of_vgg(network, arrays)
    else:
        layers, names = network.layers, {layer.name: layer.name for layer in network.layers}
        _check_no_others(layers, arrays)
    troubles: list[str] = []
    for layer in layers:
        name, key = names[layer.name], key_of(layer.name)
        if layer.kind == "norm":
            params[key] = _group(arrays, name, NORM, layer, troubles)
            stats[key] = _group(arrays, name, RUNNING, layer, troubles)
        else:
            params[key] = _group(arrays, name, KERNEL, layer, troubles)
    if troubles:
        more = f" and {len(troubles) - 2} more" if len(troubles) > 2 else ""
        raise UserError(
            f"is not of this network ({'; '.join(troubles[:2])}{more}): give the state dict of its "
            f"repository, or another --config.model.network"
        )
    return params, stats


def _of_vgg(
    network: Network, arrays: Mapping[str, np.ndarray]
) -> tuple[list[Layer], dict[str, str]]:
    """Returns the layers that a VGG16 can start, and their names in its file."""
    if not network.vgg:
        raise UserError(
            "is a VGG16, and this network has no such encoder: leave init_from empty, or use "
            "--config.model.network=fcn32s or segnet"
        )
    normed = "features.1.running_mean" in arrays
    if normed and not network.vgg_norms:
        raise UserError(
            "is a VGG16 with batch norms, and the encoder has none: give one without them"
        )
    places = PLACES_NORMED if normed else PLACES
    names = {n: f"features.{p}" for n, p in zip(network.vgg, places, strict=True)}
    if normed:
        names |= {n: f"features.{p + 1}" for n, p in zip(network.vgg_norms, places, strict=True)}
    layers = [layer for layer in network.layers if layer.name in names]
    found = [layer for layer in layers if layer.kind == "conv"]
    assert [(x.inputs, x.outputs) for x in found] == list(channels())
    return layers, names


def _check_no_others(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray]) -> None:
    known = {layer.name for layer in layers}
    others = [n for n in arrays if n.rpartition(".")[0] not in known]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"has {others[0]}{more}, which this network does not have: give the state dict of its "
            f"repository, or another --config.model.network"
        )


def _group(
    arrays: Mapping[str, np.ndarray],
    name: str,
    leaves: Mapping[str, str],
    layer: Layer,
    troubles: list[str],
) -> dict[str, np.ndarray]:
    """Returns a layer's arrays in our layouts, float32; adds to `troubles` what does not fit."""
    found = {}
    for ours, theirs in leaves.items():
        array, shape = arrays.get(f"{name}.{theirs}"), _shape(layer, ours)
        if array is None:
            troubles.append(f"{name}.{theirs} is missing")
        elif array.shape != shape:
            troubles.append(f"{name}.{theirs} is {list(array.shape)} instead of {list(shape)}")
        elif not np.isfinite(array).all():
            troubles.append(f"{name}.{theirs} has values that are not finite")
        else:
            found[ours] = _ours(array, layer) if ours == "kernel" else array.astype(np.float32)
    return found


def _shape(layer: Layer, leaf: str) -> tuple[int, ...]:
    """Returns the shape of a leaf in the file."""
    if leaf != "kernel":
        return (layer.outputs,)
    pair = (layer.outputs, layer.inputs)
    return (*(pair if layer.kind == "conv" else pair[::-1]), layer.size, layer.size)


def _ours(kernel: np.ndarray, layer: Layer) -> np.ndarray:
    """Transposes [out, in, k, k], or [in, out, k, k] of a transposed convolution, to
    [k, k, in, out]."""
    order = (2, 3, 1, 0) if layer.kind == "conv" else (2, 3, 0, 1)
    return np.ascontiguousarray(np.asarray(kernel, np.float32).transpose(order))
