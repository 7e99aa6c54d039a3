"""Converts pretrained ViT encoders to ours: Google's `.npz` files and timm's state dicts.

`read_encoder` maps either to our names; `fit_encoder` resizes position embeddings to the grid and
the patch kernel to the patch size, and rejects arrays that do not fit, by name. Scores, losses and
training do not depend on it. Sources: Dosovitskiy et al., 2021 (ViT); Beyer et al., 2023 (FlexiViT,
the patch kernel); timm's `resample_abs_pos_embed`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.resample import absorb, resize_patch_kernel, resize_positions

Arrays = dict[str, np.ndarray]
Layer = Callable[[np.ndarray], np.ndarray]
PATCH, PATCH_BIAS = "patch_embedding.kernel", "patch_embedding.bias"
CLASS, POSITION = "class_token", "position_embedding"
# Arrays of the classifier that the encoder was trained with; they are ignored.
HEADS = re.compile(r"(head|head_dist|fc_norm|pre_logits|MAPHead_\d+)[./]")
_GOOGLE = (
    (r"^(params|opt/target)/", ""),
    (r"^Transformer/posembed_input/", ""),
    (r"^pos_embedding$", POSITION),
    (r"^cls$", CLASS),
    (r"^embedding/", "patch_embedding/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock(_(?P<layer>\d+))?/", r"blocks/\g<layer>/"),
    (r"/LayerNorm_0/", "/norm_attention/"),
    (r"/LayerNorm_[12]/", "/norm_mlp/"),
    (r"/MultiHeadDotProductAttention_[01]/out/", "/attention_out/"),
    (r"/MultiHeadDotProductAttention_[01]/", "/"),
    (r"/MlpBlock_[03]/Dense_0/", "/mlp_in/"),
    (r"/MlpBlock_[03]/Dense_1/", "/mlp_out/"),
)
_TIMM = (
    (r"^pos_embed$", POSITION),
    (r"^cls_token$", CLASS),
    (r"^patch_embed\.proj\.", "patch_embedding."),
    (r"\.norm1\.", ".norm_attention."),
    (r"\.norm2\.", ".norm_mlp."),
    (r"\.attn\.qkv\.", ".qkv."),
    (r"\.attn\.proj\.", ".attention_out."),
    (r"\.mlp\.fc1\.", ".mlp_in."),
    (r"\.mlp\.fc2\.", ".mlp_out."),
)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A file's encoder under our names.

    arrays: by name, joined by dots, a layer's as 'blocks.3.qkv.kernel'; in our layouts, except that
    heads may share an axis as in the file. origin: our name → the file's name.
    """

    arrays: Arrays
    origin: dict[str, str]


def read_encoder(arrays: Mapping[str, np.ndarray]) -> Encoder:
    """Returns a file's arrays under our names. Raises UserError unless Google's or timm's."""
    arrays = {name: array for name, array in arrays.items() if not HEADS.match(_bare(name))}
    if any("encoderblock" in name for name in arrays):
        return _from_google(arrays)
    if "patch_embed.proj.weight" in arrays:
        return _from_timm(arrays)
    raise UserError(
        "holds neither Google's ViT (Transformer/encoderblock_0/…) nor timm's "
        "(patch_embed.proj.weight, blocks.0.…): give such a file"
    )


def _bare(name: str) -> str:
    return re.sub(_GOOGLE[0][0], "", name)


def _renamed(name: str, rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _from_google(found: Arrays) -> Encoder:
    """Converts Google's names. Kernels have our layout; layers are separate arrays or one array
    with a leading axis; query, key and value are three arrays or one."""
    arrays: Arrays = {}
    origin: dict[str, str] = {}
    for name, array in found.items():
        ours = _renamed(name, _GOOGLE).replace("/", ".")
        layers = {ours: array}
        if ours.startswith("blocks.."):
            layers = {ours.replace("..", f".{i}.", 1): layer for i, layer in enumerate(array)}
        arrays |= layers
        origin |= dict.fromkeys(layers, name)
    for name in [name for name in arrays if ".query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in arrays for part in parts):
            ours = name.replace(".query.", ".qkv.")
            arrays[ours] = np.stack(
                [arrays.pop(part) for part in parts], axis=name.endswith("kernel")
            )
            origin[ours] = origin[name]
    return Encoder(arrays, origin)


def _from_timm(found: Arrays) -> Encoder:
    """Converts timm's names, and [out, in] to [in, out]; folds LayerScale into its branch."""
    arrays: Arrays = {}
    origin: dict[str, str] = {}
    for name, array in found.items():
        ours = _renamed(name, _TIMM)
        if ".norm_" in f".{ours}" or ours.startswith("norm."):
            ours = ours.replace(".weight", ".scale")
        elif ours.endswith(".weight"):
            ours = ours.replace(".weight", ".kernel")
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        arrays[ours], origin[ours] = array, name
    for name in [name for name in arrays if re.search(r"\.ls[12]\.gamma$", name)]:
        root, _, which = name.removesuffix(".gamma").rpartition(".")
        branch = "attention_out" if which == "ls1" else "mlp_out"
        targets = [f"{root}.{branch}.{leaf}" for leaf in ("kernel", "bias")]
        if all(target in arrays for target in targets):
            if arrays[name].shape != arrays[targets[1]].shape:
                continue  # stays in `arrays`; `fit_encoder` reports it
            gamma = arrays.pop(name)
            arrays |= {target: arrays[target] * gamma for target in targets}
    return Encoder(arrays, origin)


def fit_encoder(
    encoder: Encoder, like: Any, grid: tuple[int, int], patch_size: int, pixels: str
) -> Any:
    """Returns the encoder's parameters, a tree of float32 arrays with the shapes of `like`.

    like: the parameters of our encoder, or their shapes. grid: (rows, columns) of patches. pixels:
    'unit' if it was trained on images in [-1, 1], as ours, 'imagenet' if on standardized ones.
    Raises UserError that names arrays of the file with another shape or without a counterpart, and
    arrays of ours that the file lacks.
    """
    arrays = {name: array.astype(np.float32) for name, array in encoder.arrays.items()}
    wanted = _flat_shapes(like)
    channels = wanted[PATCH][0] // patch_size**2
    # Unexpected arrays are not converted here; the shape check below reports them.
    if PATCH_BIAS in arrays and _is_patch_kernel(arrays.get(PATCH), arrays[PATCH_BIAS]):
        kernel, arrays[PATCH_BIAS] = absorb(arrays[PATCH], arrays[PATCH_BIAS], pixels, channels)
        kernel = resize_patch_kernel(kernel, patch_size)
        arrays[PATCH] = kernel.reshape(-1, kernel.shape[-1])
    if POSITION in arrays and arrays[POSITION].ndim == 3:
        position = arrays[POSITION]
        rows = position.shape[-2]
        if CLASS in arrays and CLASS in wanted and math.isqrt(rows) ** 2 == rows:
            # Some files (DeiT III) have no position for the class token.
            position = np.concatenate([np.zeros_like(position[:, :1]), position], 1)
        arrays[POSITION] = resize_positions(position, grid, int(CLASS in wanted))
    troubles, fitted = [], {}
    for name, shape in wanted.items():
        if name not in arrays:
            troubles.append(f"{name} is missing{_remedy(name, False)}")
            continue
        array = arrays[name]
        # timm's files concatenate heads: any number of heads that divides the width fits.
        if (
            array.size == math.prod(shape)
            and name.startswith("blocks.")
            and array.ndim < len(shape)
        ):
            array = array.reshape(shape)
        if array.shape != shape:
            troubles.append(f"{encoder.origin[name]} is {list(array.shape)}, ours {list(shape)}")
        elif not np.isfinite(array).all():
            troubles.append(f"{encoder.origin[name]} has values that are not finite")
        fitted[name] = array
    left = [name for name in arrays if name not in wanted]
    deeper = [
        name for name in left if name.startswith("blocks.") and _layer(name) >= _depth(wanted)
    ]
    if deeper:
        depth = 1 + max(_layer(name) for name in deeper)
        troubles.insert(0, f"it has {depth} layers: --config.model.vit.depth={depth}")
    for name in sorted(set(left) - set(deeper)):
        troubles.append(f"{encoder.origin[name]} has no counterpart here{_remedy(name, True)}")
    width, ours = arrays.get(PATCH_BIAS, np.empty(0)).shape[-1], wanted[PATCH_BIAS][0]
    if width != ours:  # the cause of all other mismatches
        name = encoder.origin.get(PATCH_BIAS, PATCH_BIAS)
        troubles.insert(0, f"{name} is {width} wide, ours {ours}: --config.model.vit.width={width}")
    if troubles:
        more = f" (and {len(troubles) - 3} more)" if len(troubles) > 3 else ""
        raise UserError(f"{'; '.join(troubles[:3])}{more}")
    return _nested(fitted, like)


def _is_patch_kernel(kernel: np.ndarray | None, bias: np.ndarray) -> bool:
    """Returns whether the shapes are [P, P, 3, D] and [D]."""
    if kernel is None or kernel.ndim != 4:
        return False
    return kernel.shape[0] == kernel.shape[1] and kernel.shape[2:] == (3, *bias.shape)


def _remedy(name: str, there: bool) -> str:
    """Returns the option that adds or removes an array of ours, as text; '' if none does."""
    options = {".qkv.bias": "qkv_bias", "norm.scale": "final_norm", "norm.bias": "final_norm"}
    options |= {CLASS: "class_token"}
    for ending, option in options.items():
        if name.endswith(ending):
            return f": --config.model.vit.{option}={there}"
    return ""


def _layer(name: str) -> int:
    part = name.split(".")[1]
    return int(part) if part.isdigit() else -1


def _depth(wanted: Mapping[str, Any]) -> int:
    return 1 + max(_layer(name) for name in wanted if name.startswith("blocks."))


def _flat_shapes(like: Any) -> dict[str, tuple[int, ...]]:
    """Returns shapes by name, with our scanned layers as separate entries."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        keys = [entry.key for entry in path]
        if keys[0] == "blocks":
            for i in range(leaf.shape[0]):
                shapes[".".join(["blocks", str(i), *keys[1:]])] = tuple(leaf.shape[1:])
        else:
            shapes[".".join(keys)] = tuple(leaf.shape)
    return shapes


def _nested(arrays: Arrays, like: Any) -> Any:
    def leaf(path, shape):
        keys = [entry.key for entry in path]
        if keys[0] != "blocks":
            return np.ascontiguousarray(arrays[".".join(keys)])
        names = (".".join(["blocks", str(i), *keys[1:]]) for i in range(shape.shape[0]))
        return np.stack([arrays[name] for name in names])

    return jax.tree_util.tree_map_with_path(leaf, like)


def load_encoder(
    like: Any,
    arrays: Mapping[str, np.ndarray],
    grid: tuple[int, int],
    patch_size: int,
    pixels: str,
) -> Any:
    """Returns the encoder's parameters, shaped as `like`, from a file's arrays by name."""
    return fit_encoder(read_encoder(arrays), like, grid, patch_size, pixels)
