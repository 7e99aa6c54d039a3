"""MVTec AD: the fifteen published categories."""

from typing import ClassVar

from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.builders.config import category_config
from vtadl_jax.data.sources.layouts import MVTEC

GREY = ("grid", "screw", "zipper")


class MvtecAd(LayoutBuilder):
    """Builder of MVTec AD; one config per category."""

    TITLE = "MVTec AD"
    LAYOUTS = (MVTEC,)
    DESCRIPTION = (
        "Photographs of ten objects and five textures: good ones to train on, good and defective "
        "ones to test on, and masks of the defects."
    )
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    LICENSE = "CC BY-NC-SA 4.0"
    CITATION = (
        "@article{bergmann2021mvtec, title={The MVTec Anomaly Detection Dataset: A Comprehensive "
        "Real-World Dataset for Unsupervised Anomaly Detection}, author={Bergmann, Paul and "
        "Batzner, Kilian and Fauser, Michael and Sattlegger, David and Steger, Carsten}, "
        "journal={International Journal of Computer Vision}, volume={129}, number={4}, "
        "pages={1038--1059}, year={2021}}"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"get mvtec_anomaly_detection.tar.xz from {HOMEPAGE} (its licence must be accepted there) "
        "and give it, or the folder with bottle/, cable/, … that it holds, as --source"
    )
    COUNTS: ClassVar = {
        "bottle": (209, 20, 63),
        "cable": (224, 58, 92),
        "capsule": (219, 23, 109),
        "carpet": (280, 28, 89),
        "grid": (264, 21, 57),
        "hazelnut": (391, 40, 70),
        "leather": (245, 32, 92),
        "metal_nut": (220, 22, 93),
        "pill": (267, 26, 141),
        "screw": (320, 41, 119),
        "tile": (230, 33, 84),
        "toothbrush": (60, 12, 30),
        "transistor": (213, 60, 40),
        "wood": (247, 19, 60),
        "zipper": (240, 32, 119),
    }
    BUILDER_CONFIGS: ClassVar = [
        category_config(name, channels=1 if name in GREY else 3) for name in COUNTS
    ]
