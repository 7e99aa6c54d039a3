"""One scored image as the page shows it: small pictures as text, and numbers.

A card is encoded as soon as its image is scored, so that no pixel array outlives its batch. This
file encodes; what the page does with a card is in `page.js`.
"""

import base64
import dataclasses
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtadl_jax.report import colormap, marks

SIDE_MAX = 384  # px; larger pictures are reduced until their longer side has this
SIDE_MIN = 192  # px; smaller ones are enlarged by a whole factor until it has this
QUALITY = 80


@dataclasses.dataclass(frozen=True)
class Card:
    """One scored image.

    label: 1 is defective; defect: its kind; score: higher is more anomalous; terms: what the score
    is made of; image: uint8 [H, W, 3]; anomaly_map: float32 [H, W]; mask: uint8 or bool [H, W],
    non-zero is defective, None where there is no ground truth; recon: uint8 [H, W, 3] or None.
    """

    name: str
    label: int
    defect: str
    score: float
    terms: dict[str, float]
    image: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[Any] | None
    recon: NDArray[np.uint8] | None


@dataclasses.dataclass(frozen=True)
class EncodedCard:
    """A card whose pictures are data URLs of `width` x `height` px, some 10 kB in all.

    outline: transparent but for a line around each defect; None without a mask, or without a
    defect in it. has_truth tells the two apart.
    """

    name: str
    label: int
    defect: str
    score: float
    terms: dict[str, float]
    width: int
    height: int
    image: str
    heat: str
    has_truth: bool
    outline: str | None
    recon: str | None


def encode_card(
    card: Card, map_low: float, map_high: float, side_max: int = SIDE_MAX
) -> EncodedCard:
    """The card with pictures of at most `side_max` px, heat map coloured on [map_low, map_high].

    Raises:
      ValueError: shapes that differ, NaN in the map or as score, a scale that is not increasing.
    """
    marks.check_panels(card.image, card.anomaly_map, card.mask, card.recon)
    if math.isnan(card.score):
        raise ValueError(f"the score of {card.name!r} is NaN, which has no place in any order")
    height, width, _ = card.image.shape
    size = _picture_size(height, width, side_max)
    return EncodedCard(
        name=card.name,
        label=int(card.label),
        defect=card.defect,
        score=float(card.score),
        terms={name: float(value) for name, value in card.terms.items()},
        width=size[0],
        height=size[1],
        image=_photo(card.image, size),
        heat=_webp(marks.heat(card.anomaly_map, map_low, map_high, size)),
        has_truth=card.mask is not None,
        outline=None if card.mask is None or not np.any(card.mask) else _outline(card.mask, size),
        recon=None if card.recon is None else _photo(card.recon, size),
    )


def _picture_size(height: int, width: int, side_max: int) -> tuple[int, int]:
    """(width, height) in px; at most side_max, and not so small that an outline would fill it."""
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
    """The defects' outline on a clear ground."""
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
    """The colour map from its low to its high end as a data URL, 256 x 1 px, exact."""
    return _data_url(Image.fromarray(colormap.LUT[None]), "PNG", optimize=True)
