"""The methods of the comparison: the config of each, its losses, the networks that it needs."""

import dataclasses

from vtadl_jax import options as options_lib
from vtadl_jax.errors import UserError

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
    _ours(
        "context_mdn_pretrained",
        "Context MDN, pretrained",
        "pretrained",
        "−log-likelihood of a mixture",
        "efficientnet_lite0",
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
    _ours(
        "feature_reconstruction", "Feature reconstruction", "feature_reconstruction", "1 − cosine"
    ),
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
ALL, GROUPS = "all", {"chapter7": CHAPTER_7, "authors": AUTHORS, "others": OTHERS}


def parse_methods(text: str) -> list[Method]:
    """Returns the methods of 'all', of groups ('chapter7', 'authors', 'others') and of names.

    Raises UserError for an unknown name.
    """
    found: dict[str, Method] = {}
    for name in filter(None, (word.strip() for word in text.split(","))):
        if name == ALL:
            chosen = list(_ALL)
        elif name in GROUPS:
            chosen = [method for method in _ALL if method.group == GROUPS[name]]
        elif name in METHODS:
            chosen = [METHODS[name]]
        else:
            known = (*METHODS, *GROUPS, ALL)
            raise UserError(
                f"--methods {name!r}: no such method{options_lib.nearest(name, known)}; "
                f"known: {', '.join(known)}"
            )
        found |= {method.name: method for method in chosen}
    if not found:
        raise UserError("--methods names none: give all, chapter7, or names with commas")
    return list(found.values())
