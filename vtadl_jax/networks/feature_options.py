"""Options of the features that detectors model; `features.py` builds the extractors they name."""

import dataclasses

from vtadl_jax.options import LARGEST_SIZE, option

FILTERS = "filters"


@dataclasses.dataclass(frozen=True)
class FilterOptions:
    """Options of the fixed filter bank, read if `features` is 'filters'."""

    stride: int = option(8, "between grid positions", unit="px", at_least=1, limit=LARGEST_SIZE)
    sigmas: tuple[int, ...] = option(
        (1, 2, 4, 8),
        "of the Gaussians; powers of two",
        unit="px",
        at_least=1,
        limit=LARGEST_SIZE,
        filled=True,
    )
    normalise: bool = option(False, "standardize the logarithm of each image before filtering")
    color: bool = option(False, "for RGB images, add local colour and its deviation")


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """Options of frozen Vision Transformers, read if `features` names one."""

    blocks: tuple[int, ...] = option(
        (),
        "whose outputs are read, from 0, growing; empty: the middle ones, 5 to 8 of 12",
        at_least=0,
        limit=LARGEST_SIZE,
    )
    norm: bool = option(True, "apply the encoder's final LayerNorm to each block's output")
    combine: str = option("mean", "of the blocks' outputs", choices=("mean", "concat"))


@dataclasses.dataclass(frozen=True)
class ContnetOptions:
    """Options of a frozen ConTNet, read if `features` is 'contnet_b': what is read of it, and what
    its file's program was told."""

    layers: tuple[str, ...] = option(
        ("layer2", "layer3"),
        "outputs that are read: of a stage, as 'layer3', or of a block, as 'layer3.4'",
    )
    width: int = option(64, "channels of the first stage", at_least=2, limit=LARGEST_SIZE)
    blocks: tuple[int, ...] = option(
        (3, 4, 6, 3), "of each stage", at_least=1, limit=1000, counts=(4,)
    )
    mlp_dims: tuple[int, ...] = option(
        (256, 512, 1024, 1024),
        "hidden units of each stage's MLPs",
        at_least=1,
        limit=LARGEST_SIZE,
        counts=(4,),
    )
    relative: bool = option(False, "biases by relative position in place of rows and columns")
    pre_norm: bool = option(False, "LayerNorms before attention and MLP; a file does not tell")
    average_down: bool = option(False, "shortcuts halve the sides by averages, not by a stride")
    qkv_bias: bool = option(True, "on queries, keys and values")


@dataclasses.dataclass(frozen=True)
class ResnetOptions:
    """Options of frozen ResNets, read if `features` names one; by default PatchCore's features."""

    stages: tuple[int, ...] = option(
        (2, 3),
        "whose outputs are read, growing; the grid is the first one's, of stride 4, 8 or 16",
        at_least=1,
        at_most=3,
        filled=True,
    )
    pool: bool = option(True, "average each stage over 3 × 3 places")
    resize: str = option(
        "bilinear", "of later stages to the grid of the first", choices=("bilinear", "nearest")
    )


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """Options of the features that a detector models; base class of detectors' options."""

    features: str = option(
        FILTERS,
        "'filters', or a frozen network with weights from init_from, as 'efficientnet_lite0', "
        "'wide_resnet50_2', 'dinov2_vits14': docs/weights.md",
    )
    filters: FilterOptions = FilterOptions()
    encoder: EncoderOptions = EncoderOptions()
    contnet: ContnetOptions = ContnetOptions()
    resnet: ResnetOptions = ResnetOptions()
