"""The comparison of chapter 7 of Mishra's thesis, as printed: tables 7.1 to 7.4.

"PRO" of tables 7.3 and 7.4 is another measure than our exact AU-PRO: neither its thresholds nor its
limit are given, VT-ADL's values are not those of the thesis's own table 6.3 (0.95 for bottle), and
SPADE's maps may be of 224 × 224 crops, the others' of 512 × 512 crops. The thesis doesn't say how
images with masks were divided into those to train and to test on. Table 7.3 leaves carpet and
leather out. Times are of its machine; the unit of SPADE's 255.29 s is open, as it isn't trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Mishra's thesis, chapter 7"
METHODS = ("VT-ADL", "SPADE", "FCN32", "Unet (Tiny)", "Unet++", "Unet2", "SegNet")


@dataclass(frozen=True)
class PublishedCost:
    """Tables 7.1 and 7.2: parameters, seconds per 100 epochs, seconds for an image.

    gpu: in single and in half precision.
    """

    parameters: int
    seconds_per_100_epochs: float
    gpu: tuple[float, float]
    cpu: float


COSTS: Mapping[str, PublishedCost] = {
    "VT-ADL": PublishedCost(19_041_555, 734.92, (0.01, 0.0083), 0.03),
    "SPADE": PublishedCost(68_883_240, 255.29, (0.035, 0.033), 1.75),
    "FCN32": PublishedCost(18_643_713, 1488.52, (0.037, 0.028), 2.81),
    "Unet (Tiny)": PublishedCost(3_352_257, 1316.11, (0.021, 0.016), 1.45),
    "Unet++": PublishedCost(9_163_329, 1961.15, (0.059, 0.055), 6.29),
    "Unet2": PublishedCost(19_667_969, 1886.41, (0.057, 0.04), 6.13),
    "SegNet": PublishedCost(29_443_585, 1709.16, (0.044, 0.042), 5.3),
}
# fmt: off
_CATEGORIES = (
    "bottle", "cable", "capsule", "grid", "hazelnut", "pill", "metal_nut", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper", "01", "02", "03",
)
_PRO = {  # table 7.3, then 7.4; the thesis counts the products of BTAD from 0
    "VT-ADL": (.77, .87, .73, .78, .95, .67, .90, .73, .71, .93, .90, .80, .81, .92, .89, .86),
    "SPADE": (.94, .84, .98, .99, .99, .95, .95, .99, .87, .99, .76, .96, .99, .98, .98, .99),
    "FCN32": (.96, .87, .57, .79, .97, .95, .99, .63, .98, .88, .90, .90, .78, .92, .87, .87),
    "Unet (Tiny)": (.97, .91, .77, .90, .98, .99, .99, .78, .98, .97, .96, .96, .87, .93, .91, .95),
    "Unet2": (.97, .96, .56, .93, .98, .97, .99, .66, .99, .97, .97, .98, .93, .97, .93, .97),
    "Unet++": (.97, .94, .72, .89, .98, .99, .99, .74, .98, .98, .96, .97, .91, .91, .91, .95),
    "SegNet": (.94, .83, .59, .90, .97, .93, .99, .54, .99, .90, .93, .95, .83, .94, .90, .84),
}
# fmt: on
PRO: Mapping[str, Mapping[str, float]] = {
    method: dict(zip(_CATEGORIES, values, strict=True)) for method, values in _PRO.items()
}


def published_pro(method: str, category: str) -> float | None:
    """Returns the thesis's "PRO" of a method on a category, None where it prints none."""
    return PRO.get(method, {}).get(category)
