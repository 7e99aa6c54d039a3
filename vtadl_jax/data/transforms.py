"""Files → pixels → arrays of the network's size, and maps back to the size of the original.

One `Geometry` moves images and masks alike, so that they stay aligned. No augmentation, no
normalisation to floats (that is done on the device) and no batching (see `pipeline`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vtadl_jax.errors import UserError

MAX_PIXELS = 20_000 * 20_000
# PIL refuses anything above 179 million pixels as an attack, line-scan cameras make more.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)

Image.init()  # now, not at the first TIFF: two threads that load PIL's plugins trip each other

END_MARKS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}

_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Geometry:
    """Resize to `resize` (height, width; `size` when None), then cut the centre out to `size`.

    Raises UserError for sizes that are not positive and for a cut larger than what it is cut from.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            if value is None and name == "resize":
                continue
            if len(value) != 2 or min(value) < 1:
                raise UserError(
                    f"{name} {tuple(value)} is not (height, width) in pixels, 1 or more"
                )
            object.__setattr__(self, name, (int(value[0]), int(value[1])))  # lists cannot be hashed
        if self.size[0] > self._canvas[0] or self.size[1] > self._canvas[1]:
            raise UserError(
                f"size {self.size} cannot be cut from resize {self.resize}: "
                "make resize at least as large, or leave it out"
            )

    def image(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Grey or RGB image (PIL, or uint8 [h, w] or [h, w, C]) → uint8 [H, W, C], C 1 or 3.

        Bilinear, over the whole footprint of an output pixel when shrinking.
        """
        if isinstance(image, np.ndarray):
            squeezed = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
            shape_ok = squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[2] == 3)
            if image.dtype != np.uint8 or not shape_ok:
                raise UserError(
                    f"image array {image.dtype} {image.shape} is not uint8 [h, w] or [h, w, 1 or 3]"
                    ": convert it first"
                )
            image = Image.fromarray(squeezed)
        if image.mode not in ("L", "RGB"):
            raise UserError(f"image mode {image.mode} is not L or RGB: convert it first")
        pixels = np.array(self._move(image, Image.Resampling.BILINEAR))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def mask(self, mask: Image.Image | np.ndarray) -> np.ndarray:
        """Mask (PIL or [h, w]; bool, 8 or 16 bits) → uint8 {0, 1} [H, W].

        Cut at half the range, then nearest pixel: a mask resized first and cut later would grow.
        """
        if isinstance(mask, Image.Image) and not mask.mode.startswith(("1", "L", "I")):
            raise UserError(f"mask mode {mask.mode} is not 1, L or I;16: convert it first")
        binary = Image.fromarray(binarise(np.asarray(mask)).astype(np.uint8))
        return np.array(self._move(binary, Image.Resampling.NEAREST))

    def invert(self, anomaly_map: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Map float32 [H, W] → float32 [h, w] on the original image, `original_size` = (h, w).

        Bilinear; what the cut left out takes the nearest value at the map's edge.
        """
        if anomaly_map.shape != self.size:
            raise UserError(
                f"map {anomaly_map.shape} is not of the geometry's size {self.size}: "
                "use the geometry that made its image"
            )
        (top, left), (height, width) = self._corner, self._canvas
        margins = (
            (top, height - self.size[0] - top),
            (left, width - self.size[1] - left),
        )
        canvas = np.pad(np.asarray(anomaly_map, np.float32), margins, mode="edge")
        size = (original_size[1], original_size[0])  # PIL puts the width first
        return np.array(Image.fromarray(canvas).resize(size, Image.Resampling.BILINEAR))

    @property
    def _canvas(self) -> tuple[int, int]:
        return self.resize or self.size

    @property
    def _corner(self) -> tuple[int, int]:
        return (self._canvas[0] - self.size[0]) // 2, (self._canvas[1] - self.size[1]) // 2

    def _move(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        (height, width), (top, left) = self._canvas, self._corner
        resized = image.resize((width, height), resample)
        return resized.crop((left, top, left + self.size[1], top + self.size[0]))


def binarise(mask: np.ndarray) -> np.ndarray:
    """Mask [h, w] (bool, 8 or 16 bits) → bool [h, w], true in the upper half of the range."""
    if mask.ndim == 2:
        if mask.dtype == bool:
            return mask
        if mask.dtype == np.uint8:
            return mask >= 128
        if mask.dtype.newbyteorder("=") in (np.uint16, np.int32):  # PIL may widen 16 bits
            return mask >= 32768
    raise UserError(
        f"mask array {mask.dtype} {mask.shape} is not [h, w] of bool, 8 or 16 bits: convert it"
    )


def load_image(path: Path, channels: int) -> Image.Image:
    """File → 8-bit PIL image, mode L (`channels` 1) or RGB (3), upright by its EXIF orientation.

    Any mode: palettes are looked up, transparency is laid over black, 16 bits are scaled by
    255/65535 whatever the content, floats in [0, 1] by 255. The first page of several. Raises
    UserError naming the file when it is missing, empty, cut short, not an image, or too large.
    """
    if channels not in (1, 3):
        raise UserError(f"channels {channels} is neither 1 (grey) nor 3 (RGB): use one of them")
    with _opened(path) as image:
        eight = _over_black(_eight_bits(_upright(image), path))
        return eight.convert("L" if channels == 1 else "RGB")


def load_mask(path: Path) -> np.ndarray:
    """File → bool [h, w], upright; colours count by their brightest channel, transparent is normal.

    Raises UserError as `load_image`, and for a mask with marks that all lie below half the range
    (0 and 1, say), which would otherwise be read as no defect at all.
    """
    with _opened(path) as image:
        upright = _upright(image)
        if upright.mode not in ("1", "L") and not upright.mode.startswith("I"):
            upright = Image.fromarray(np.array(_over_black(upright).convert("RGB")).max(axis=2))
        pixels = np.array(upright)
    marked = binarise(pixels)
    if pixels.any() and not marked.any():
        raise UserError(
            f"mask {path} has no value above {pixels.max()}, less than half its range: "
            "save it with 0 for normal and 255 for defect"
        )
    return marked


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from its header alone; UserError as `load_image`."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


def check_whole(path: Path) -> None:
    """Raise UserError if the file was cut short; decodes only those without a known end mark."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - 4096, 0))
        tail = file.read()
    if path.suffix.lower() in END_MARKS and END_MARKS[path.suffix.lower()] in tail:
        return
    with _opened(path) as image:
        image.load()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as PIL opens it; whatever fails while it is read becomes a UserError naming it."""
    try:
        # Not Image.open(path): PIL maps plain TIFF by its turned size and garbles the pixels.
        with Path(path).open("rb") as file, Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels")
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"image {path} is larger than {MAX_PIXELS} pixels ({error}): cut it into tiles"
        ) from error
    except Exception as error:  # decoders raise nearly anything: struct.error, SyntaxError, …
        raise UserError(f"cannot read image {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file, restore it"
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return "the file is empty, replace or remove it"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known kind, replace or remove it"
    return f"{' '.join(str(error).split()) or type(error).__name__}, replace or remove it"


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, that is still to be applied; known before the pixels are read."""
    # PIL turns TIFF by itself. A PNG without EXIF in front would be decoded in full to look behind.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    return image.getexif().get(_ORIENTATION, 1)


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) != 1:
        return ImageOps.exif_transpose(image)
    image.load()
    return image


def _over_black(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA"))


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """16-bit and float images → L; PIL's own convert would clip them at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    # A float image up to 255 could be 8 or 16 bits: better no answer than a black image.
    if not (low >= 0 and high <= 65535) or (image.mode == "F" and high <= 255):
        raise UserError(
            f"image {path} holds {image.mode} values from {low} to {high}: "
            "save it with 8 or 16 bits, or as floats from 0 to 1"
        )
    return Image.fromarray(np.rint(values / np.float32(257)).astype(np.uint8))
