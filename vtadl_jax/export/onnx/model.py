"""Puts the ONNX file of a function together: its graph, its inputs, its outputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper

from vtadl_jax.export.onnx.converter import write_program
from vtadl_jax.export.onnx.graph import (
    Dim,
    Graph,
    Shape,
    Value,
    known,
    names_read,
    type_of,
    used_only,
)
from vtadl_jax.export.onnx.tracing import trace
from vtadl_jax.ops.platform import on_platform

OPSET, IR_VERSION = 20, 10  # onnxruntime 1.18 and later
BATCH = "batch"  # the name of the axis of images
IMAGES = "images"


def to_onnx(
    function: Callable[..., Mapping[str, Any]],
    image_shape: tuple[int, int, int],
    fixed: Any,
    settable: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Returns the model of function(images uint8 [B, H, W, C], fixed, settable) → arrays by name.

    B is open. fixed: a tree of arrays, which become constants. settable: arrays by name, which
    become inputs that may be left out: these values are then used. Raises Unsupported for what
    ONNX, or this converter, does not have.
    """
    settable = dict(settable or {})
    images = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    program, tree = trace(on_platform("onnx", function), images, fixed, settable)
    graph = Graph(IMAGES)
    shape: Shape = (Dim(1, 0), *image_shape)
    # In the order of jax's leaves: a dict's names are sorted.
    given = [known(np.asarray(leaf)) for leaf in jax.tree.leaves(fixed)]
    names = sorted(settable)
    given += [Value(a.shape, a.dtype, a.shape, name) for name in names for a in [settable[name]]]
    pixels = Value(shape, np.dtype(np.uint8), shape, IMAGES)
    values = write_program(graph, program, [pixels, *given])
    graph.caller = ()
    outputs = []
    for name, value in zip(sorted(tree), values, strict=True):
        full = graph.full(value)
        graph.nodes.append(helper.make_node("Identity", [graph.name(full)], [name], name=name))
        outputs.append(_declared(name, full))
    nodes = used_only(graph.nodes, list(tree))
    used = {name for node in nodes for name in names_read(node)}
    constants = [tensor for tensor in graph.initializers() if tensor.name in used]
    constants += [onnx.numpy_helper.from_array(settable[name], name) for name in names]
    inputs = [_declared(IMAGES, pixels)]
    inputs += [_declared(str(value.name), value) for value in given if value.array is None]
    made = helper.make_graph(nodes, "vtadl_jax", inputs, outputs, initializer=constants)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _declared(name: str, value: Value) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else BATCH for size in value.shape]
    return helper.make_tensor_value_info(name, type_of(value.dtype), sizes)
