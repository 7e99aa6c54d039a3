"""Reads Vision Transformers from the files of four programs, for `frozen_vit_load.py`.

Meta's (torch.hub), Hugging Face's and timm's state dicts, and Google's `.npz`. Names are translated
to timm's, which `vit_weights.read_encoder` knows beside Google's. A file says what it holds: sizes
and variants are read from its arrays.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.frozen_vit import Vit
from vtadl_jax.networks.vit_weights import Encoder, read_encoder
from vtadl_jax.runtime.console import say

Arrays = dict[str, np.ndarray]
_PATCH = re.compile(r"(patch_embed\.proj|embeddings\.patch_embeddings(\.projection)?)\.weight$")
_RULES = (  # Hugging Face's and Meta's names → timm's
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(register_tokens|storage_tokens)$", "reg_token"),
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # chunks of blocks in Meta's training files
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(layer_scale|gamma_)([12])(\.lambda1)?$", r".ls\2.gamma"),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attn\.q_bias$", ".attn.query.bias"),
    (r"\.attn\.v_bias$", ".attn.value.bias"),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.(w12|weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(w1|gate_proj|fc1_g)\.", ".mlp.gate."),
    (r"\.mlp\.(w2|up_proj|fc1_x)\.", ".mlp.value."),
    (r"\.mlp\.(w3|weights_out|down_proj)\.", ".mlp.fc2."),
)
# Not of the encoder: heads, decoders, what is read only in the authors' training.
_ASIDE = re.compile(
    r"^(mask_token|decoder.*|pooler\..*|(dino_|ibot_)?head.*|classifier\..*|fc_norm\..*|local_cls_norm\..*|"
    r"pre_logits\..*)$|\.bias_mask$|^rope(_embed)?\."
)
_PERIODS = "rope_embed.periods"
REGISTERS = "reg_token"


@dataclasses.dataclass(frozen=True)
class Found:
    """A file's encoder: under our names (`vit_weights.Encoder`), what it is, and who wrote it."""

    encoder: Encoder
    vit: Vit
    periods: np.ndarray | None
    program: str  # 'google', 'meta', 'timm' or 'huggingface'


def read_file(arrays: Mapping[str, np.ndarray]) -> Found:
    """Returns the encoder in a file's arrays. Raises UserError if there is none, or several."""
    arrays = {n: _number(a) for n, a in arrays.items() if a.dtype.kind in "fVbiu"}
    if any("encoderblock" in name for name in arrays):
        encoder = read_encoder(arrays)
        return Found(encoder, _described(encoder, False), None, "google")
    renamed, origin, program, periods = _translated(arrays)
    encoder = read_encoder(renamed)
    ours = {new: origin.get(old, old) for new, old in encoder.origin.items()}
    encoder = Encoder(encoder.arrays, ours)
    return Found(encoder, _described(encoder, "blocks.0.ls1.gamma" in renamed), periods, program)


def timm_names(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns the encoder of Meta's, Hugging Face's or timm's state dict under timm's names.

    Raises UserError if there is none, or several.
    """
    return _translated({n: _number(a) for n, a in arrays.items() if a.dtype.kind in "fVbiu"})[0]


def _translated(arrays: Arrays) -> tuple[Arrays, dict[str, str], str, np.ndarray | None]:
    """Returns the encoder under timm's names, their names in the file, who wrote it, and RoPE's
    periods; says what is left out."""
    prefix = _prefix_of(arrays)
    inside = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    renamed, origin = {}, {}
    for old, array in inside.items():
        new = old
        for pattern, replacement in _RULES:
            new = re.sub(pattern, replacement, new)
        renamed[new], origin[new] = array, prefix + old
    program = _program_of(inside, renamed)
    aside = [n for n in renamed if _ASIDE.search(n)]
    left = [n for n in arrays if not n.startswith(prefix)] + [origin[n] for n in aside]
    if left:
        _say_once(
            f"note: arrays that the encoder does not use are left out ({len(left)}): "
            f"{', '.join(left[:3])}{', …' if len(left) > 3 else ''}"
        )
    periods = renamed.get(_PERIODS)
    for unused in aside:
        del renamed[unused]
    _join(renamed, origin)
    return renamed, origin, program, periods


@functools.cache
def _say_once(text: str) -> None:
    """Prints a line; a run reads its file twice, to check it and to load it."""
    say(text)


def _number(array: np.ndarray) -> np.ndarray:
    """Returns float32 for half precisions, others as they are."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _prefix_of(arrays: Arrays) -> str:
    """Returns what precedes the encoder's names, as 'module.backbone.'; a teacher's if there is
    one, which is the network that DINO and its successors keep."""
    found = [_PATCH.sub("", name) for name in arrays if _PATCH.search(name)]
    found = [p for p in found if "decoder" not in p]
    teachers = [p for p in found if "teacher" in p]
    if len(teachers) == 1 or len(found) == 1:
        return (teachers or found)[0]
    if not found:
        raise UserError(
            "holds no Vision Transformer: no array is named patch_embed.proj.weight, "
            "embeddings.patch_embeddings.projection.weight or Transformer/encoderblock_0/…"
        )
    raise UserError(
        f"holds {len(found)} encoders ({', '.join(repr(p) for p in found[:3])}): save one of them"
    )


def _program_of(inside: Arrays, renamed: Arrays) -> str:
    if any(name.startswith("embeddings.") for name in inside):
        return "huggingface"
    scaled = "blocks.0.ls1.gamma" in renamed
    if "reg_token" in inside or (scaled and "mask_token" not in inside):
        return "timm"  # which does not keep the token that masks patches in training
    return "meta"


def _join(arrays: Arrays, origin: dict[str, str]) -> None:
    """Joins query, key and value, and the two halves of a gated MLP, in place.

    A key has no bias if query and value have one: softmax does not depend on it, and DINOv3 keeps
    it at zero.
    """

    def join(parts: list[str], whole: str) -> None:
        arrays[whole] = np.concatenate([arrays.pop(part) for part in parts])
        origin[whole] = origin[parts[0]]

    for name in [n for n in arrays if n.endswith(".attn.value.bias")]:
        key = name.replace(".value.", ".key.")
        if key not in arrays:
            arrays[key], origin[key] = np.zeros_like(arrays[name]), origin[name]
    for name in [n for n in arrays if ".attn.query." in n]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in arrays for part in parts):
            join(parts, name.replace(".query.", ".qkv."))
    for name in [n for n in arrays if ".mlp.value." in n]:
        gate = name.replace(".value.", ".gate.")
        if gate in arrays:
            join([gate, name], name.replace(".value.", ".fc1."))
        else:  # Hugging Face's name of the first layer of an MLP without a gate
            join([name], name.replace(".value.", ".fc1."))


def _described(encoder: Encoder, scaled: bool) -> Vit:
    """Returns the description of a file's arrays. Raises UserError if they are of no encoder."""
    arrays = encoder.arrays
    patch = arrays.get("patch_embedding.kernel", np.empty(0))
    first, second = (arrays.get(f"blocks.0.{n}.kernel", np.empty(0)) for n in ("mlp_in", "mlp_out"))
    if patch.ndim != 4 or first.ndim != 2 or second.ndim != 2:
        raise UserError(
            "holds no whole Vision Transformer: patch embedding or first block are missing or have "
            "other shapes: give the whole state dict"
        )
    numbers = [int(n.split(".")[1]) for n in arrays if re.match(r"blocks\.\d+\.", n)]
    return Vit(
        patch=patch.shape[0],
        width=patch.shape[-1],
        depth=max(numbers) + 1,
        mlp_dim=second.shape[0],
        registers=arrays[REGISTERS].shape[-2] if REGISTERS in arrays else 0,
        class_token="class_token" in arrays,
        layer_scale=scaled,
        swiglu=first.shape[1] == 2 * second.shape[0],
        rope="position_embedding" not in arrays,
    )
