"""Names of pretrained Vision Transformers and their descriptions, for `model.features`.

Shapes must be known before a file is read: a step is compiled ahead, and a run resumed, without it.
"""

import dataclasses
import functools

from vtadl_jax.networks.frozen_vit import Vit

_SIZES = {  # width, depth
    "tiny": (192, 12),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
}
_LETTERS = {"s": "small", "b": "base", "l": "large"}


def _vit(size: str, patch: int, **variant) -> Vit:
    width, depth = _SIZES[size]
    return Vit(**{"patch": patch, "width": width, "depth": depth, "mlp_dim": 4 * width, **variant})


def _dinov2() -> dict[str, Vit]:
    make = functools.partial(_vit, patch=14, layer_scale=True)
    found = {f"dinov2_vit{letter}14": make(size) for letter, size in _LETTERS.items()}
    found["dinov2_vitg14"] = make("large", width=1536, depth=40, mlp_dim=4096, swiglu=True)
    plain = {name: dataclasses.replace(vit, resize="offset") for name, vit in found.items()}
    return plain | {
        f"{name}_reg": dataclasses.replace(vit, registers=4) for name, vit in found.items()
    }


def _dinov3() -> dict[str, Vit]:
    make = functools.partial(
        _vit, patch=16, layer_scale=True, registers=4, rope=True, norm_epsilon=1e-5
    )
    found = {f"dinov3_vit{letter}16": make(size) for letter, size in _LETTERS.items()}
    found["dinov3_vits16plus"] = make("small", mlp_dim=1536, swiglu=True)
    found["dinov3_vith16plus"] = make("large", width=1280, depth=32, mlp_dim=5120, swiglu=True)
    return found


VITS: dict[str, Vit] = {
    **_dinov2(),
    **_dinov3(),
    "dino_vits16": _vit("small", 16, resize="offset"),
    "dino_vits8": _vit("small", 8, resize="offset"),
    "dino_vitb16": _vit("base", 16, resize="offset"),
    "dino_vitb8": _vit("base", 8, resize="offset"),
    "mae_vit_base_patch16": _vit("base", 16, resize="plain"),
    "mae_vit_large_patch16": _vit("large", 16, resize="plain"),
    "mae_vit_huge_patch14": _vit(
        "large", 14, width=1280, depth=32, mlp_dim=5120, num_heads=16, resize="plain"
    ),
    "vit_tiny_patch16": _vit("tiny", 16, pixels="unit"),
    "vit_small_patch16": _vit("small", 16, pixels="unit"),
    "vit_small_patch32": _vit("small", 32, pixels="unit"),
    "vit_base_patch8": _vit("base", 8, pixels="unit"),
    "vit_base_patch16": _vit("base", 16, pixels="unit"),
    "vit_base_patch32": _vit("base", 32, pixels="unit"),
    "vit_large_patch16": _vit("large", 16, pixels="unit"),
    "deit_tiny_patch16": _vit("tiny", 16),
    "deit_small_patch16": _vit("small", 16),
    "deit_base_patch16": _vit("base", 16),
}


def names_like(vit: Vit) -> list[str]:
    """Returns the names whose files have this structure."""
    return [name for name, known in VITS.items() if known.structure == vit.structure]
