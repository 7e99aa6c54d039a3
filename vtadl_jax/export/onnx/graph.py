"""A graph of ONNX nodes under construction. Knows ONNX and numpy, nothing of JAX.

An axis that grows with the batch has a `Dim` for its size. A value may be held smaller than its
shape, with sizes of 1 where an operation would repeat it: most ONNX operators broadcast.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# bfloat16 is computed in float32: ONNX Runtime has few operators for it.
TYPES = {
    "float32": TensorProto.FLOAT,
    "bfloat16": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
}


class Unsupported(Exception):
    """Something that this converter cannot write; the message says what."""


class Dim(NamedTuple):
    """The size of an axis: scale · (number of images) + offset."""

    scale: int
    offset: int


Size = int | Dim
Shape = tuple[Size, ...]


def type_of(dtype: Any) -> int:
    """Returns ONNX's number of a dtype. Raises Unsupported for one that it does not have."""
    name = np.dtype(dtype).name
    if name not in TYPES:
        raise Unsupported(f"values of type {name}")
    return TYPES[name]


def storable(array: np.ndarray) -> np.ndarray:
    """Returns an array in a type that a file can have."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A value of the program. shape: as the program sees it. held: the sizes that are there, 1
    where it is still to be repeated. Known values have `array` [held], others the `name` of what
    computes them."""

    shape: Shape
    dtype: np.dtype
    held: Shape
    name: str | None = None
    array: np.ndarray | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)


def known(array: Any, shape: Shape | None = None, dtype: Any = None) -> Value:
    """Returns the value of a constant; shape: of what it stands for, if it is to be repeated."""
    array = np.asarray(array) if dtype is None else np.asarray(array, dtype)
    return Value(array.shape if shape is None else shape, array.dtype, array.shape, array=array)


def broadcast(*held: Shape) -> Shape:
    """Returns the shape that values held so have together."""
    rank = max(len(one) for one in held)
    padded = [(1,) * (rank - len(one)) + tuple(one) for one in held]
    return tuple(
        next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True)
    )


Input = Value | np.ndarray | str


class Graph:
    """Nodes in order. Graphs within loops (`inner`) see the values of those outside.

    batch: the name of a value whose first axis has the number of images. caller: the modules that
    the next nodes come from, innermost first; nodes are named for the first that is no operation.
    """

    def __init__(self, batch: str = "", root: "Graph | None" = None):
        self.root: Graph = self if root is None else root
        self.nodes: list[onnx.NodeProto] = []
        self.caller: tuple[str, ...] = ()
        if root is None:
            self.batch, self.count = batch, 0
            self.constants: dict[str, np.ndarray] = {}
            self._names: dict[Any, str] = {}

    def inner(self) -> "Graph":
        made = Graph(root=self.root)
        made.caller = self.caller
        return made

    def fresh(self, kind: str) -> str:
        self.root.count += 1
        return f"{kind}_{self.root.count}"

    def name(self, value: Input) -> str:
        """Returns the name of a value as it is held; constants become initializers."""
        if isinstance(value, str):
            return value
        if isinstance(value, Value):
            if value.name is not None:
                return value.name
            assert value.array is not None
            value = value.array
        return self.constant(value)

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant; equal small ones and the same array share one."""
        root, array = self.root, storable(np.asarray(array))
        small = array.size <= 64
        key = (array.dtype.str, array.shape, array.tobytes()) if small else id(array)
        if key not in root._names:
            root._names[key] = name = self.fresh("const")
            root.constants[name] = np.ascontiguousarray(array).reshape(array.shape)
            if not small:
                root._names[("kept", id(array))] = name
                root.constants[name] = array  # keeps the id from being given to another array
        return root._names[key]

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def op(self, kind: str, *inputs: Input | None, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or a list of several."""
        names = ["" if one is None else self.name(one) for one in inputs]
        made = [self.fresh(kind.lower()) for _ in range(outputs)]
        part = next((name for name in self.caller if not name.startswith("ops/")), "")
        title = f"{part}/{made[0]}" if part else made[0]
        self.nodes.append(helper.make_node(kind, names, made, name=title, **attributes))
        return made[0] if outputs == 1 else made

    def cast(self, value: Input, dtype: Any) -> str:
        return self.op("Cast", value, to=type_of(dtype))

    def batch_size(self) -> str:
        """Returns the name of the number of images, int64 [1]."""
        root = self.root
        if "batch" not in root._names:
            size = Graph.op(root, "Shape", root.batch, start=0, end=1)
            root._names["batch"] = size
        return root._names["batch"]

    def sizes(self, shape: Shape) -> str:
        """Returns the name of a shape, int64 [rank]."""
        if all(isinstance(size, int) for size in shape):
            return self.ints([int(size) for size in shape])  # type: ignore[arg-type]
        parts = []
        for size in shape:
            if isinstance(size, Dim):
                grown = self.batch_size()
                if size.scale != 1:
                    grown = self.op("Mul", grown, self.ints([size.scale]))
                if size.offset:
                    grown = self.op("Add", grown, self.ints([size.offset]))
                parts.append(grown)
            else:
                parts.append(self.ints([size]))
        return self.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def reshape(self, value: Input, shape: Shape) -> str:
        moving = [i for i, size in enumerate(shape) if isinstance(size, Dim)]
        if len(moving) == 1 and 0 not in shape:
            target = self.ints([-1 if isinstance(size, Dim) else size for size in shape])
        else:
            target = self.sizes(shape)
        return self.op("Reshape", value, target, **({"allowzero": 1} if 0 in shape else {}))

    def full(self, value: Value) -> Value:
        """Returns the value with nothing left to be repeated."""
        if value.held == value.shape:
            return value
        if value.array is not None and all(isinstance(size, int) for size in value.shape):
            return known(np.broadcast_to(value.array, value.shape))  # type: ignore[arg-type]
        name = self.op("Expand", value, self.sizes(value.shape))
        return Value(value.shape, value.dtype, value.shape, name)

    def initializers(self) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(a, name) for name, a in self.root.constants.items()]


def used_only(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Returns the nodes that the outputs depend on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= names_read(node)
    return kept[::-1]


def names_read(node: onnx.NodeProto) -> set[str]:
    """Returns the names of values that a node and the graphs in it read."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {name for inner in attribute.g.node for name in names_read(inner)}
            found |= {value.name for value in attribute.g.output}
    return found
