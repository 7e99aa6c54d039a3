"""A ConTNet's state dict with random weights, and the network from its definition; numpy only."""

import dataclasses

import numpy as np

from vtadl_jax.networks.contnet_layout import ContNet, blocks_of

SMALL = ContNet(8, (1, 1, 1, 1), (12, 16, 20, 24))
VARIANT = dataclasses.replace(SMALL, relative=True, pre_norm=True, average_down=True)


def state_dict(net: ContNet, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays under the names and in the layouts of the authors' program."""
    rng, arrays = np.random.default_rng(seed), {}

    def add(name, *shape, mean=0.0, spread=None):
        fan_in = max(1, int(np.prod(shape[1:])))
        spread = fan_in**-0.5 if spread is None else spread
        arrays[name] = np.float32(rng.normal(mean, spread, shape))

    add("layer0.conv.conv.weight", net.width, 3, 7, 7)
    for block in blocks_of(net):
        root, width = f"layer{block.stage + 1}.ConTBlock{block.number}", block.inputs
        add(f"{root}.bn.weight", width, mean=1, spread=0.1)
        add(f"{root}.bn.bias", width, spread=0.1)
        add(f"{root}.bn.running_mean", width, spread=0.1)
        arrays[f"{root}.bn.running_var"] = np.float32(rng.uniform(0.5, 1.5, width))
        arrays[f"{root}.bn.num_batches_tracked"] = np.array(3)
        for number, window in enumerate(block.windows, 1):
            ste = f"{root}.ste{number}"
            if net.relative:
                table = ((2 * window - 1) ** 2, block.heads)
                add(f"{ste}.attn.relative_position_bias_table", *table, spread=0.5)
                arrays[f"{ste}.attn.relative_position_index"] = np.zeros((window**2,) * 2, int)
            else:
                add(f"{ste}.pe.0", window, 1, width // 2, spread=0.3)
                add(f"{ste}.pe.1", 1, window, width // 2, spread=0.3)
                arrays[f"{ste}.pe.0"] = arrays[f"{ste}.pe.0"][None]
                arrays[f"{ste}.pe.1"] = arrays[f"{ste}.pe.1"][None]
            for name, outputs, inputs in (
                ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
                ("mlp.fc1", block.mlp_dim, width), ("mlp.fc2", width, block.mlp_dim),
            ):  # fmt: skip
                add(f"{ste}.{name}.weight", outputs, inputs)
                add(f"{ste}.{name}.bias", outputs, spread=0.1)
            for norm in ("norm1", "norm2"):
                add(f"{ste}.{norm}.weight", width, mean=1, spread=0.1)
                add(f"{ste}.{norm}.bias", width, spread=0.1)
        add(f"{root}.out_conv.conv.weight", block.outputs, width, block.kernel, block.kernel)
        if block.last:
            name = "conv.conv" if net.average_down and block.stride == 2 else "conv"
            add(f"{root}.downsample.{name}.weight", block.outputs, width, 1, 1)
    add("fc.weight", 5, block.outputs)
    add("fc.bias", 5)
    return arrays


def reference(arrays, pixels: np.ndarray, net: ContNet) -> list[np.ndarray]:
    """Returns every block's output [B, C, h, w] float64 of standardized pixels [B, 3, H, W]."""
    arrays = {name: np.float64(array) for name, array in arrays.items()}
    x = _conv(pixels, arrays["layer0.conv.conv.weight"], 2)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = (side // 2 for side in x.shape[2:])
    shifted = [
        padded[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2]
        for i in (0, 1, 2)
        for j in (0, 1, 2)
    ]
    x, outputs = np.max(shifted, 0), []
    for block in blocks_of(net):
        root = f"layer{block.stage + 1}.ConTBlock{block.number}"
        scale, bias, mean, variance = (
            arrays[f"{root}.bn.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        active = np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + bias, 0)
        h = active
        for number, window in enumerate(block.windows, 1):
            layers = {
                name.removeprefix(f"{root}.ste{number}."): array
                for name, array in arrays.items()
                if name.startswith(f"{root}.ste{number}.")
            }
            h = _encode(layers, h, net, window, block.heads)
        h = _conv(h, arrays[f"{root}.out_conv.conv.weight"], block.stride)
        if block.last:
            average = net.average_down and block.stride == 2
            if average:
                x = sum(active[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
            else:
                x = active[:, :, :: block.stride, :: block.stride]
            name = "conv.conv" if average else "conv"
            kernel = arrays[f"{root}.downsample.{name}.weight"][:, :, 0, 0]
            x = np.einsum("oc,bchw->bohw", kernel, x)
        x = h + x
        outputs.append(x)
    return outputs


def _conv(x, kernel, stride: int):
    size = kernel.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2))
    height, width = ((side - size) // stride + 1 for side in x.shape[2:])
    return sum(
        np.einsum(
            "oc,bchw->bohw",
            kernel[:, :, i, j],
            x[:, :, i : i + stride * height : stride, j : j + stride * width : stride],
            optimize=True,
        )
        for i in range(size)
        for j in range(size)
    )


def _encode(layers, x, net: ContNet, window: int, heads: int):
    """Applies an encoder to each window, one by one. x: [B, C, h, w]."""
    found = np.empty_like(x)
    for top in range(0, x.shape[2], window):
        for left in range(0, x.shape[3], window):
            place = np.s_[:, :, top : top + window, left : left + window]
            cut = x[place].transpose(0, 2, 3, 1)
            if not net.relative:
                pe = [
                    np.broadcast_to(layers[f"pe.{i}"], (1, window, window, cut.shape[-1] // 2))
                    for i in (0, 1)
                ]
                cut = cut + np.concatenate(pe, -1)
            tokens = cut.reshape(len(x), window * window, -1)
            if net.pre_norm:
                tokens = tokens + _attend(
                    layers, _norm(layers, "norm1", tokens), net, window, heads
                )
                tokens = tokens + _mlp(layers, _norm(layers, "norm2", tokens))
            else:
                tokens = tokens + _attend(layers, tokens, net, window, heads)
                tokens = _norm(layers, "norm1", tokens)
                tokens = _norm(layers, "norm2", tokens + _mlp(layers, tokens))
            found[place] = tokens.reshape(cut.shape).transpose(0, 3, 1, 2)
    return found


def _attend(layers, tokens, net: ContNet, window: int, heads: int):
    batch, count, width = tokens.shape
    qkv = _dense(layers, "attn.qkv", tokens).reshape(batch, count, 3, heads, -1)
    logits = np.einsum("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1])
    logits = logits * (width // heads) ** -0.5
    if net.relative:
        for query in range(count):
            for key in range(count):
                down = query // window - key // window + window - 1
                across = query % window - key % window + window - 1
                row = layers["attn.relative_position_bias_table"][down * (2 * window - 1) + across]
                logits[:, :, query, key] += row
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, qkv[:, :, 2]).reshape(tokens.shape)
    return _dense(layers, "attn.proj", mixed)


def _mlp(layers, tokens):
    from scipy.special import erf

    hidden = _dense(layers, "mlp.fc1", tokens)
    return _dense(layers, "mlp.fc2", hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))))


def _norm(layers, name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * layers[f"{name}.weight"] + layers[f"{name}.bias"]


def _dense(layers, name, x):
    return x @ layers[f"{name}.weight"].T + layers[f"{name}.bias"]
