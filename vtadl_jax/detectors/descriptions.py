"""What each detector is, its config to start with, and its measured figures: a row per detector.

`python -m vtadl_jax.methods` prints this table with the facts that a built detector tells itself:
what it is trained on, whether it is fitted or trained, which weights it needs. They are not typed
here. Figures are those of docs/results.md, with the command that gives them. A detector without a
row is described by the first line of its file.
"""

import dataclasses
import sys

from vtadl_jax.detectors import DETECTORS

SCREW = "MVTec AD screw, 256²"
DATA = "--config.data.root=DIR"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Results of one command, None where not measured; seconds of the whole program on CPU cores.

    command: what follows `python -m vtadl_jax.main --config`. note: what to know about the figures.
    """

    images: str
    command: str
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    steps: int = 0
    seconds: int | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Description:
    """A row of the table.

    what: one line. config: the experiment file to start with, as FILE or FILE:ARGUMENT.
    """

    what: str
    config: str
    figures: tuple[Figures, ...] = ()


BRIGHTNESS = (
    "in these test images brightness alone separates good from defective, so the image AUROC says "
    "little"
)
DESCRIPTIONS: dict[str, Description] = {
    "context_mdn": Description(
        "Mixture density networks of filter responses in windows of three sizes, conditioned on "
        "the context around each window",
        "configs/context_mdn.py",
        (
            Figures(
                SCREW,
                f"configs/context_mdn.py:screw {DATA}",
                *(0.951, 0.990, 0.945),
                steps=1800,
                seconds=1000,
                note="mean of three seeds; settings chosen among forty variants by these and two "
                "other sets' test images",
            ),
            Figures(
                SCREW,
                f"configs/pretrained.py:screw {DATA} --config.init_from=FILE",
                *(0.941, 0.992, 0.964),
                steps=600,
                seconds=234,
                note="on features of a frozen EfficientNet-lite0; settings chosen as for "
                "configs/context_mdn.py",
            ),
        ),
    ),
    "filter_mixture": Description(
        "Baseline: one mixture of Gaussians with full covariances over fixed filter responses",
        "configs/baseline_filters.py",
        (
            Figures(
                SCREW,
                f"configs/baseline_filters.py:screw {DATA}",
                *(0.788, 0.974, 0.892),
                seconds=180,
                note=BRIGHTNESS,
            ),
            Figures("drawn plates, 128²", "configs/demo.py", 1.000, 0.996, 0.979),
        ),
    ),
    "position_gaussian": Description(
        "For aligned parts: a Gaussian for each position, over patch statistics or any features",
        "configs/position_gaussian.py",
        (
            Figures(
                SCREW,
                f"configs/position_gaussian.py:screw {DATA}",
                *(0.610, 0.947, 0.825),
                seconds=30,
            ),
        ),
    ),
    "contnet_gaussian": Description(
        "For aligned parts: Mahalanobis distances to a Gaussian for each position of ConTNet-B's "
        "features",
        "configs/contnet_gaussian.py",
    ),
    "patch_memory": Description(
        "Distance to the nearest patch in a memory bank of good patches, as in PatchCore",
        "configs/patch_memory.py",
    ),
    "spade": Description(
        "Distances to the nearest good images, and of each place to those images' places, as in "
        "SPADE",
        "configs/spade.py",
    ),
    "subspace": Description(
        "Distance of a patch's features from the principal subspace of good ones, as in SubspaceAD",
        "configs/subspace.py",
    ),
    "feature_reconstruction": Description(
        "Decoder that learns to reconstruct good images' features, a small form of Dinomaly",
        "configs/feature_reconstruction.py",
    ),
    "vtadl": Description(
        "VT-ADL as published: Vision Transformer, decoder, and a Gaussian mixture density network",
        "configs/folder.py",
        (
            Figures(
                "MVTec AD screw, 512²",
                f"configs/mvtec.py:screw {DATA} --config.num_train_steps=400",
                *(0.735, 0.880, 0.585),
                steps=400,
                seconds=918,
                note=f"far fewer steps than in the paper; {BRIGHTNESS}",
            ),
        ),
    ),
    "vtadl_pretrained": Description(
        "VT-ADL's decoder and density on a pretrained encoder's tokens, frozen or fine-tuned",
        "configs/vtadl_pretrained.py",
    ),
    "official": Description(
        "VT-ADL as in its authors' PyTorch code, for their checkpoints; 512 × 512 RGB images only",
        "configs/official.py",
    ),
    "autoencoder": Description(
        "The papers' baseline: a convolutional auto-encoder; the map is the reconstruction error",
        "configs/autoencoder.py",
        (
            Figures(
                SCREW,
                f"configs/autoencoder.py:screw {DATA}",
                *(0.000, 0.957, 0.842),
                steps=1000,
                seconds=760,
                note="ranks these images by brightness: the good test images are darker than all "
                "others",
            ),
        ),
    ),
    "pyramid_ae": Description(
        "Pyramidal auto-encoder (2020): short codes of ResNet features at several widths, one "
        "decoder; MSE and perceptual loss",
        "configs/pyramid_ae.py",
    ),
    "piade": Description(
        "PIADE (2020): pyramid features routed to two vectors, one of them decoded; as the thesis "
        "or as the authors' program has it",
        "configs/piade.py",
    ),
    "image_mixture": Description(
        "Mixture of Gaussians over whole small images that each show one object; map of cells",
        "configs/image_mixture.py",
        (
            Figures(
                "MNIST, mean of one-class runs",
                f"configs/image_mixture.py:mnist-all {DATA}",
                0.988,
            ),
        ),
    ),
    "unet": Description(
        "A small U-Net that segments defects, for data sets with masks of defects",
        "configs/unet.py",
    ),
    "segmentation": Description(
        "FCN32s, Unet (Tiny), UNet++, UNet 2.0 and SegNet of the thesis, on masks or drawn defects",
        "configs/segmentation.py",
    ),
}


def page_of(name: str) -> str:
    """Returns the page of the documentation that describes a detector."""
    return f"docs/methods/{name}.md"


def descriptions() -> dict[str, Description]:
    """Returns a description of every detector, in the order of the rows."""
    order = [*DESCRIPTIONS, *(name for name in DETECTORS if name not in DESCRIPTIONS)]
    return {name: DESCRIPTIONS.get(name) or default_description(name) for name in order}


def default_description(name: str) -> Description:
    """Returns the first line of the detector's file, and configs/NAME.py."""
    text = sys.modules[DETECTORS[name].make.__module__].__doc__ or ""
    return Description(text.strip().partition("\n")[0].rstrip("."), f"configs/{name}.py")
