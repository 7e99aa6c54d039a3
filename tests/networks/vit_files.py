"""Weights of a small ViT as timm and Google name them, and its forward pass in numpy."""

import math

import numpy as np

WIDTH, DEPTH, HEADS, MLP, PATCH, GRID = 16, 2, 4, 24, 4, 5
OPTIONS = {"qkv_bias": True, "final_norm": True, "norm_epsilon": 1e-6}


def timm_arrays(seed=0, patch=PATCH, grid=GRID):
    """Returns a random ViT state dict under timm's names."""
    rng = np.random.default_rng(seed)
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, grid**2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, patch, patch),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    for i in range(DEPTH):
        for name, (rows, columns) in {
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "mlp.fc1": (MLP, WIDTH),
            "mlp.fc2": (WIDTH, MLP),
        }.items():
            shapes[f"blocks.{i}.{name}.weight"] = (rows, columns)
            shapes[f"blocks.{i}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{name}.weight"] = shapes[f"blocks.{i}.{name}.bias"] = (WIDTH,)
    return {n: 0.3 * rng.standard_normal(shape, np.float32) for n, shape in shapes.items()}


def google_arrays(timm, stacked=False, prefix="", depth=DEPTH):
    """Converts it to Google's layout; stacked: one layer axis, and the newer numbering of parts."""
    head = (HEADS, WIDTH // HEADS)
    arrays = {
        "cls": timm["cls_token"],
        "Transformer/posembed_input/pos_embedding": timm["pos_embed"],
        "embedding/kernel": timm["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": timm["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": timm["norm.weight"],
        "Transformer/encoder_norm/bias": timm["norm.bias"],
        "head/kernel": timm["head.weight"].T,
        "head/bias": timm["head.bias"],
        "pre_logits/bias": timm["head.bias"],
    }
    layers = []
    for i in range(depth):
        attention, mlp = "MultiHeadDotProductAttention_1", "MlpBlock_3"
        layer = {}
        part = {n.removeprefix(f"blocks.{i}."): a for n, a in timm.items() if f"blocks.{i}." in n}
        for name, weight, bias in zip(
            ("query", "key", "value"),
            np.split(part["attn.qkv.weight"], 3),
            np.split(part["attn.qkv.bias"], 3),
            strict=True,
        ):
            layer[f"{attention}/{name}/kernel"] = weight.T.reshape(WIDTH, *head)
            layer[f"{attention}/{name}/bias"] = bias.reshape(head)
        layer[f"{attention}/out/kernel"] = part["attn.proj.weight"].T.reshape(*head, WIDTH)
        layer[f"{attention}/out/bias"] = part["attn.proj.bias"]
        for ours, theirs in (("Dense_0", "mlp.fc1"), ("Dense_1", "mlp.fc2")):
            layer[f"{mlp}/{ours}/kernel"] = part[f"{theirs}.weight"].T
            layer[f"{mlp}/{ours}/bias"] = part[f"{theirs}.bias"]
        for ours, theirs in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            layer[f"{ours}/scale"] = part[f"{theirs}.weight"]
            layer[f"{ours}/bias"] = part[f"{theirs}.bias"]
        layers.append(layer)
    if stacked:
        renamed = {"Attention_1": "Attention_0", "MlpBlock_3": "MlpBlock_0", "Norm_2": "Norm_1"}
        for name in layers[0]:
            new = name
            for old, number in renamed.items():
                new = new.replace(old, number)
            arrays[f"Transformer/encoderblock/{new}"] = np.stack([layer[name] for layer in layers])
        arrays["pos_embedding"] = arrays.pop("Transformer/posembed_input/pos_embedding")
    else:
        for i, layer in enumerate(layers):
            arrays |= {f"Transformer/encoderblock_{i}/{n}": a for n, a in layer.items()}
    return {prefix + name: array for name, array in arrays.items()}


def reference(arrays, images):
    """Runs timm's forward pass in numpy, float64. images: [B, H, W, 3]. Returns patch tokens."""
    a = {name: np.float64(array) for name, array in arrays.items()}
    erf = np.vectorize(math.erf)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * a[f"{name}.weight"] + a[f"{name}.bias"]

    def linear(x, name):
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    kernel = a["patch_embed.proj.weight"]
    patch, (batch, height, width, _) = kernel.shape[-1], images.shape
    cut = images.reshape(batch, height // patch, patch, width // patch, patch, 3)
    x = np.einsum("bipjqc,dcpq->bijd", cut, kernel).reshape(batch, -1, WIDTH)
    x = x + a["patch_embed.proj.bias"]
    x = np.concatenate([np.repeat(a["cls_token"], batch, 0), x], 1) + a["pos_embed"]
    for i in range(DEPTH):
        root = f"blocks.{i}"
        qkv = linear(norm(x, f"{root}.norm1"), f"{root}.attn.qkv")
        q, k, v = qkv.reshape(batch, -1, 3, HEADS, WIDTH // HEADS).transpose(2, 0, 3, 1, 4)
        logits = q @ k.swapaxes(-1, -2) / math.sqrt(WIDTH // HEADS)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{root}.attn.proj")
        h = linear(norm(x, f"{root}.norm2"), f"{root}.mlp.fc1")
        x = x + linear(h * 0.5 * (1 + erf(h / math.sqrt(2))), f"{root}.mlp.fc2")
    return norm(x, "norm")[:, 1:]
