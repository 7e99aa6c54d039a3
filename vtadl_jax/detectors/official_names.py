"""Parameters of the published network under the names and in the layouts of its PyTorch code.

One table gives for every array its path in our variables and the transposition between the two
layouts; import and export both use it, so they cannot disagree. numpy only, no files.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from vtadl_jax.detectors.official import DECODER, IMAGE_SIZE, VECTOR_DIM, OfficialOptions
from vtadl_jax.errors import UserError

Arrays = dict[str, np.ndarray]
CAPSULE_DIM = 8  # length of the vectors that the capsule layer takes
# Number of batches that a BatchNorm has seen; unused with PyTorch's default momentum.
COUNTER = "num_batches_tracked"


def _same(array: np.ndarray) -> np.ndarray:
    return array


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a state dict.

    name, shape: in PyTorch. path: in our variables. layer: index along the leading (depth) axis of
    our array, or None. inward, outward: PyTorch's layout → ours and back, without copies.
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
    """Returns the entry of a linear layer's weight: [out, in] ↔ [*inputs, *outputs]."""
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
            yield Entry(f"{norm}.running_mean", (outputs,), ("stats", *ours, "mean"))
            yield Entry(f"{norm}.running_var", (outputs,), ("stats", *ours, "var"))


def autoencoder_entries(options: OfficialOptions) -> list[Entry]:
    """Returns the entries of the auto-encoder's state dict; options: of the detector 'official'."""
    vit = options.vit
    width, patch = vit.width, vit.patch_size
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
    for i in range(vit.depth):
        entries += _block(i, width, vit.num_heads, vit.mlp_dim)
    return entries


def mixture_entries(options: OfficialOptions) -> list[Entry]:
    """Returns the entries of the mixture network's state dict."""
    width, count = options.vit.width, options.mdn.num_components
    root = ("params", "mixture")
    return [
        _linear("pi.weight", (*root, "pi"), (width,), (count,)),
        _linear("mu.weight", (*root, "mu"), (width,), (width, count)),
        _linear("sigma_sq.weight", (*root, "sigma_sq"), (width,), (width, count)),
    ]


def counters(step: int) -> Arrays:
    """Returns the `num_batches_tracked` arrays after `step` steps; our variables have none."""
    layers = range(len(DECODER) - 1)
    return {f"decoder.decoder2.{3 * i + 1}.{COUNTER}": np.array(step, np.int64) for i in layers}


def check_arrays(entries: list[Entry], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Checks the arrays of a state dict against its entries.

    Raises UserError that names the arrays that are missing, unexpected, of another shape or not
    finite. where: the file, for the message.
    """
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
            f"part, and its sizes as --config.model.vit and .mdn fields"
        )


def to_variables(entries: list[Entry], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns checked state dicts as variables {'params', 'stats'}, float32."""
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
    """Returns our variables under PyTorch's names and in its layouts; inverts `to_variables`.

    Collections that `variables` lacks are left out, so gradients {'params': …} are accepted, too.
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
