"""Makes the weights of `contnet.py` from a file of its authors' program, strictly.

Every array of the file must have a counterpart in the layout, and every layer its arrays: a file
that is loaded in part leaves random weights in place and still gives a map.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.contnet_layout import STAGES, ContNet, weight_shapes

NORM_EPSILON = 1e-5  # of the batch norms
IGNORED = re.compile(r"fc\.(weight|bias)|.*(num_batches_tracked|relative_position_index)")
ENCODER_LEAVES = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


def load(
    arrays: Mapping[str, np.ndarray], net: ContNet, depth: int | None = None, dtype: Any = "float32"
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the weights in the shapes of `weight_shapes(net, depth)`; batch norms are folded.

    arrays: a state dict, with or without 'module.' before its names. Raises UserError for a file of
    another layout, which names the options that fit it, and for arrays that are missing, left over,
    of another shape or not finite.
    """
    arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    found = layout_of(arrays)
    fields = [field.name for field in dataclasses.fields(ContNet) if field.name != "pre_norm"]
    if unlike := [name for name in fields if getattr(found, name) != getattr(net, name)]:
        given = ", ".join(f"{name} {getattr(net, name)}" for name in unlike)
        flags = " ".join(f"--config.model.contnet.{n}={_flag(getattr(found, n))}" for n in unlike)
        raise UserError(f"holds a ConTNet of another layout than {given}: use {flags}")
    kept = weight_shapes(net, depth)
    weights: dict[str, dict[str, np.ndarray]] = {}
    troubles, used = [], set()
    for layer, leaves in weight_shapes(net).items():
        names = names_of(layer, tuple(leaves), net)
        used |= set(names)
        missing = [name for name in names if name not in arrays]
        if missing:
            troubles.append(f"{missing[0]} is missing")
            continue
        values = [np.asarray(arrays[name], np.float64) for name in names]
        if not all(np.isfinite(value).all() for value in values):
            troubles.append(f"{names[0]} or its bias has values that are not finite")
            continue
        made = _layer(layer, tuple(leaves), values)
        wrong = [leaf for leaf, shape in leaves.items() if made[leaf].shape != shape]
        if wrong:
            troubles.append(f"{names[0]} is {list(arrays[names[0]].shape)}, not of this layout")
        elif layer in kept:
            weights[layer] = {leaf: np.asarray(value, dtype) for leaf, value in made.items()}
    left = sorted(name for name in arrays if name not in used and not IGNORED.fullmatch(name))
    troubles += [f"{name} has no counterpart here" for name in left]
    if troubles:
        more = f" (and {len(troubles) - 3} more)" if len(troubles) > 3 else ""
        raise UserError(f"{'; '.join(troubles[:3])}{more}: give the whole state dict")
    return weights


def layout_of(arrays: Mapping[str, np.ndarray]) -> ContNet:
    """Reads the layout from names and shapes; 'pre_norm', of which they tell nothing, is False.

    Raises UserError for arrays that are not those of a ConTNet.
    """
    blocks, mlp_dims = [], []
    for stage in range(1, STAGES + 1):
        numbers = [re.match(rf"layer{stage}\.ConTBlock(\d+)\.", name) for name in arrays]
        blocks.append(1 + max((int(found[1]) for found in numbers if found), default=-1))
        first = arrays.get(f"layer{stage}.ConTBlock0.ste1.mlp.fc1.weight")
        mlp_dims.append(0 if first is None else len(first))
    stem = arrays.get("layer0.conv.conv.weight")
    if stem is None or not all(blocks) or not all(mlp_dims):
        raise UserError(
            "holds no ConTNet (layer0.conv.conv.weight and layer1.ConTBlock0.… are its names): "
            "give the state dict of its authors' program"
        )
    return ContNet(
        width=len(stem),
        blocks=tuple(blocks),
        mlp_dims=tuple(mlp_dims),
        relative="layer1.ConTBlock0.ste1.attn.relative_position_bias_table" in arrays,
        average_down=any(name.endswith(".downsample.conv.conv.weight") for name in arrays),
        qkv_bias="layer1.ConTBlock0.ste1.attn.qkv.bias" in arrays,
    )


def names_of(layer: str, leaves: tuple[str, ...], net: ContNet) -> list[str]:
    """Returns the file's names of a layer's arrays, in the order of its leaves; of a batch norm,
    the four that make its scale and bias."""
    if layer == "stem":
        return ["layer0.conv.conv.weight"]
    stage, number, part, *rest = layer.split(".")
    root = f"{stage}.ConTBlock{number}"
    if part == "conv":
        return [f"{root}.out_conv.conv.weight"]
    if part == "shortcut":
        averaged = net.average_down and stage != f"layer{STAGES}"  # which keeps its sides
        return [f"{root}.downsample.conv.{'conv.' if averaged else ''}weight"]
    if part == "norm":
        return [f"{root}.bn.{leaf}" for leaf in NORM_LEAVES]
    root = f"{root}.{part}"
    if rest == ["position"]:
        relative = [f"{root}.attn.relative_position_bias_table"]
        return relative if net.relative else [f"{root}.pe.0", f"{root}.pe.1"]
    theirs = {ours: name for name, ours in ENCODER_LEAVES.items()}.get(rest[0], rest[0])
    return [f"{root}.{theirs}.{'bias' if leaf == 'bias' else 'weight'}" for leaf in leaves]


def _layer(layer: str, leaves: tuple[str, ...], values: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a layer's arrays in our layouts: kernels [k, k, in, out] and [in, out]."""
    if len(values) == len(NORM_LEAVES):
        scale, bias, mean, variance = values
        factor = scale / np.sqrt(variance + NORM_EPSILON)
        return {"scale": factor, "bias": bias - mean * factor}
    found = dict(zip(leaves, values, strict=True))
    if layer.endswith(".position") and "table" not in found:
        return {name: value.reshape(-1, value.shape[-1]) for name, value in found.items()}
    if "kernel" in found:
        kernel = found["kernel"]
        found["kernel"] = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
    return found


def _flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
