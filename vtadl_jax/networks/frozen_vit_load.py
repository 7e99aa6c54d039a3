"""Makes the weights of `frozen_vit.py` from a file's arrays, which must fit a description."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.frozen_vit import PIXEL_CENTRE, PIXELS, Reading, Vit, weight_shapes
from vtadl_jax.networks.frozen_vit_files import REGISTERS, Found, read_file
from vtadl_jax.networks.frozen_vit_table import names_like
from vtadl_jax.networks.resample import resize_table
from vtadl_jax.networks.vit_weights import Encoder

ROPE_BASE = 100.0


def load(
    arrays: Mapping[str, np.ndarray],
    name: str,
    vit: Vit,
    grid: tuple[int, int],
    channels: int,
    reading: Reading,
) -> Any:
    """Returns the weights in the shapes of `weight_shapes`, float32; names what it leaves out.

    name: of the description `vit`. Raises UserError for a file of another network, which names the
    description that would fit, and for arrays that are missing, of another shape or not finite.
    """
    found = read_file(arrays)
    if found.vit.structure != vit.structure:
        names = names_like(found.vit)
        known = " or ".join(f"--config.model.features={other}" for other in names)
        remedy = f"use {known}" if names else "no known encoder is like that"
        raise UserError(f"holds a ViT of {found.vit}; model.features {name!r} is {vit}: {remedy}")
    return _assembled(found, vit, grid, channels, reading)


class Taker:
    """Takes arrays of a file by our names, in the shapes that are wanted, and notes what is wrong
    with them in `troubles`, under the file's names."""

    def __init__(self, encoder: Encoder, no_bias_of_key: bool):
        self.arrays, self.origin = encoder.arrays, encoder.origin
        self.unchecked = ".qkv.bias" if no_bias_of_key else None
        self.used = set[str]()
        self.troubles: list[str] = []

    def take(self, name: str, shape: tuple[int, ...], absent: bool = False) -> np.ndarray:
        """Returns an array in a shape of the same size. absent: zeros if the file has none."""
        self.used.add(name)
        if name not in self.arrays:
            if not absent:
                self.troubles.append(f"{name} is missing")
            return np.zeros(shape, np.float32)
        array, origin = self.arrays[name], self.origin.get(name, name)
        if array.size != math.prod(shape) or (array.ndim == len(shape) and array.shape != shape):
            self.troubles.append(f"{origin} is {list(array.shape)}, not {list(shape)}")
            return np.zeros(shape, np.float32)
        if not (self.unchecked and name.endswith(self.unchecked)):
            self.check_finite(name, array)
        return array.reshape(shape)

    def check_finite(self, name: str, array: np.ndarray) -> None:
        if not np.isfinite(array).all():
            origin = self.origin.get(name, name)
            self.troubles.append(f"{origin} has values that are not finite")


def _assembled(
    found: Found, vit: Vit, grid: tuple[int, int], channels: int, reading: Reading
) -> Any:
    taker = Taker(found.encoder, vit.rope)
    weights: dict[str, Any] = {"patch": _patch(taker, vit, channels)}
    first = np.zeros(vit.width)  # position of the class token
    if vit.rope:
        weights["rope"] = _rope(vit, grid, found.periods)
    else:
        first, weights["position"] = _position(taker, found.program, vit, grid)
    if vit.prefix:
        rows = [taker.take("class_token", (1, vit.width)) + first] if vit.class_token else []
        if vit.registers:
            rows.append(taker.take(REGISTERS, (vit.registers, vit.width)))
        weights["prefix"] = np.concatenate(rows)
    shapes = weight_shapes(vit, grid, channels, reading)
    weights["blocks"] = _blocks(taker, vit, shapes["blocks"])
    norm = {leaf: taker.take(f"norm.{leaf}", (vit.width,)) for leaf in ("scale", "bias")}
    if reading.norm:
        weights["norm"] = norm
    for name in sorted(taker.arrays.keys() - taker.used):
        if _layer(name) < reading.depth:  # later blocks are not needed
            taker.troubles.append(f"{taker.origin.get(name, name)} has no counterpart here")
    troubles = taker.troubles
    if troubles:
        more = f" (and {len(troubles) - 3} more)" if len(troubles) > 3 else ""
        raise UserError(f"{'; '.join(troubles[:3])}{more}: give the whole state dict")
    return _float32(weights)


def _blocks(taker: Taker, vit: Vit, shapes: Any) -> dict[str, dict[str, np.ndarray]]:
    """Returns the stacked blocks. A file in which no query, key or value has a bias has zeros."""
    no_bias = not any(name.endswith(".qkv.bias") for name in taker.arrays)
    found: dict[str, dict[str, np.ndarray]] = {}
    for group, leaves in shapes.items():
        found[group] = {}
        for leaf, (depth, *shape) in leaves.items():
            absent = no_bias and (group, leaf) == ("qkv", "bias")
            names = [f"blocks.{i}.{group}.{leaf}" for i in range(depth)]
            found[group][leaf] = np.stack([taker.take(n, tuple(shape), absent) for n in names])
    if vit.rope:  # DINOv3's authors mask the key's bias: their files may hold anything there
        found["qkv"]["bias"][:, vit.width : 2 * vit.width] = 0
        for i, bias in enumerate(found["qkv"]["bias"]):
            taker.check_finite(f"blocks.{i}.qkv.bias", bias)
    return found


def _layer(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _float32(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _float32(value) for name, value in tree.items()}
    return np.ascontiguousarray(tree, np.float32)


def _patch(taker: Taker, vit: Vit, channels: int) -> dict[str, np.ndarray]:
    """Folds the standardization of pixels into kernel and bias, exactly; sums the channels for grey
    images, which stand for three equal ones."""
    mean, deviation = (np.array(values) for values in PIXELS[vit.pixels])
    kernel = taker.take("patch_embedding.kernel", (vit.patch, vit.patch, 3, vit.width))
    kernel = kernel.astype(np.float64)
    shift = (PIXEL_CENTRE / 255 - mean) / deviation
    bias = taker.take("patch_embedding.bias", (vit.width,)) + np.einsum("pqcd,c->d", kernel, shift)
    kernel = kernel / (255 * deviation)[:, None]
    if channels == 1:
        kernel = kernel.sum(2, keepdims=True)
    return {"kernel": kernel.reshape(-1, vit.width), "bias": bias}


def _position(
    taker: Taker, program: str, vit: Vit, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class token's position [D], zeros if the table has none, and the grid's [N, D].

    The program that wrote the file decides how the table is resized; Google's files are resized as
    timm does.
    """
    name, tokens = "position_embedding", grid[0] * grid[1]
    taker.used.add(name)
    table = taker.arrays[name].reshape(-1, taker.arrays[name].shape[-1])
    extra = 0 if math.isqrt(len(table)) ** 2 == len(table) else 1
    side = math.isqrt(len(table) - extra)
    if side**2 + extra != len(table) or table.shape[1] != vit.width:
        origin = taker.origin.get(name, name)
        taker.troubles.append(f"{origin} is {list(table.shape)}, not a square grid of {vit.width}")
        return np.zeros(vit.width), np.zeros((tokens, vit.width))
    taker.check_finite(name, table)
    kind = {"huggingface": "antialias" if vit.registers else "plain", "meta": vit.resize}
    rows = resize_table(table[extra:], grid, kind.get(program, "antialias"))
    first = table[0].astype(np.float64) if extra else np.zeros(vit.width)
    return first, rows


def _rope(vit: Vit, grid: tuple[int, int], periods: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns cosines and sines [N, d] of DINOv3's angles: rows', columns', and both again.

    Positions are patch centres in [-1, 1] along each side. periods: [d / 4] of the file, rounded by
    its authors; by default 100^(4 i / d).
    """
    quarter = vit.width // vit.heads // 4
    if periods is None or periods.shape != (quarter,):
        periods = ROPE_BASE ** (np.arange(quarter) / quarter)
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in grid)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    angles = 2 * np.pi * places[:, :, None] / np.asarray(periods, np.float64)
    angles = np.tile(angles.reshape(len(places), -1), 2)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}
