"""Resizes pixels and masks to the network's size, and maps back to the original size.

One `Geometry` transforms images and masks alike, so that they stay aligned. No files (see
`decode`); augmentation and normalisation to floats run on the device.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vtadl_jax.data.masks import lost_regions, num_apart, regions_of, understand
from vtadl_jax.data.memory import as_array
from vtadl_jax.data.regions.area import at_size, check_aspect
from vtadl_jax.data.regions.region import Regions
from vtadl_jax.errors import UserError

FITS = ("stretch", "pad", "crop")


@dataclass(frozen=True)
class Geometry:
    """Resize to `resize` (height, width; `size` if None), then a centre crop of `size`.

    fit: 'stretch' scales both sides to `resize` whatever the aspect; 'pad' keeps the aspect, scales
    the image to fit inside and repeats its edge pixels; 'crop' keeps the aspect, scales the image
    to cover and crops the rest. bits: of the values in files of 16 bits, for `decode`; 0: all 16.
    regions: where images are inspected; None: everywhere. Raises UserError for sizes that are not
    positive, a crop larger than `resize` and an unknown fit.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | None = None
    fit: str = "stretch"
    bits: int = 0
    regions: Regions | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            if value is None and name == "resize":
                continue
            if len(value) != 2 or min(value) < 1:
                raise UserError(
                    f"{name} {tuple(value)} is not (height, width) in pixels, 1 or more"
                )
            object.__setattr__(self, name, (int(value[0]), int(value[1])))  # lists are not hashable
        if self.size[0] > self.canvas[0] or self.size[1] > self.canvas[1]:
            raise UserError(
                f"size {self.size} cannot be cut from resize {self.resize}: "
                "make resize at least as large, or leave it out"
            )
        if self.fit not in FITS:
            raise UserError(f"data.fit {self.fit!r}: use {', '.join(FITS)}")

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) that an image is scaled to, before the crop."""
        return self.resize or self.size

    def image(
        self,
        image: np.ndarray | Image.Image,
        channels: int | None = None,
        area: np.ndarray | None = None,
    ) -> np.ndarray:
        """Resizes grey or RGB pixels (uint8 [h, w] or [h, w, C], or PIL) to uint8 [H, W, 1 or 3].

        Bilinear with antialiasing. `channels` 3 repeats grey; by default C is that of the image.
        Pixels that are not `inside` have one colour. area: as there.
        """
        if isinstance(image, Image.Image) and image.mode not in ("L", "RGB"):
            raise UserError(f"image mode {image.mode} is not L or RGB: convert it first")
        pixels = np.asarray(image)
        squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        shape_ok = squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[2] == 3)
        if pixels.dtype != np.uint8 or not shape_ok:
            raise UserError(
                f"image array {pixels.dtype} {pixels.shape} is not uint8 [h, w] or [h, w, 1 or 3]: "
                "convert it first"
            )
        moved = self._move(squeezed, Image.Resampling.BILINEAR, "edge")
        if moved.ndim == 2:
            moved = moved[..., None]
        if channels == 3 and moved.shape[2] == 1:  # after scaling: a third of the cost
            moved = _repeat_grey(moved)
        if self.regions is not None:
            inside = self.inside((pixels.shape[0], pixels.shape[1]), area)
            moved[~inside] = self.regions.colour
        return moved

    def inside(self, original_size: tuple[int, int], area: np.ndarray | None = None) -> np.ndarray:
        """Returns where the resized image is inspected, bool [H, W].

        These are the pixels that no pixel outside of the region has a part in, so that nothing
        there changes them; with one region for all images, to a pixel if images have another size
        than it. area: bool [h, w], the region of this image alone; by default that of
        `regions`, or everything. Raises UserError if it is of another aspect than the image, and if
        no pixel is left.
        """
        if area is None:
            return _inside_of_set(self, original_size)
        outside = ~at_size(area, original_size)
        moved = self._move(outside.astype(np.float32), Image.Resampling.BILINEAR, "edge") == 0
        if not moved.any():
            raise UserError(
                f"data.regions leaves no pixel of an image of {_text(original_size)} at "
                f"{_text(self.size)} (width×height): draw a larger region, or use a larger "
                f"image_size"
            )
        return moved

    def mask(self, mask: np.ndarray | Image.Image) -> np.ndarray:
        """Resizes a mask as `mask_and_thin`, without the number of thin regions."""
        return self.mask_and_thin(mask)[0]

    def mask_and_thin(self, mask: np.ndarray | Image.Image) -> tuple[np.ndarray, int]:
        """Resizes a mask (PIL or [h, w]; as `masks.understand`) to uint8 {0, 1} [H, W].

        Marks defects first, then takes the nearest pixel: resizing before would enlarge them.
        Padding is 0. A region of which no pixel would be left, because it is thinner than the step
        from pixel to pixel, marks every pixel that it touches; its shape is then at least one pixel
        wide. Also returns the number of thin regions: these, and those that fall into pieces.
        """
        if isinstance(mask, Image.Image) and not mask.mode.startswith(("1", "L", "I")):
            raise UserError(f"mask mode {mask.mode} is not 1, L or I;16: convert it first")
        marked = understand(np.asarray(mask)).pixels
        moved = self._move(marked.astype(np.uint8), Image.Resampling.NEAREST, "constant")
        return moved, self._mark_thin(marked, moved)

    def _mark_thin(self, marked: np.ndarray, moved: np.ndarray) -> int:
        """Marks regions in `moved` of which it has no pixel; returns the number of thin regions."""
        size = (marked.shape[0], marked.shape[1])
        scaled = self.scaled(size)
        if (scaled[0] >= size[0] and scaled[1] >= size[1]) or not marked.any():
            return 0
        labels = regions_of(marked)
        there = self._move(labels, Image.Resampling.NEAREST, "constant")
        rows, columns = np.nonzero(lost_regions(marked, there, labels))
        (top, _), (left, _) = self._margins(size)
        y, x = rows * scaled[0] // size[0] - top, columns * scaled[1] // size[1] - left
        inside = (y >= 0) & (y < self.size[0]) & (x >= 0) & (x < self.size[1])
        moved[y[inside], x[inside]] = 1
        num_lost = np.unique(labels[rows[inside], columns[inside]]).size
        return num_lost + num_apart(there, regions_of(moved))

    def invert(self, anomaly_map: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Resizes a map float32 [H, W] to the original image, float32 `original_size` = [h, w].

        Bilinear; pixels outside the crop take the nearest value at the map's edge.
        """
        if anomaly_map.shape != self.size:
            raise UserError(
                f"map {anomaly_map.shape} is not of the geometry's size {self.size}: "
                "use the geometry that made its image"
            )
        scaled = np.asarray(anomaly_map, np.float32)
        for axis, (before, after) in enumerate(self._margins(original_size)):
            inside = slice(max(-before, 0), scaled.shape[axis] - max(-after, 0))
            scaled = scaled[inside] if axis == 0 else scaled[:, inside]
        margins = [tuple(max(m, 0) for m in pair) for pair in self._margins(original_size)]
        scaled = np.pad(scaled, margins, mode="edge")
        return as_array(scale(scaled, original_size, Image.Resampling.BILINEAR))

    def invert_inside(self, inside: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Returns which pixels of the original image are inspected, bool [h, w], as `invert`."""
        return self.invert(inside.astype(np.float32), original_size) >= 0.5

    def scaled(self, original_size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) that an image of this size is scaled to, before the crop."""
        if self.fit == "stretch":
            return self.canvas
        (height, width), (top, left) = original_size, self.canvas
        by_height = (top * width <= left * height) == (self.fit == "pad")
        to, of = (top, height) if by_height else (left, width)
        return max(rounded(height * to, of), 1), max(rounded(width * to, of), 1)

    def _margins(self, original_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns the cropped pixels before and after, for height and width; negative: padding."""
        pairs = []
        for scaled, side in zip(self.scaled(original_size), self.size, strict=True):
            before = (scaled - side) // 2
            pairs.append((before, scaled - side - before))
        return pairs

    def _move(self, pixels: np.ndarray, resample: Image.Resampling, pad_mode) -> np.ndarray:
        original_size = (pixels.shape[0], pixels.shape[1])
        height, width = self.scaled(original_size)
        if original_size != (height, width):
            pixels = np.asarray(scale(pixels, (height, width), resample))
        (top, bottom), (left, right) = self._margins(original_size)
        rows = slice(max(top, 0), height - max(bottom, 0))
        cut = pixels[rows, max(left, 0) : width - max(right, 0)]
        if min(top, bottom, left, right) >= 0:
            return np.array(cut)
        margins = [(max(-top, 0), max(-bottom, 0)), (max(-left, 0), max(-right, 0))]
        return np.pad(cut, margins + [(0, 0)] * (cut.ndim - 2), mode=pad_mode)


@functools.lru_cache(maxsize=64)
def _inside_of_set(geometry: Geometry, original_size: tuple[int, int]) -> np.ndarray:
    """Returns `Geometry.inside` by the region of all images, once for each size of an image.

    Always that of images of the region's own size: an exported program has no other.
    """
    regions = geometry.regions
    if regions is None or regions.area is None:
        found = np.ones(geometry.size, bool)
    else:
        check_aspect(regions.area.shape, original_size)
        found = geometry.inside((regions.area.shape[0], regions.area.shape[1]), regions.area)
    found.flags.writeable = False
    return found


def scale(pixels: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Resizes an array [h, w] or [h, w, 3] to `size` (height, width), columns before rows.

    Pillow takes either axis first, as its version sees fit, and rounds pixels in between: in a
    fixed order the result is the same by all versions, and by `ops/pillow_resize.py`.
    """
    image = Image.fromarray(pixels)
    if resample == Image.Resampling.BILINEAR:
        image = image.resize((size[1], image.height), resample)
    return image.resize((size[1], size[0]), resample)


def rounded(numerator: int, denominator: int) -> int:
    """Returns the quotient rounded to the nearest integer, halves to even, without floats."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1))


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"


def _repeat_grey(pixels: np.ndarray) -> np.ndarray:
    """Repeats a grey channel, [H, W, 1] → [H, W, 3], in half the time of `np.repeat`."""
    rgb = np.empty((*pixels.shape[:2], 3), pixels.dtype)
    for channel in range(3):
        rgb[..., channel] = pixels[..., 0]
    return rgb
