"""BTAD, beanTech Anomaly Detection: the three published products."""

from typing import ClassVar

from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.builders.config import category_config
from vtadl_jax.data.sources.layouts import BTAD


class Btad(LayoutBuilder):
    """Builder of BTAD; one config per product."""

    TITLE = "BTAD"
    LAYOUTS = (BTAD,)
    DESCRIPTION = (
        "Photographs of three industrial products with defects of body and surface: good ones to "
        "train on, good ('ok') and defective ('ko') ones to test on, and masks of the defects."
    )
    HOMEPAGE = "https://avires.dimi.uniud.it/papers/btad/"
    LICENSE = f"see {HOMEPAGE}"
    CITATION = (
        "@inproceedings{mishra2021vtadl, title={VT-ADL: A Vision Transformer Network for Image "
        "Anomaly Detection and Localization}, author={Mishra, Pankaj and Verk, Riccardo and "
        "Fornasier, Daniele and Piciarelli, Claudio and Foresti, Gian Luca}, booktitle={30th "
        "IEEE International Symposium on Industrial Electronics (ISIE)}, year={2021}}"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"get {HOMEPAGE}btad.zip and give it, or the folder with 01/, 02/ and 03/ that it holds, "
        "as --source"
    )
    COUNTS: ClassVar = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}
    BUILDER_CONFIGS: ClassVar = [category_config(name) for name in ("01", "02", "03")]
