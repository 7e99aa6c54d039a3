"""Lower precision for the layers of encoders and decoders in an ONNX model: float16 and int8.

Layers are convolutions and products with weights, in networks that make features or images.
Densities, distances, scores and maps stay in float32.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vtadl_jax.errors import UserError
from vtadl_jax.export.onnx.graph import names_read
from vtadl_jax.export.onnx.model import IMAGES

# Modules whose products with weights may be rounded, as nodes are named for them.
ENCODERS = tuple(
    f"networks/{name}"
    for name in (
        "capsnet",
        "contnet",
        "decoder",
        "efficientnet",
        "frozen_resnet",
        "frozen_vit",
        "layers",
        "named_layers",
        "perceptual",
        "pyramid",
        "reconstructor",
        "resnet",
        "segmentation",
        "token_decoder",
        "vit",
    )
)
LARGEST = float(np.finfo(np.float16).max)


def layers_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Returns the nodes that lower precision is for: with float32 weights that are constants."""
    weights = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    return [
        node
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "MatMul")
        and any(node.name.startswith((f"{part}/", f"{part}_")) for part in ENCODERS)
        and sum(name in weights for name in node.input) == 1
    ]


def in_half(model: onnx.ModelProto) -> int:
    """Changes the weights and products of layers to float16; returns how many.

    A layer whose weights are beyond float16's range stays as it is.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    names = {node.name for node in layers_of(model)}
    cast: dict[str, str] = {}
    made: list[onnx.NodeProto] = []
    changed = 0
    for node in graph.node:
        if node.name not in names:
            made.append(node)
            continue
        weight = next(name for name in node.input if name in stored)
        values = numpy_helper.to_array(stored[weight])
        if np.abs(values).max(initial=0) > LARGEST:
            made.append(node)
            continue
        if f"{weight}_half" not in stored:
            half = numpy_helper.from_array(values.astype(np.float16), f"{weight}_half")
            stored[half.name] = half
            graph.initializer.append(half)
        for name in node.input:
            if name != weight and name not in cast:
                cast[name] = f"{name}_half"
                made.append(_cast(name, cast[name], TensorProto.FLOAT16))
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        replaced = [f"{n}_half" if n == weight else cast[n] for n in node.input]
        inner.input[:] = replaced
        inner.output[:] = [f"{node.output[0]}_exact"]
        made += [inner, _cast(inner.output[0], node.output[0], TensorProto.FLOAT)]
        changed += 1
    del graph.node[:]
    graph.node.extend(made)
    _drop_unused(model)
    return changed


def _cast(name: str, output: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [output], name=f"{output}_cast", to=to)


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in names_read(node)}
    used |= {value.name for value in model.graph.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


class _Images:
    """The images that ranges of activations are measured on, one at a time."""

    def __init__(self, images: Sequence[np.ndarray]):
        self._left = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {IMAGES: image[None]}


def in_int8(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> tuple[onnx.ModelProto, int]:
    """Returns the model with layers in int8, and how many: ONNX Runtime's static quantization.

    images: good ones, uint8 [H, W, C] as the model takes them: the ranges of activations are those
    on these. Weights have a scale for each channel.
    """
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise UserError(
            f"--precision=int8 needs {error.name}: pip install 'vtadl_jax[onnx]'"
        ) from error
    names = [node.name for node in layers_of(model) if node.op_type != "ConvTranspose"]
    if not names:
        return model, 0
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            _Images(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(target), len(names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ONNX Runtime's advice about preprocessing off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
