"""Small encoders with random weights, as files of four programs; numpy only, the same everywhere.

`META` names are those of torch.hub's DINOv2; others are translated from them, by rules that are not
those of the loader. `tests/networks/encoder_references.py` runs the programs on them.
"""

import dataclasses
import re

import numpy as np

from tests.networks.vit_files import google_arrays
from vtadl_jax.networks.frozen_vit import Vit

PATCH, WIDTH, DEPTH, HEADS, MLP, SIDE = 4, 16, 3, 2, 32, 5
READ = (0, 2)  # blocks
SIZES = ((SIDE * PATCH, SIDE * PATCH), (3 * PATCH, 7 * PATCH))  # the table's own grid, and another
_SMALL = {"num_heads": HEADS}


def small(**variant) -> Vit:
    return Vit(PATCH, WIDTH, DEPTH, MLP, **{**_SMALL, **variant})


@dataclasses.dataclass(frozen=True)
class Case:
    """An encoder and the program whose names its file has."""

    vit: Vit
    program: str  # 'meta', 'huggingface', 'timm' or 'google'


_V2, _V3 = {"layer_scale": True}, {"layer_scale": True, "registers": 4, "rope": True}
CASES = {
    "dino": Case(small(resize="offset"), "meta"),
    "dino_huggingface": Case(small(resize="offset"), "huggingface"),
    "dinov2": Case(small(**_V2, resize="offset"), "meta"),
    "dinov2_huggingface": Case(small(**_V2, resize="offset"), "huggingface"),
    "dinov2_timm": Case(small(**_V2, resize="offset"), "timm"),
    "dinov2_reg": Case(small(**_V2, registers=4), "meta"),
    "dinov2_reg_huggingface": Case(small(**_V2, registers=4), "huggingface"),
    "dinov2_reg_timm": Case(small(**_V2, registers=4), "timm"),
    "dinov2_swiglu": Case(small(**_V2, swiglu=True, resize="offset"), "meta"),
    "dinov2_swiglu_huggingface": Case(small(**_V2, swiglu=True, resize="offset"), "huggingface"),
    "dinov3": Case(small(**_V3, norm_epsilon=1e-5), "meta"),
    "dinov3_huggingface": Case(small(**_V3, norm_epsilon=1e-5), "huggingface"),
    "dinov3_timm": Case(small(**_V3, norm_epsilon=1e-5), "timm"),
    "dinov3_swiglu": Case(small(**_V3, swiglu=True, norm_epsilon=1e-5), "meta"),
    "dinov3_swiglu_huggingface": Case(small(**_V3, swiglu=True, norm_epsilon=1e-5), "huggingface"),
    "dinov3_swiglu_timm": Case(small(**_V3, swiglu=True, norm_epsilon=1e-5), "timm"),
    "vit": Case(small(pixels="unit"), "timm"),
    "vit_google": Case(small(pixels="unit"), "google"),
    "mae": Case(small(resize="plain"), "meta"),
    "mae_huggingface": Case(small(resize="plain"), "huggingface"),
}


def images_of(size: tuple[int, int], channels: int = 3, seed: int = 1) -> np.ndarray:
    """One uint8 image [1, H, W, C]."""
    return np.random.default_rng(seed).integers(0, 256, (1, *size, channels)).astype(np.uint8)


def meta_arrays(vit: Vit, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of Meta's files."""
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=0.3, mean=0.0):
        return rng.normal(mean, scale, shape).astype(np.float32)

    arrays = {"cls_token": draw(1, 1, WIDTH), "mask_token": draw(1, WIDTH)}
    if not vit.rope:
        arrays["pos_embed"] = draw(1, 1 + SIDE**2, WIDTH)
    if vit.registers:
        name = "storage_tokens" if vit.rope else "register_tokens"
        arrays[name] = draw(1, vit.registers, WIDTH)
    arrays["patch_embed.proj.weight"] = draw(WIDTH, 3, PATCH, PATCH, scale=0.1)
    arrays["patch_embed.proj.bias"] = draw(WIDTH)
    layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    if not vit.swiglu:
        layers |= {"mlp.fc1": (MLP, WIDTH), "mlp.fc2": (WIDTH, MLP)}
    elif vit.rope:
        layers |= {f"mlp.w{i}": (MLP, WIDTH) for i in (1, 2)} | {"mlp.w3": (WIDTH, MLP)}
    else:
        layers |= {"mlp.w12": (2 * MLP, WIDTH), "mlp.w3": (WIDTH, MLP)}
    for root in (f"blocks.{i}." for i in range(DEPTH)):
        for norm in ("norm1", "norm2"):
            arrays[f"{root}{norm}.weight"] = draw(WIDTH, mean=1)
            arrays[f"{root}{norm}.bias"] = draw(WIDTH)
        for name, shape in layers.items():
            arrays[f"{root}{name}.weight"], arrays[f"{root}{name}.bias"] = (
                draw(*shape),
                draw(shape[0]),
            )
        if vit.rope:  # what the mask hides is not used
            mask = np.ones(3 * WIDTH, np.float32)
            mask[WIDTH : 2 * WIDTH] = 0
            arrays[f"{root}attn.qkv.bias_mask"] = mask
        if vit.layer_scale:
            arrays |= {f"{root}ls{i}.gamma": draw(WIDTH, mean=1) for i in (1, 2)}
    arrays["norm.weight"], arrays["norm.bias"] = draw(WIDTH, mean=1), draw(WIDTH)
    return arrays


def arrays_of(case: Case, seed: int = 0, modules: bool = False) -> dict[str, np.ndarray]:
    """The case's file. modules: under the names of today's modules of transformers."""
    arrays = meta_arrays(case.vit, seed)
    if case.program == "meta":
        return arrays
    del arrays["mask_token"]
    if case.program == "huggingface":
        return huggingface_arrays(arrays, case.vit, modules)
    if case.program == "timm":
        return timm_arrays(arrays, case.vit)
    head = {"head.weight": np.zeros((5, WIDTH), np.float32), "head.bias": np.zeros(5, np.float32)}
    return google_arrays(arrays | head, depth=DEPTH)


def timm_arrays(arrays, vit: Vit) -> dict[str, np.ndarray]:
    """timm's names: the class token of DINOv2 with registers holds its position, DINOv3's key has
    no bias."""
    arrays = {n: a for n, a in arrays.items() if not n.endswith("bias_mask")}
    if vit.rope:
        arrays["reg_token"] = arrays.pop("storage_tokens")
        for name in [n for n in arrays if n.endswith("qkv.bias")]:
            query, _, value = np.split(arrays.pop(name), 3)
            arrays[name.replace("qkv.bias", "q_bias")] = query
            arrays[name.replace("qkv.bias", "v_bias")] = value
    elif vit.registers:
        arrays["reg_token"] = arrays.pop("register_tokens")
        arrays["cls_token"] = arrays["cls_token"] + arrays["pos_embed"][:, :1]
        arrays["pos_embed"] = arrays["pos_embed"][:, 1:]
    rules = [("mlp.w12", "mlp.fc1"), ("mlp.w1.", "mlp.fc1_g."), ("mlp.w2", "mlp.fc1_x")]
    rules += [("mlp.w3", "mlp.fc2")]
    if vit.rope:
        rules += [("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")]
    return {_replaced(name, rules): array for name, array in arrays.items()}


def huggingface_arrays(arrays, vit: Vit, modules: bool) -> dict[str, np.ndarray]:
    """Hugging Face's names: of the published files, or of today's modules."""
    found = {}
    for name, array in arrays.items():
        if name.endswith("bias_mask"):
            continue
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", np.split(array, 3), strict=True):
                if not (vit.rope and part == "k" and name.endswith("bias")):
                    found[name.replace("qkv", part)] = piece
        elif ".mlp.w12." in name and modules:
            for part, piece in zip(("w1", "w2"), np.split(array, 2), strict=True):
                found[name.replace("w12", part)] = piece
        else:
            found[name] = array
    plain = not vit.layer_scale  # ViTModel's names, which differ from those of Dinov2Model
    rules = [
        ("storage_tokens", "embeddings.register_tokens"),
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        (
            "patch_embed.proj",
            "embeddings.patch_embeddings" + ("" if vit.rope else ".projection"),
        ),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
        ("mlp.w12", "mlp.weights_in"),
        ("mlp.w1.", "mlp.gate_proj."),
        ("mlp.w2", "mlp.up_proj"),
        ("mlp.w3", "mlp.down_proj" if vit.rope or modules else "mlp.weights_out"),
    ]
    if vit.rope:
        layer = "model.layer." if modules else "layer."
        rules += [("mlp.fc1", "mlp.up_proj"), ("mlp.fc2", "mlp.down_proj")]
    else:
        layer = "layers." if plain and modules else "encoder.layer."
    rules += [("blocks.", layer)]
    if plain:
        rules += [("norm1", "layernorm_before"), ("norm2", "layernorm_after")]
        if not modules:
            rules += [("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")]
    new = vit.rope or modules
    names = ("q_proj", "k_proj", "v_proj") if new else ("query", "key", "value")
    attention = "attention." if new else "attention.attention."
    rules += [(f"attn.{part}.", f"{attention}{n}.") for part, n in zip("qkv", names, strict=True)]
    rules += [("attn.proj", "attention.o_proj" if new else "attention.output.dense")]
    found = {_replaced(name, rules): array for name, array in found.items()}
    if not vit.rope:
        found = {re.sub(r"^norm\.", "layernorm.", name): array for name, array in found.items()}
        if "register_tokens" in found:
            found["embeddings.register_tokens"] = found.pop("register_tokens")
    return found


def _replaced(name: str, rules) -> str:
    for old, new in rules:
        name = name.replace(old, new)
    return name
