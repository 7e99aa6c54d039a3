"""Runs the encoders of `encoder_files.py` in the programs that made their files (extra `bench`).

python -m tests.networks.encoder_references

writes their features to golden/encoders.npz, which tests read without those programs.
"""

from pathlib import Path

import numpy as np

from tests.networks import resnet_files
from tests.networks.encoder_files import (
    CASES,
    DEPTH,
    HEADS,
    MLP,
    PATCH,
    READ,
    SIDE,
    SIZES,
    WIDTH,
    Case,
    arrays_of,
    images_of,
    meta_arrays,
    timm_arrays,
)
from vtadl_jax.networks.frozen_resnet import Resnet
from vtadl_jax.networks.frozen_vit import PIXELS
from vtadl_jax.networks.resample import RESIZES

AXES = [(kind, *sizes) for kind in RESIZES for sizes in ((7, 12), (7, 4), (7, 16))]
RESNET_SIZES = ((32, 32), (16, 48))
CHANNELS = 16  # every so many channels of a ResNet's features are kept
GOLDEN = Path(__file__).parent / "golden" / "encoders.npz"


def features(case: Case, images: np.ndarray) -> np.ndarray:
    """Patch tokens of the blocks `READ` after the final norm, concatenated: [B, h, w, D]."""
    import torch

    pixels = _pixels(images, case.vit.pixels)
    rows, columns = (side // PATCH for side in images.shape[1:3])
    with torch.no_grad():
        run = _huggingface if case.program == "huggingface" else _timm
        blocks = run(case, pixels)
    found = torch.cat([tokens[:, case.vit.prefix :] for tokens in blocks], -1)
    return found.reshape(len(images), rows, columns, -1).numpy()


def _pixels(images: np.ndarray, kind: str):
    """Standardized pixels [B, C, H, W] as a tensor."""
    import torch

    mean, deviation = PIXELS[kind]
    pixels = (images / 255 - np.array(mean)) / np.array(deviation)
    return torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)


def _tensors(arrays):
    import torch

    return {name: torch.tensor(array) for name, array in arrays.items()}


def _huggingface(case: Case, pixels):
    """Returns the normed tokens of the blocks, by transformers."""
    import transformers

    vit = case.vit
    options = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIDE * PATCH,
        "patch_size": PATCH,
        "layer_norm_eps": vit.norm_epsilon,
        "attn_implementation": "eager",
    }
    arguments = {}
    if vit.rope:
        config = transformers.DINOv3ViTConfig(
            **options,
            intermediate_size=MLP,
            num_register_tokens=4,
            use_gated_mlp=vit.swiglu,
            hidden_act="silu" if vit.swiglu else "gelu",
        )
        model = transformers.DINOv3ViTModel(config)
    elif vit.layer_scale:
        kind = "Dinov2WithRegisters" if vit.registers else "Dinov2"
        # SwiGLU's hidden width is 2/3 of this ratio's, rounded up to a multiple of 8.
        ratio = MLP * (3 if vit.swiglu else 2) // (2 * WIDTH)
        if vit.registers:
            options["num_register_tokens"] = 4
        config = getattr(transformers, f"{kind}Config")(
            **options, mlp_ratio=ratio, use_swiglu_ffn=vit.swiglu, use_mask_token=False
        )
        model = getattr(transformers, f"{kind}Model")(config)
    elif vit.resize == "plain":
        config = transformers.ViTMAEConfig(**options, intermediate_size=MLP, mask_ratio=0.0)
        model = transformers.ViTMAEModel(config)
        import torch

        count = pixels.shape[2] * pixels.shape[3] // PATCH**2
        # Keeps all patches, in their order.
        arguments = {"noise": torch.arange(count)[None] / count, "interpolate_pos_encoding": True}
    else:
        config = transformers.ViTConfig(**options, intermediate_size=MLP)
        model = transformers.ViTModel(config, add_pooling_layer=False)
        arguments = {"interpolate_pos_encoding": True}
    missing, left = model.load_state_dict(_tensors(arrays_of(case, modules=True)), strict=False)
    assert not left, left
    assert all("mask_token" in name for name in missing), missing
    hidden = model.eval()(pixels, output_hidden_states=True, **arguments).hidden_states
    norm = model.norm if vit.rope else model.layernorm
    return [norm(hidden[i + 1]) for i in READ]


def _timm(case: Case, pixels):
    """Returns the normed tokens of the blocks, by timm.

    Of Meta's programs, which no package holds, timm has the network; the position table is resized
    here with the call that Meta's programs make.
    """
    import timm
    import torch
    from timm.models.vision_transformer import VisionTransformer

    vit = case.vit
    arrays = meta_arrays(vit)
    size = (pixels.shape[2], pixels.shape[3])
    if case.program == "meta" and not vit.rope:
        arrays["pos_embed"] = _resized(arrays["pos_embed"], size, vit.resize)
    arrays.pop("mask_token")
    options = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    if vit.rope:
        model = timm.create_model(
            f"vit_small_{'plus_' if vit.swiglu else ''}patch16_dinov3_qkvb",
            **options, img_size=size, mlp_ratio=MLP / WIDTH,
        )  # fmt: skip
    else:
        model = VisionTransformer(
            **options,
            img_size=size if case.program == "meta" else SIDE * PATCH,
            dynamic_img_size=case.program != "meta",
            mlp_ratio=(2 if vit.swiglu else 1) * MLP / WIDTH,
            init_values=1.0 if vit.layer_scale else None,
            reg_tokens=vit.registers,
            no_embed_class=vit.registers > 0,
            num_classes=0,
            global_pool="token",
            **({"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU} if vit.swiglu
               else {}),
        )  # fmt: skip
    model.load_state_dict(_tensors(timm_arrays(arrays, vit)), strict=True)
    outputs = model.eval().forward_intermediates(
        pixels, indices=list(READ), return_prefix_tokens=True, norm=True, output_fmt="NLC",
        intermediates_only=True,
    )  # fmt: skip
    return [torch.cat([prefix, patches], 1) for patches, prefix in outputs]


def _resized(table: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    """Resizes a table [1, 1 + n·n, D] with PyTorch, as DINO's, DINOv2's and MAE's programs do."""
    import torch

    grid = tuple(side // PATCH for side in size)
    if grid == (SIDE, SIDE):
        return table
    image = torch.tensor(table[:, 1:]).reshape(1, SIDE, SIDE, -1).permute(0, 3, 1, 2)
    resize = torch.nn.functional.interpolate
    if kind == "offset":
        factors = tuple((n + 0.1) / SIDE for n in grid)
        image = resize(image, scale_factor=factors, mode="bicubic")
    else:
        image = resize(image, size=grid, mode="bicubic", antialias=kind == "antialias")
    rows = image.permute(0, 2, 3, 1).reshape(1, -1, table.shape[-1]).numpy()
    return np.concatenate([table[:, :1], rows], 1)


def bicubic(old: int, new: int, kind: str) -> np.ndarray:
    """Returns PyTorch's matrix [new, old] of bicubic resampling along one axis."""
    import torch

    image = torch.eye(old, dtype=torch.float64)[None, :, :, None].expand(-1, -1, -1, old)
    resize = torch.nn.functional.interpolate
    if kind == "offset":
        factors = ((new + 0.1) / old, (old + 0.1) / old)
        found = resize(image, scale_factor=factors, mode="bicubic")
    else:
        found = resize(image, (new, old), mode="bicubic", antialias=kind == "antialias")
    return found[0, :, :, old // 2].numpy().T


def resnet_features(resnet: Resnet, images: np.ndarray, arrays=None) -> np.ndarray:
    """PatchCore's features of a small network, by torchvision: [B, H / 8, W / 8, D]."""
    import torch
    from torchvision.models import resnet as torchvision

    functional = torch.nn.functional
    block = torchvision.Bottleneck if resnet.bottleneck else torchvision.BasicBlock
    model = torchvision.ResNet(block, [*resnet.blocks, 1], width_per_group=resnet.inner)
    arrays = resnet_files.state_dict(resnet) if arrays is None else arrays
    arrays = {n: a for n, a in arrays.items() if not n.startswith(("fc", "layer4"))}
    missing, left = model.load_state_dict(_tensors(arrays), strict=False)
    assert not left, left
    assert all(name.startswith(("fc", "layer4")) for name in missing), missing
    model.eval()
    with torch.no_grad():
        x = _pixels(images, "imagenet")
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        fine = model.layer2(model.layer1(x))
        coarse = functional.avg_pool2d(model.layer3(fine), 3, 1, 1)
        fine = functional.avg_pool2d(fine, 3, 1, 1)
        coarse = functional.interpolate(coarse, fine.shape[-2:], mode="bilinear")
        return torch.cat([fine, coarse], 1).permute(0, 2, 3, 1).numpy()


def efficientnet_levels(name: str, images: np.ndarray, arrays) -> list[np.ndarray]:
    """The outputs of strides 4, 8 and 16 by timm, [B, h, w, D]; arrays: under timm's names."""
    import timm
    import torch

    model = timm.create_model(f"tf_{name}", features_only=True, out_indices=(1, 2, 3))
    missing, _ = model.load_state_dict(_tensors(arrays), strict=False)
    assert all(name.startswith(("blocks.5", "blocks.6")) for name in missing), missing
    with torch.no_grad():
        x = torch.tensor((images.transpose(0, 3, 1, 2) - np.float32(127)) / np.float32(128))
        return [level.permute(0, 2, 3, 1).numpy() for level in model.eval()(x)]


def main() -> None:
    found = {f"bicubic/{kind}/{old}/{new}": bicubic(old, new, kind) for kind, old, new in AXES}
    for name, case in CASES.items():
        for i, size in enumerate(SIZES):
            found[f"{name}/{i}"] = features(case, images_of(size))
    for name, resnet in resnet_files.SMALL.items():
        for i, size in enumerate(RESNET_SIZES):
            few = resnet_features(resnet, images_of(size))[..., ::CHANNELS]
            found[f"resnet_{name}/{i}"] = few
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **found)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes, {len(found)} arrays")


if __name__ == "__main__":
    main()
