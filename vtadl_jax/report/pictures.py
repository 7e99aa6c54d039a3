"""Draws pictures of results: one row of panels per image, and sheets of rows with a colour bar.

A row shows: image | ground truth | anomaly map over the grey image | reconstruction, as far as the
detector makes them. All heat maps of a data set share one [low, high], so that colours are
comparable between images. This file draws with PIL into memory; it computes no scores, chooses no
scale and writes no files.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vtadl_jax.report import colormap, marks

PANEL_SIDE_MIN = 160  # px; smaller images are enlarged until their shorter side has this
PANEL_SIDE_USUAL = 384  # px; larger ones are reduced until their longer side has this
PANEL_SIDE_MAX = 640  # px; for long, narrow images, whose shorter side would be below the minimum
PHOTO_SIDE_MAX = 2 * PANEL_SIDE_MAX  # px; what a panel is drawn from
HEAT_OPACITY = 0.7

_PAPER = (255, 255, 255)
_INK = (32, 33, 36)
_FAINT = (110, 114, 120)
_GAP = 8
_MARGIN = 12
_TITLE_SIZE = 15
_CAPTION_SIZE = 12
_BAR_WIDTH, _BAR_HEIGHT = 320, 12


def overlay_row(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32] | None,
    *,
    low: float,
    high: float,
    mask: NDArray[Any] | None = None,
    recon: NDArray[np.uint8] | None = None,
    title: str,
    masks: bool = True,
) -> Image.Image:
    """Draws one image's panels side by side under a title, each with a caption.

    Args:
      image: uint8 [H, W, 3], RGB.
      anomaly_map: float32 [H, W], higher is more anomalous; None for a detector without maps.
      low, high: the data set's colour scale, in the unit of the map.
      mask: uint8 or bool [H, W], non-zero is anomalous; None without ground truth.
      recon: uint8 [H, W, 3], the detector's reconstruction if it has one.
      title: one line; cut with an ellipsis if it is wider than the row.
      masks: whether other rows may have a mask: without one there is a panel in its place.

    Raises:
      ValueError: different shapes, NaN in the map, or a scale that is not increasing.
    """
    marks.check_panels(image, anomaly_map, mask, recon)
    size = _panel_size(*image.shape[:2])
    photo = _resize(Image.fromarray(image), size)
    panels = [("image", photo)]
    if mask is not None:
        caption = "ground truth" if np.any(mask) else "ground truth: normal"
        panels.append((caption, _outlined(photo, mask)))
    elif masks and anomaly_map is not None:  # keeps the maps of a sheet below each other
        panels.append(("no mask", photo))
    if anomaly_map is not None:
        panels.append(("anomaly map", _heated(photo, anomaly_map, low, high)))
    if recon is not None:
        panels.append(("reconstruction", _resize(Image.fromarray(recon), size)))
    return _arrange(panels, title)


def photo_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an image [h, w] or [h, w, 3] as [h, w, 3] for its panel, reduced if it is large."""
    times = -(-max(pixels.shape[:2]) // PHOTO_SIDE_MAX)
    small = np.asarray(Image.fromarray(pixels).reduce(times)) if times > 1 else pixels
    return small if small.ndim == 3 else np.repeat(small[..., None], 3, -1)


def contact_sheet(
    rows: Sequence[Image.Image], *, low: float, high: float, has_maps: bool = True
) -> Image.Image:
    """Stacks rows, with a colour bar and its scale at the bottom.

    Args:
      rows: from `overlay_row`, all with this scale; widths may differ.
      low, high: the scale of the rows.
      has_maps: whether the rows show maps; without them there is no colour bar.

    Raises:
      ValueError: no rows, or a scale that is not increasing.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    pictures = [*rows, _colour_bar(low, high)] if has_maps else rows
    size = max(p.width for p in pictures), sum(p.height for p in pictures)
    sheet = Image.new("RGB", size, _PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """Returns (width, height) of a panel in pixels."""
    short, long = sorted((height, width))
    if short < PANEL_SIDE_MIN:
        scale = float(-(-PANEL_SIDE_MIN // short))  # whole: enlarged pixels stay equally large
    else:
        scale = max(PANEL_SIDE_MIN / short, min(1.0, PANEL_SIDE_USUAL / long))
    scale = min(scale, PANEL_SIDE_MAX / long)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarges = size[0] > picture.width
    how = Image.Resampling.BILINEAR if enlarges else Image.Resampling.LANCZOS
    return picture.resize(size, how)


def _outlined(photo: Image.Image, mask: NDArray[Any]) -> Image.Image:
    """Draws a bright line around each region without covering the defect."""
    line, halo = marks.outline(mask, photo.size)
    pixels = np.array(photo)
    pixels[halo] = marks.HALO
    pixels[line] = marks.OUTLINE
    return Image.fromarray(pixels)


def _heated(
    photo: Image.Image, anomaly_map: NDArray[np.float32], low: float, high: float
) -> Image.Image:
    """Blends the coloured map over the grey photo."""
    heat = marks.heat(anomaly_map, low, high, photo.size)
    return Image.blend(photo.convert("L").convert("RGB"), heat, HEAT_OPACITY)


def _arrange(panels: Sequence[tuple[str, Image.Image]], title: str) -> Image.Image:
    title_font, font = ImageFont.load_default(_TITLE_SIZE), ImageFont.load_default(_CAPTION_SIZE)
    width, height = panels[0][1].size
    top = _MARGIN + _TITLE_SIZE + 8
    row = Image.new(
        "RGB",
        (
            2 * _MARGIN + len(panels) * (width + _GAP) - _GAP,
            top + height + _CAPTION_SIZE + 8 + _MARGIN,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(row)
    title = _shortened(title, title_font, row.width - 2 * _MARGIN)
    draw.text((_MARGIN, top - 8), title, fill=_INK, font=title_font, anchor="ls")
    for i, (caption, panel) in enumerate(panels):
        left = _MARGIN + i * (width + _GAP)
        row.paste(panel, (left, top))
        caption = _shortened(caption, font, width)
        draw.text((left, top + height + 5), caption, fill=_FAINT, font=font)
    return row


def _shortened(text: str, font: Any, width: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _colour_bar(low: float, high: float) -> Image.Image:
    colormap.check_scale(low, high)
    font = ImageFont.load_default(_CAPTION_SIZE)
    top = _CAPTION_SIZE + 6
    height = top + _BAR_HEIGHT + _CAPTION_SIZE + 10 + _MARGIN
    bar = Image.new("RGB", (_BAR_WIDTH + 2 * _MARGIN, height), _PAPER)
    ramp = np.tile(np.linspace(low, high, _BAR_WIDTH, dtype=np.float32), (_BAR_HEIGHT, 1))
    bar.paste(Image.fromarray(colormap.apply(ramp, low, high)), (_MARGIN, top))
    draw = ImageDraw.Draw(bar)
    caption = "anomaly map, the same scale in every row"
    draw.text((_MARGIN, 0), caption, fill=_FAINT, font=font)
    for fraction, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        at = (_MARGIN + fraction * _BAR_WIDTH, top + _BAR_HEIGHT + 4)
        number = f"{low + fraction * (high - low):.4g}"
        draw.text(at, number, fill=_INK, font=font, anchor=anchor)
    return bar
