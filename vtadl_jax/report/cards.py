"""Encodes scored images for the report page: small pictures as data URLs, and numbers.

A card is encoded as soon as its image is scored, so that no pixel array outlives its batch. This
file encodes; `page.js` displays the cards.
"""

import base64
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtadl_jax.report import colormap, marks
from vtadl_jax.report.disagreement import Opinion

SIDE_MAX = 384  # px; larger pictures are reduced until their longer side has this
SIDE_MIN = 192  # px; smaller ones are enlarged by a whole factor until it has this
QUALITY = 80


@dataclasses.dataclass(frozen=True)
class Card:
    """One scored image.

    label: 1 is defective; defect: its kind; score: higher is more anomalous; terms: of the score;
    image: uint8 [H, W, 3]; anomaly_map: float32 [H, W], None for a detector without maps; mask:
    uint8 or bool [H, W], non-zero is defective, None without ground truth; recon: uint8 [H, W, 3],
    None for a detector without reconstruction. unlike: what is unlike all training images, or ''.
    p_value: how rarely a good image scores as high; None if not known. opinions: of the experts of
    a detector that combines several; disagreement: in which way they disagree, '' if they do not;
    expert_maps: float32 [H, W] of each, by name, of an image in which they disagree.
    """

    name: str
    label: int
    defect: str
    score: float
    terms: dict[str, float]
    image: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32] | None
    mask: NDArray[Any] | None
    recon: NDArray[np.uint8] | None
    unlike: str = ""
    p_value: float | None = None
    opinions: Sequence[Opinion] = ()
    disagreement: str = ""
    expert_maps: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EncodedCard:
    """Card with pictures as data URLs of `width` x `height` px, about 10 kB in all.

    heat: the coloured map, None without one. outline: transparent except for a line around each
    defect; None without a mask, or without a defect in it; has_truth distinguishes the two.
    experts: the coloured map of each, where they disagree.
    """

    name: str
    label: int
    defect: str
    score: float
    terms: dict[str, float]
    width: int
    height: int
    image: str
    heat: str | None
    has_truth: bool
    outline: str | None
    recon: str | None
    unlike: str = ""
    p_value: float | None = None
    opinions: Sequence[Opinion] = ()
    disagreement: str = ""
    experts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def encode_card(
    card: Card, map_low: float, map_high: float, side_max: int = SIDE_MAX
) -> EncodedCard:
    """Encodes a card, with pictures of at most `side_max` px and the map's colours on [map_low,
    map_high].

    Raises:
      ValueError: different shapes, NaN in the map or as score, a scale that is not increasing.
    """
    marks.check_panels(card.image, card.anomaly_map, card.mask, card.recon)
    if math.isnan(card.score):
        raise ValueError(f"the score of {card.name!r} is NaN, which has no place in any order")
    height, width, _ = card.image.shape
    size = _picture_size(height, width, side_max)
    heat = None
    if card.anomaly_map is not None:
        heat = _webp(marks.heat(card.anomaly_map, map_low, map_high, size))
    return EncodedCard(
        name=card.name,
        label=int(card.label),
        defect=card.defect,
        score=float(card.score),
        terms={name: float(value) for name, value in card.terms.items()},
        width=size[0],
        height=size[1],
        image=_photo(card.image, size),
        heat=heat,
        has_truth=card.mask is not None,
        outline=None if card.mask is None or not np.any(card.mask) else _outline(card.mask, size),
        recon=None if card.recon is None else _photo(card.recon, size),
        unlike=card.unlike,
        p_value=card.p_value,
        opinions=card.opinions,
        disagreement=card.disagreement,
        experts={
            name: _webp(marks.heat(found, map_low, map_high, size))
            for name, found in card.expert_maps.items()
        },
    )


def _picture_size(height: int, width: int, side_max: int) -> tuple[int, int]:
    """Returns (width, height) in px: at most side_max, and large enough for an outline."""
    long = max(height, width)
    scale = -(-SIDE_MIN // long) if long < SIDE_MIN else 1.0
    scale = min(scale, side_max / long)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _photo(pixels: NDArray[np.uint8], size: tuple[int, int]) -> str:
    picture = Image.fromarray(pixels)
    enlarges = size[0] > picture.width
    how = Image.Resampling.BILINEAR if enlarges else Image.Resampling.LANCZOS
    return _webp(picture.resize(size, how))


def _outline(mask: NDArray[Any], size: tuple[int, int]) -> str:
    """Draws the defects' outline on a transparent background."""
    line, halo = marks.outline(mask, size)
    indices = np.where(line, 2, np.where(halo, 1, 0)).astype(np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([*(0, 0, 0), *marks.HALO, *marks.OUTLINE])
    return _data_url(picture, "PNG", transparency=0, bits=2, optimize=True)


def _webp(picture: Image.Image) -> str:
    return _data_url(picture, "WebP", quality=QUALITY, method=2)


def _data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def colour_bar() -> str:
    """Returns the colour map, low to high, as a data URL of 256 x 1 px, exact."""
    return _data_url(Image.fromarray(colormap.LUT[None]), "PNG", optimize=True)
