"""The methods of the comparison: the config of each, its losses, and where its weights come from.

A method that needs a frozen encoder takes its own weights if the user gives them; otherwise another
encoder may stand in, which its cells say. This file reads no images and trains nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from vtadl_jax import experiment
from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import EXTRACTORS
from vtadl_jax.selection.sets import ImageSet

CHAPTER_7, AUTHORS, OTHERS = "chapter 7", "same authors", "other methods here"
FITTED = "none: fitted"
SEGMENTING = "BCE from logits, 1 − Dice"
_FOLDED = ("--config.data.folds=5", "--config.data.anomaly_fraction=0")


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the comparison.

    name: of its folder and in --methods. config: FILE:ARGUMENT of `python -m vtadl_jax.main`, with
    {category}. group: one of `CHAPTER_7`, `AUTHORS`, `OTHERS`. losses: what its steps minimise.
    fields: flags of config fields, with {gap} for the numbers that one part's photographs are
    closer than. encoder: the frozen network that it needs, '' for none. optional: pretrained
    networks that it starts from if their weights are given. published: its column in the thesis.
    note: what differs from its publication.
    """

    name: str
    title: str
    group: str
    config: str
    losses: str
    fields: tuple[str, ...] = ()
    encoder: str = ""
    optional: str = ""
    published: str = ""
    note: str = ""


def _segmentation(name: str, title: str, published: str) -> tuple[Method, Method]:
    """Returns the rows of a network: trained on masks, and on drawn defects."""
    network = f"--config.model.network={name}"
    return (
        Method(
            name,
            title,
            CHAPTER_7,
            "configs/segmentation.py:{category}",
            SEGMENTING,
            (network, "--config.data.group_gap={gap}"),
            published=published,
        ),
        Method(
            f"{name}_drawn",
            f"{title}, drawn defects",
            CHAPTER_7,
            "configs/segmentation.py:drawn-{category}",
            SEGMENTING,
            (network,),
            note="learns from defects drawn on good images, not from masks; the thesis has no such "
            "row",
        ),
    )


def _ours(name: str, title: str, config: str, losses: str = FITTED, encoder: str = "") -> Method:
    return Method(name, title, OTHERS, f"configs/{config}.py:{{category}}", losses, encoder=encoder)


_NETWORKS = (
    _segmentation("fcn32s", "FCN32s", "FCN32"),
    _segmentation("unet_tiny", "Unet (Tiny)", "Unet (Tiny)"),
    _segmentation("unet_plus_plus", "UNet++", "Unet++"),
    _segmentation("unet2", "UNet 2.0", "Unet2"),
    _segmentation("segnet", "SegNet", "SegNet"),
)
_MVTEC = "--config.data.source=folder"  # any layout
_RECONSTRUCTION = "configs/{}.py:mvtec-{{category}}"
_ALL = (
    Method(
        "vtadl",
        "VT-ADL",
        CHAPTER_7,
        "configs/mvtec.py:{category}",
        "−log-likelihood of the mixture, MSE, 1 − SSIM",
        (_MVTEC,),
        published="VT-ADL",
    ),
    Method(
        "spade",
        "SPADE",
        CHAPTER_7,
        "configs/spade.py:{category}",
        FITTED,
        encoder="wide_resnet50_2",
        published="SPADE",
    ),
    *(masked for masked, _ in _NETWORKS),
    *(drawn for _, drawn in _NETWORKS),
    Method(
        "pyramid_ae",
        "Pyramidal auto-encoder",
        AUTHORS,
        _RECONSTRUCTION.format("pyramid_ae"),
        "MSE, perceptual",
        (_MVTEC,),
        optional="ResNet-18 and VGG-11",
    ),
    Method(
        "piade",
        "PIADE",
        AUTHORS,
        _RECONSTRUCTION.format("piade"),
        "MSE, perceptual, −SSIM",
        (_MVTEC,),
        optional="ResNet-18 and VGG-11",
    ),
    Method(
        "piade_official",
        "PIADE, authors' program",
        AUTHORS,
        "configs/piade_official.py:{category}",
        "MSE, perceptual, −SSIM",
        (_MVTEC,),
        optional="ResNet-50 and VGG-11",
    ),
    Method(
        "capsnet",
        "CapsNet",
        AUTHORS,
        "configs/capsnet.py:folder-{category}",
        "margin, MSE",
        (
            *_FOLDED,
            "--config.data.group_gap={gap}",
            "--config.data.test_limit=0",
            "--config.data.holdout_fraction=0.1",
            "--config.data.channels=0",
            "--config.image_size=32,32",
        ),
        note="published for small images of other sets; here images are reduced to 32²",
    ),
    Method(
        "contnet_gaussian",
        "ConTNet + Gaussian",
        AUTHORS,
        "configs/contnet_gaussian.py:{category}",
        FITTED,
        encoder="contnet_b",
        note="by other authors, who compare with VT-ADL",
    ),
    Method(
        "official",
        "VT-ADL, authors' program",
        AUTHORS,
        "configs/official.py:{category}",
        "mixture, MSE, −SSIM",
        (_MVTEC,),
    ),
    _ours("experts", "Three experts", "best", "−log-likelihood of a mixture"),
    _ours("context_mdn", "Context MDN", "context_mdn", "−log-likelihood of a mixture"),
    dataclasses.replace(
        _ours(
            "context_mdn_pretrained",
            "Context MDN, pretrained",
            "pretrained",
            "−log-likelihood of a mixture",
            "efficientnet_lite0",
        ),
    ),
    _ours("filter_mixture", "Filter mixture", "baseline_filters"),
    _ours("position_gaussian", "Position Gaussian", "position_gaussian"),
    _ours("padim", "PaDiM", "padim", encoder="resnet18"),
    _ours("patch_memory", "Patch memory", "patch_memory"),
    dataclasses.replace(
        _ours("patch_memory_pretrained", "Patch memory, pretrained", "patch_memory"),
        encoder="wide_resnet50_2",
        fields=("--config.model.features=wide_resnet50_2",),
    ),
    dataclasses.replace(
        _ours("subspace_pretrained", "Subspace, pretrained", "subspace"),
        encoder="dinov2_vits14",
        fields=("--config.model.features=dinov2_vits14", "--config.image_size=448,448"),
    ),
    _ours("feature_reconstruction", "Feature reconstruction", "feature_reconstruction", "cosine"),
    _ours("autoencoder", "Auto-encoder", "autoencoder", "MSE"),
    dataclasses.replace(
        _ours("unet", "Small U-Net", "unet", "BCE, Dice"),
        fields=(
            *_FOLDED,
            "--config.data.group_gap={gap}",
            "--config.data.repeat_anomalies=False",
            "--config.data.balanced_batches=True",
        ),
    ),
)
METHODS = {method.name: method for method in _ALL}
ALL, FIRST = "all", {"chapter7": CHAPTER_7, "authors": AUTHORS, "others": OTHERS}


def parse_methods(text: str) -> list[Method]:
    """Returns the methods of 'all', of groups ('chapter7', 'authors', 'others') and of names.

    Raises UserError for an unknown name.
    """
    found: dict[str, Method] = {}
    for name in filter(None, (word.strip() for word in text.split(","))):
        if name == ALL:
            chosen = list(_ALL)
        elif name in FIRST:
            chosen = [method for method in _ALL if method.group == FIRST[name]]
        elif name in METHODS:
            chosen = [METHODS[name]]
        else:
            known = (*METHODS, *FIRST, ALL)
            raise UserError(
                f"--methods {name!r}: no such method{options_lib.nearest(name, known)}; "
                f"known: {', '.join(known)}"
            )
        found |= {method.name: method for method in chosen}
    if not found:
        raise UserError("--methods names none: give all, chapter7, or names with commas")
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class Weights:
    """Files of pretrained weights that the user gave.

    own: method → files, of the networks that it was published with. encoder, file: what stands in
    for a frozen encoder whose own weights were not given; '' for nothing.
    """

    own: Mapping[str, str] = dataclasses.field(default_factory=dict)
    encoder: str = ""
    file: str = ""


def parse_weights(own: Iterable[str], encoder: str) -> Weights:
    """Returns the weights of METHOD=FILE and of NAME=FILE.

    Raises UserError for unknown methods and encoders, and for absent files.
    """
    files: dict[str, str] = {}
    for text in own:
        name, equals, file = text.partition("=")
        if not equals or name not in METHODS:
            raise UserError(f"--weights {text!r}: give METHOD=FILE, with a name of --methods")
        for one in file.split(","):
            _check_file("--weights", one)
        files[name] = file
    name, equals, file = encoder.partition("=")
    if encoder:
        if not equals or name not in EXTRACTORS:
            hint = options_lib.nearest(name, EXTRACTORS)
            raise UserError(f"--encoder {encoder!r}: give NAME=FILE, with an encoder's name{hint}")
        _check_file("--encoder", file)
    return Weights(files, name, file)


def _check_file(flag: str, file: str) -> None:
    if not Path(file).expanduser().is_file():
        raise UserError(f"{flag}: no file {file!r}: see docs/weights.md")


def weights_of(method: Method, weights: Weights) -> tuple[tuple[str, ...], str, str]:
    """Returns flags of config fields, 'yes', 'no' or 'stand-in', and a line about the weights.

    Raises UserError if the method can't do without a file that was not given.
    """
    if method.name in weights.own:
        what = method.encoder or method.optional or "its network"
        init = f"--config.init_from={weights.own[method.name]}"
        return (init,), "yes", f"pretrained weights of {what}"
    if method.encoder:
        if not weights.file:
            raise UserError(
                f"{method.name} needs the pretrained weights of {method.encoder}: give "
                f"--weights={method.name}=FILE, or --encoder=NAME=FILE for another that stands in "
                f"(docs/weights.md)"
            )
        init = f"--config.init_from={weights.file}"
        if weights.encoder == method.encoder:
            return (init,), "yes", f"pretrained weights of {method.encoder}"
        features = f"--config.model.features={weights.encoder}"
        line = f"{weights.encoder} stands in for {method.encoder}, whose weights were not given"
        return (features, init), "stand-in", line
    if method.optional:
        line = f"{method.optional} start from random values: their weights were not given"
        return (), "no", line
    return (), "no", ""


def arguments_of(method: Method, image_set: ImageSet, weights: Weights, gap: int) -> list[str]:
    """Returns the arguments of `python -m vtadl_jax.main` that train a method on a set."""
    fields = [flag.replace("{gap}", str(gap)) for flag in method.fields]
    more, _, _ = weights_of(method, weights)
    names = {flag.partition("=")[0] for flag in more}
    kept = [flag for flag in fields if flag.partition("=")[0] not in names]
    config = method.config.replace("{category}", image_set.category)
    return ["--config", config.rstrip(":"), *kept, *more, *image_set.flags]


def config_of(arguments: list[str]) -> Config:
    """Returns the config of `arguments_of`. Raises UserError for what can't be read."""
    return experiment.load(arguments[1], arguments[2:])[0]
