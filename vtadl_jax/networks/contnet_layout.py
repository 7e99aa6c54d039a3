"""The layout of a ConTNet: its sizes and variants, its blocks, and the shapes of their weights.

Yan et al., 2021; the form of its authors' program. The last block of a stage doubles the channels
and, but for the fourth stage, halves the sides. `contnet.py` applies it.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.networks.feature_options import ContnetOptions

SIDE_MULTIPLE = 224  # of which the third stage's sides are multiples of 14, the fourth's of 7
STAGES = 4
Shapes = dict[str, dict[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class ContNet:
    """Sizes and variants; the defaults are ConTNet-B, 36,043,112 values with its classifier.

    width: channels of the first stage. blocks, mlp_dims: of each stage. relative: a table of biases
    by relative position in place of learned rows and columns. pre_norm: LayerNorms before attention
    and MLP, not after. average_down: the shortcut halves the sides by averages, not by its stride.
    """

    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    mlp_dims: tuple[int, ...] = (256, 512, 1024, 1024)
    relative: bool = False
    pre_norm: bool = False
    average_down: bool = False
    qkv_bias: bool = True


@dataclasses.dataclass(frozen=True)
class Block:
    """A block: its stage and number from 0, channels, stride, whether it is its stage's last."""

    stage: int
    number: int
    inputs: int
    outputs: int
    stride: int
    mlp_dim: int
    last: bool

    @property
    def name(self) -> str:
        return f"layer{self.stage + 1}.{self.number}"

    @property
    def heads(self) -> int:
        return 2**self.stage

    @property
    def windows(self) -> tuple[int, int]:
        """Sides of the windows of the two encoders."""
        return (7, 14) if self.stage < STAGES - 1 else (7, 7)

    @property
    def kernel(self) -> int:
        """Side of the convolution's kernel."""
        return 1 if self.last and self.stage == STAGES - 1 else 3


def blocks_of(net: ContNet) -> Iterator[Block]:
    """Yields the blocks in order."""
    for stage, (count, mlp_dim) in enumerate(zip(net.blocks, net.mlp_dims, strict=True)):
        width = net.width * 2**stage
        for number in range(count):
            last = number == count - 1
            stride = 2 if last and stage < STAGES - 1 else 1
            yield Block(stage, number, width, width * (2 if last else 1), stride, mlp_dim, last)


@dataclasses.dataclass(frozen=True)
class Tap:
    """A block whose output is read: its position among all blocks, channels and stride."""

    position: int
    width: int
    stride: int


def taps_of(net: ContNet, layers: Sequence[str]) -> tuple[Tap, ...]:
    """Returns where 'layer2' (a stage's output) or 'layer3.4' (that of its block 4) are read.

    Raises UserError for other names, and for none.
    """
    found: dict[str, Tap] = {}
    stride = 4  # of the stem
    for position, block in enumerate(blocks_of(net)):
        stride *= block.stride
        found[block.name] = Tap(position, block.outputs, stride)
        if block.last:
            found[f"layer{block.stage + 1}"] = found[block.name]
    for layer in layers:
        if layer not in found:
            raise UserError(
                f"model.contnet.layers {layer!r}: use stages, 'layer1' to 'layer{STAGES}', or "
                f"blocks, from 'layer1.0' to {block.name!r}"
            )
    if not layers or len(set(layers)) < len(layers):
        raise UserError(f"model.contnet.layers {tuple(layers)}: name one or more, each once")
    return tuple(found[layer] for layer in layers)


def net_of(options: ContnetOptions) -> ContNet:
    """Returns the description that options name. Raises UserError if sizes do not fit."""
    if options.width % 2:
        raise UserError(f"model.contnet.width {options.width}: use an even number, as 64")
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(ContNet)}
    return ContNet(**values)


def weight_shapes(net: ContNet, depth: int | None = None) -> Shapes:
    """Returns the shapes of the layers' arrays by name. depth: blocks that are kept; None: all."""
    shapes: Shapes = {"stem": {"kernel": (7, 7, 3, net.width)}}
    for block in list(blocks_of(net))[:depth]:
        shapes |= _block_shapes(net, block)
    return shapes


def _block_shapes(net: ContNet, block: Block) -> Shapes:
    width, mlp, side = block.inputs, block.mlp_dim, block.kernel
    norm: dict[str, tuple[int, ...]] = {"scale": (width,), "bias": (width,)}
    qkv: dict[str, tuple[int, ...]] = {"kernel": (width, 3 * width)}
    shapes: Shapes = {f"{block.name}.norm": norm}
    for number, window in enumerate(block.windows, 1):
        root = f"{block.name}.ste{number}"
        if net.relative:
            shapes[f"{root}.position"] = {"table": ((2 * window - 1) ** 2, block.heads)}
        else:
            half = (window, width // 2)
            shapes[f"{root}.position"] = {"rows": half, "columns": half}
        shapes[f"{root}.qkv"] = qkv | ({"bias": (3 * width,)} if net.qkv_bias else {})
        shapes[f"{root}.proj"] = {"kernel": (width, width), "bias": (width,)}
        shapes[f"{root}.fc1"] = {"kernel": (width, mlp), "bias": (mlp,)}
        shapes[f"{root}.fc2"] = {"kernel": (mlp, width), "bias": (width,)}
        shapes |= {f"{root}.norm1": norm, f"{root}.norm2": norm}
    shapes[f"{block.name}.conv"] = {"kernel": (side, side, width, block.outputs)}
    if block.last:
        shapes[f"{block.name}.shortcut"] = {"kernel": (1, 1, width, block.outputs)}
    return shapes


def empty_weights(net: ContNet, depth: int | None = None) -> dict[str, dict[str, jax.Array]]:
    """Returns zeros in the shapes of the weights."""
    return {
        name: {leaf: jnp.zeros(shape) for leaf, shape in leaves.items()}
        for name, leaves in weight_shapes(net, depth).items()
    }
