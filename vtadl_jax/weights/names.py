"""Parameters of the published network under the names and in the layouts of its PyTorch code.

One table says for every array its place in our variables and how its axes are turned, so that
import and export cannot disagree. numpy only, no files.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models.official import DECODER, IMAGE_SIZE, VECTOR_DIM

Arrays = dict[str, np.ndarray]
CAPSULE_DIM = 8  # length of the vectors that the capsule layer takes
# Counts the batches that a BatchNorm has seen; nothing reads it at PyTorch's default momentum.
COUNTER = "num_batches_tracked"


def _same(array: np.ndarray) -> np.ndarray:
    return array


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a state dict.

    name, shape: in PyTorch. path: in our variables. layer: index along our array's leading axis,
    the depth, or None. inward, outward: PyTorch's layout → ours and back, without copies.
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    layer: int | None = None
    inward: Callable[[np.ndarray], np.ndarray] = _same
    outward: Callable[[np.ndarray], np.ndarray] = _same


def _linear(
    name: str, path: tuple[str, ...], inputs: tuple[int, ...], outputs: tuple[int, ...], layer=None
) -> Entry:
    """[out, in] ↔ [*inputs, *outputs]."""
    rows, columns = int(np.prod(outputs)), int(np.prod(inputs))
    return Entry(
        name,
        (rows, columns),
        path,
        layer,
        lambda a: a.T.reshape(*inputs, *outputs),
        lambda a: a.reshape(columns, rows).T,
    )


def _block(i: int, width: int, heads: int, mlp_dim: int) -> Iterator[Entry]:
    root = ("params", "encoder", "blocks")
    head = (heads, width // heads)
    attention, mlp = f"vt.transformer.layers.{i}.0.fn", f"vt.transformer.layers.{i}.1.fn"
    for norm, ours in ((f"{attention}.norm", "norm_attention"), (f"{mlp}.norm", "norm_mlp")):
        yield Entry(f"{norm}.weight", (width,), (*root, ours, "scale"), i)
        yield Entry(f"{norm}.bias", (width,), (*root, ours, "bias"), i)
    yield _linear(
        f"{attention}.fn.to_qkv.weight", (*root, "qkv", "kernel"), (width,), (3, *head), i
    )
    dense = (
        (f"{attention}.fn.to_out.0", "attention_out", head, width),
        (f"{mlp}.fn.net.0", "mlp_in", (width,), mlp_dim),
        (f"{mlp}.fn.net.2", "mlp_out", (mlp_dim,), width),
    )
    for name, ours, inputs, outputs in dense:
        yield _linear(f"{name}.weight", (*root, ours, "kernel"), inputs, (outputs,), i)
        yield Entry(f"{name}.bias", (outputs,), (*root, ours, "bias"), i)


def _decoder() -> Iterator[Entry]:
    for i, (inputs, outputs, kernel, _, _) in enumerate(DECODER):
        conv, up = f"decoder.decoder2.{3 * i}", ("params", "decoder", f"up{i}")
        yield Entry(
            f"{conv}.weight",
            (inputs, outputs, kernel, kernel),
            (*up, "kernel"),
            None,
            lambda a: a.transpose(2, 3, 0, 1),
            lambda a: a.transpose(2, 3, 0, 1),
        )
        yield Entry(f"{conv}.bias", (outputs,), (*up, "bias"))
        if i < len(DECODER) - 1:
            norm, ours = f"decoder.decoder2.{3 * i + 1}", ("decoder", f"norm{i}")
            yield Entry(f"{norm}.weight", (outputs,), ("params", *ours, "scale"))
            yield Entry(f"{norm}.bias", (outputs,), ("params", *ours, "bias"))
            yield Entry(f"{norm}.running_mean", (outputs,), ("batch_stats", *ours, "mean"))
            yield Entry(f"{norm}.running_var", (outputs,), ("batch_stats", *ours, "var"))


def autoencoder_entries(config: ConfigDict) -> list[Entry]:
    """What the auto-encoder's state dict holds, for a config of the detector 'official'."""
    model = config.model
    width, patch = model.width, model.patch_size
    tokens = IMAGE_SIZE[0] * IMAGE_SIZE[1] // patch**2
    vectors = tokens * width // CAPSULE_DIM
    encoder = ("params", "encoder")
    entries = [
        Entry("vt.pos_embedding", (1, tokens + 1, width), (*encoder, "position_embedding")),
        Entry("vt.cls_token", (1, 1, width), (*encoder, "class_token")),
        _linear(
            "vt.patch_to_embedding.weight",
            (*encoder, "patch_embedding", "kernel"),
            (3 * patch**2,),
            (width,),
        ),
        Entry("vt.patch_to_embedding.bias", (width,), (*encoder, "patch_embedding", "bias")),
        Entry(
            "Digcap.W",
            (1, vectors, VECTOR_DIM, CAPSULE_DIM),
            ("params", "capsule", "kernel"),
            None,
            lambda a: a[0].transpose(0, 2, 1).reshape(-1, VECTOR_DIM),
            lambda a: a.reshape(vectors, CAPSULE_DIM, VECTOR_DIM).transpose(0, 2, 1)[None],
        ),
        *_decoder(),
    ]
    for i in range(model.depth):
        entries += _block(i, width, model.num_heads, model.mlp_dim)
    return entries


def mixture_entries(config: ConfigDict) -> list[Entry]:
    """What the mixture network's state dict holds."""
    width, count = config.model.width, config.model.mdn.num_components
    root = ("params", "mixture")
    return [
        _linear("pi.weight", (*root, "pi"), (width,), (count,)),
        _linear("mu.weight", (*root, "mu"), (width,), (width, count)),
        _linear("sigma_sq.weight", (*root, "sigma_sq"), (width,), (width, count)),
    ]


def counters(step: int) -> Arrays:
    """What PyTorch's BatchNorms count, after so many steps; our variables have no such thing."""
    layers = range(len(DECODER) - 1)
    return {f"decoder.decoder2.{3 * i + 1}.{COUNTER}": np.array(step, np.int64) for i in layers}


def check_arrays(entries: list[Entry], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raise UserError, naming all of them, for arrays that are missing, left over, of another shape
    or not of finite numbers. where: the file, for the message."""
    wanted = {entry.name: entry.shape for entry in entries}
    troubles = [f"{name} is missing" for name in wanted if name not in arrays]
    for name, array in arrays.items():
        if name not in wanted:
            if not name.endswith(f".{COUNTER}"):
                troubles.append(f"{name} is left over")
        elif array.shape != wanted[name]:
            troubles.append(f"{name} is {list(array.shape)}, not {list(wanted[name])}")
        elif array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
            troubles.append(f"{name} is of {array.dtype}, not of floats")
        elif not np.isfinite(array.astype(np.float32)).all():
            troubles.append(f"{name} has values that are not finite")
    if troubles:
        shown = "; ".join(troubles[:4])
        more = f" and {len(troubles) - 4} more" if len(troubles) > 4 else ""
        raise UserError(
            f"{where} is not a state dict of this network: {shown}{more}: give the file of that "
            f"part, and its sizes as --config.model fields"
        )


def to_variables(entries: list[Entry], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """State dicts, checked before, as our variables {'params', 'batch_stats'}, float32."""
    tree: dict[str, Any] = {}
    layers: dict[tuple[str, ...], list[np.ndarray]] = {}
    for entry in entries:
        array = entry.inward(arrays[entry.name].astype(np.float32))
        layers.setdefault(entry.path, []).append(array)
    for path, found in layers.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        scanned = path[1:3] == ("encoder", "blocks")
        node[path[-1]] = np.stack(found) if scanned else np.ascontiguousarray(found[0])
    return tree


def to_arrays(entries: list[Entry], variables: Mapping[str, Any]) -> Arrays:
    """Our variables under PyTorch's names and in its layouts; the inverse of `to_variables`.

    Parts that `variables` lacks are left out, so that it also takes gradients {'params': …}.
    """
    arrays: Arrays = {}
    for entry in entries:
        node: Any = variables
        if entry.path[0] not in node:
            continue
        for key in entry.path:
            node = node[key]
        array = np.asarray(node if entry.layer is None else node[entry.layer])
        arrays[entry.name] = np.ascontiguousarray(entry.outward(array)).reshape(entry.shape)
    return arrays
