"""Draws a defect's outline and a map's colours over an image, for overlays and cards."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vtadl_jax.report import colormap

OUTLINE = (0, 229, 255)  # cyan: not a colour of the heat map, and bright on dark and light
HALO = (0, 40, 48)
REGION = (255, 214, 10)  # amber: where images are inspected


def check_panels(image: Any, anomaly_map: Any, mask: Any, recon: Any) -> None:
    """Raises ValueError unless map, mask and reconstruction (each may be None) fit the image."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
    for name, array, shape in (
        ("anomaly_map", anomaly_map, image.shape[:2]),
        ("mask", mask, image.shape[:2]),
        ("recon", recon, image.shape),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, the image asks for {shape}")
    if recon is not None and recon.dtype != np.uint8:
        raise ValueError(f"recon must be uint8, got {recon.dtype}")


def outline(mask: NDArray[Any], size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns a line around every region and a wider one behind it, bool [h, w] each.

    The lines do not cover the defect. mask: [H, W], non-zero is defective; size: (width, height) of
    the picture.
    """
    area = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    if size[0] >= area.width:
        area = area.resize(size, Image.Resampling.NEAREST)
    else:  # a thin defect must not fall between the samples
        area = area.resize(size, Image.Resampling.BOX).point(lambda v: 255 * (v > 0))
    inside = np.asarray(area) > 0
    line = (np.asarray(area.filter(ImageFilter.MaxFilter(5))) > 0) & ~inside
    halo = (np.asarray(area.filter(ImageFilter.MaxFilter(7))) > 0) & ~inside
    frame = np.ones_like(inside)
    frame[2:-2, 2:-2] = False
    line |= frame & inside  # where a region leaves the picture there is no outside to draw on
    return line, halo


def with_region(image: NDArray[np.uint8], inside: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Returns an image [H, W, 3] with a line around what is inspected, bool [H, W]; itself if that
    is everything or not known."""
    if inside is None or inside.all():
        return image
    wide = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).filter(
        ImageFilter.MaxFilter(3 if min(inside.shape) < 512 else 5)
    )
    drawn = np.array(image)
    drawn[(np.asarray(wide) > 0) & ~np.asarray(inside, bool)] = REGION
    return drawn


def heat(
    anomaly_map: NDArray[np.float32], low: float, high: float, size: tuple[int, int]
) -> Image.Image:
    """Returns the coloured map at `size` (width, height); values, not colours, are interpolated.

    Raises ValueError for NaN and for a scale that is not increasing.
    """
    colormap.check_scale(low, high)
    values = np.clip(np.asarray(anomaly_map, np.float32), low, high)  # bilinear of inf is NaN
    smooth = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(colormap.apply(np.asarray(smooth), low, high))
