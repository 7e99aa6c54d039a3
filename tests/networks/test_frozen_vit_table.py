"""Names of frozen Vision Transformers: recognized in files, and those of the reference program."""

import numpy as np
import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import FeatureOptions, make_features
from vtadl_jax.networks.frozen_vit import PIXELS
from vtadl_jax.networks.frozen_vit_files import read_file
from vtadl_jax.networks.frozen_vit_table import VITS

NAMES = ("small", "base", "large")


def hollow(vit, depth=None):
    """A file with the shapes of an encoder, in no memory."""
    width = vit.width
    shapes = {"cls_token": (1, 1, width), "mask_token": (1, width), "norm.weight": (width,)}
    shapes |= {"norm.bias": (width,), "patch_embed.proj.bias": (width,)}
    shapes["patch_embed.proj.weight"] = (width, 3, vit.patch, vit.patch)
    if not vit.rope:
        shapes["pos_embed"] = (1, 1 + 37**2, width)
    if vit.registers:
        shapes["register_tokens"] = (1, vit.registers, width)
    fc1 = vit.mlp_dim * (2 if vit.swiglu else 1)
    for i in (0, (depth or vit.depth) - 1):
        root = f"blocks.{i}."
        for name, inputs, outputs in (
            ("attn.qkv", width, 3 * width), ("attn.proj", width, width),
            ("mlp.fc1", width, fc1), ("mlp.fc2", vit.mlp_dim, width),
        ):  # fmt: skip
            shapes |= {f"{root}{name}.weight": (outputs, inputs), f"{root}{name}.bias": (outputs,)}
        if vit.layer_scale:
            shapes |= {f"{root}ls1.gamma": (width,), f"{root}ls2.gamma": (width,)}
    return {n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()}


@pytest.mark.parametrize("name", [n for n, vit in VITS.items() if vit.width <= 768])
def test_a_named_encoder_is_recognized_in_its_file(name):
    assert read_file(hollow(VITS[name])).vit.structure == VITS[name].structure


TIMM = {
    "dinov2_vitg14": "vit_giant_patch14_dinov2",
    "dinov2_vitg14_reg": "vit_giant_patch14_reg4_dinov2",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3_qkvb",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3_qkvb",
    **{f"dinov2_vit{a}14": f"vit_{b}_patch14_dinov2" for a, b in zip("sbl", NAMES, strict=True)},
    **{
        f"dinov2_vit{a}14_reg": f"vit_{b}_patch14_reg4_dinov2"
        for a, b in zip("sbl", NAMES, strict=True)
    },
    **{
        f"dinov3_vit{a}16": f"vit_{b}_patch16_dinov3_qkvb"
        for a, b in zip("sbl", NAMES, strict=True)
    },
    "dino_vits16": "vit_small_patch16_224",
    "dino_vits8": "vit_small_patch8_224",
    "dino_vitb16": "vit_base_patch16_224",
    "dino_vitb8": "vit_base_patch8_224",
    "mae_vit_huge_patch14": "vit_huge_patch14_224",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VITS)
def test_a_named_encoder_is_timms(name):
    for package in ("torch", "timm"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra bench)")
    import timm
    import torch

    other = TIMM.get(name, f"{name.removeprefix('mae_')}_224")
    with torch.device("meta"):
        model = timm.create_model(other, num_classes=0)
    vit, last = VITS[name], f"blocks.{VITS[name].depth - 1}."
    arrays = {
        n: np.broadcast_to(np.float32(0), tuple(value.shape))
        for n, value in model.state_dict().items()
        if not n.startswith("blocks.") or n.startswith(("blocks.0.", last))
    }
    assert read_file(arrays).vit.structure == vit.structure
    assert len(model.blocks) == vit.depth
    assert model.blocks[0].attn.num_heads == vit.heads
    assert model.norm.eps == vit.norm_epsilon
    if vit.prefix == 1:
        pixels = model.default_cfg["mean"], model.default_cfg["std"]
        assert name.startswith(("dino_", "mae_")) or pixels == PIXELS[vit.pixels]


def test_another_encoders_file_names_the_one_that_fits():
    def refused(name, file):
        features = make_features(FeatureOptions(features=name), 9, (112, 112), 3)
        with pytest.raises(UserError) as caught:
            features.load(file)
        return str(caught.value)

    text = refused("dinov2_vits14_reg", hollow(VITS["dinov2_vits14"]))
    assert text.endswith("use --config.model.features=dinov2_vits14")
    assert "'dinov2_vits14_reg' is patch 14, width 384, depth 12, MLP 1536, 4 registers" in text
    text = refused("dino_vits16", hollow(VITS["mae_vit_base_patch16"]))
    assert "features=dino_vitb16 or --config.model.features=mae_vit_base_patch16" in text
    text = refused("dino_vits16", hollow(VITS["dino_vits16"], depth=7))
    assert text.endswith("no known encoder is like that")
