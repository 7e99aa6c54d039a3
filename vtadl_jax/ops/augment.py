"""Augmentation of training images inside the compiled step: flips, rotation, brightness, colour.

Flips and rotation are applied to an image and its mask alike. No files, crops or resizing here, and
evaluation does not use it. The augmentation of an image depends on its own key only, so it does not
depend on the number of devices.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode L
_LARGEST = {"rotation_degrees": 180, "brightness": 1, "contrast": 1, "saturation": 1}


@dataclass(frozen=True)
class Augmentation:
    """Options of the augmentation; hashable, a static argument of the step. Default: none.

    Numbers are half widths of uniform distributions around "no change". Raises UserError for values
    out of range.
    """

    flip_horizontal: bool = False  # mirror left and right, with probability 1/2
    flip_vertical: bool = False
    rotation_degrees: float = 0.0  # about the centre, edge values repeated outside; at most 180
    brightness: float = 0.0  # added, as a fraction of the range: 0.1 is up to 25.5 grey levels
    contrast: float = 0.0  # of the factor on the distance to the image's own mean
    saturation: float = 0.0  # of the factor on the distance to the pixel's grey; RGB only

    def __post_init__(self) -> None:
        for name in ("flip_horizontal", "flip_vertical"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"data.augment.{name} {getattr(self, name)!r}: use True or False")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= largest:  # NaN is refused too
                raise UserError(f"data.augment.{name} {value!r}: use 0 (off) to {largest}")

    @property
    def active(self) -> bool:
        return self != NO_AUGMENTATION


NO_AUGMENTATION = Augmentation()


class Draws(NamedTuple):
    """The sampled augmentation of each image of a batch; every field is [B]."""

    flip_horizontal: jax.Array  # bool
    flip_vertical: jax.Array  # bool
    degrees: jax.Array  # float32, counter-clockwise
    brightness: jax.Array  # float32, grey levels
    contrast: jax.Array  # float32, factor - 1
    saturation: jax.Array  # float32, factor - 1


def draw(keys, options: Augmentation) -> Draws:
    """Samples the augmentation of each image; row i depends on keys[i] and `options` only."""
    # One number for every field, used or not: enabling one does not change the others.
    u = jax.vmap(lambda key: jax.random.uniform(key, (6,), jnp.float32))(keys).T
    signed = 2 * u - 1
    return Draws(
        flip_horizontal=(u[0] < 0.5) & options.flip_horizontal,
        flip_vertical=(u[1] < 0.5) & options.flip_vertical,
        degrees=signed[2] * options.rotation_degrees,
        brightness=_product(signed[3], 255 * options.brightness),
        contrast=signed[4] * options.contrast,
        saturation=signed[5] * options.saturation,
    )


def augment(keys, images, options: Augmentation, masks=None):
    """Flips and rotates, then changes saturation, contrast and brightness of each image.

    keys: [B]. images: uint8 [B, H, W, C], C 1 or 3. masks: [B, H, W], moved as the images, by
    nearest pixel. Contrast scales the distance to the mean of the input image. Returns uint8
    images, rounded and clipped once, at the end; (images, masks) if masks are given.
    """
    if options.active:
        draws = draw(keys, options)
        images = _augment_images(images, draws, options)
        if masks is not None:
            masks = _flip(masks, draws, options)
            if options.rotation_degrees:
                masks = rotate_masks(masks, draws.degrees)
    return images if masks is None else (images, masks)


def _augment_images(images, draws: Draws, options: Augmentation):
    pixels = _flip(images, draws, options)
    if options.rotation_degrees:
        pixels = rotate(pixels, draws.degrees)
    if options.saturation and images.shape[3] == 3:
        # Not a matrix product, whose operands TPUs round to bfloat16; not a reduction, which XLA's
        # CPU compiler repeats, rotation included, for each channel.
        grey = sum(_product(luma, pixels[..., c, None]) for c, luma in enumerate(LUMA))
        pixels = pixels + _product(_per_image(draws.saturation, pixels), pixels - grey)
    if options.contrast:
        offset = pixels - _per_image(_mean(images), pixels)
        pixels = pixels + _product(_per_image(draws.contrast, pixels), offset)
    if options.brightness:
        pixels = pixels + _per_image(draws.brightness, pixels)
    if pixels.dtype == jnp.uint8:  # flipped at most
        return pixels
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def _product(a, b):
    """Returns a · b, rounded to 2^-16. Depending on the number of rows, compilers may fuse a bare
    product and the following sum into an FMA: a few pixels would depend on the number of devices.
    """
    return jnp.round(jnp.float32(a) * b * 65536) / 65536


def _per_image(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _flip(x, draws: Draws, options: Augmentation):
    if options.flip_horizontal:
        x = jnp.where(_per_image(draws.flip_horizontal, x), x[:, :, ::-1], x)
    if options.flip_vertical:
        x = jnp.where(_per_image(draws.flip_vertical, x), x[:, ::-1], x)
    return x


def _mean(images):
    """Returns each image's mean, [B] float32; integer sums do not depend on order or sharding."""
    rows = images.reshape(*images.shape[:2], -1).sum(2, dtype=jnp.uint32)
    high, low = (rows >> 12).sum(1), (rows & 4095).sum(1)  # one sum overflows at 2370 × 2370 RGB
    total = 4096 * high.astype(jnp.float32) + low.astype(jnp.float32)
    return _product(total, 1 / math.prod(images.shape[1:]))


def _sources(degrees, height: int, width: int):
    """Returns the source coordinates of each pixel: rows and columns, [B, H, W] float32.

    Computed relative to the centre: no rounding at angle 0, error below 2e-4 pixels at size 1024.
    """
    angle = jnp.deg2rad(degrees)[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - middle_y
    x = jnp.arange(width, dtype=jnp.float32) - middle_x
    rows = _product(sin, x) + _product(cos, y) + middle_y
    columns = _product(cos, x) - _product(sin, y) + middle_x
    return jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)


def rotate(images, degrees):
    """Rotates about the centre, counter-clockwise as PIL; bilinear, edge values repeated outside.

    images: uint8 [B, H, W, C]; degrees: float32 [B]. Returns float32 [B, H, W, C], not rounded.
    A pixel and its three neighbours are packed into 32 bits and gathered by one index, because
    gathers are slow on TPUs. Three shears would need no gather, but blur three times and do not
    match a nearest-pixel rotation of the mask.
    """
    rows, columns = _sources(degrees, *images.shape[1:3])
    top, left = jnp.floor(rows), jnp.floor(columns)
    corners = jnp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge").astype(jnp.uint32)
    upper = corners[:, :, :-1] | corners[:, :, 1:] << 8
    taken = _take(upper[:, :-1] | upper[:, 1:] << 16, top, left)
    a, b, c, d = ((taken >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16, 24))
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    above, below = a + _product(right, b - a), c + _product(right, d - c)
    return above + _product(down, below - above)


def rotate_masks(masks, degrees):
    """Rotates masks [B, H, W] of any type as `rotate`, by nearest pixel; returns the same type."""
    return _take(masks, *(jnp.floor(at + 0.5) for at in _sources(degrees, *masks.shape[1:])))


def _take(x, rows, columns):
    """Gathers x [B, H, W, ...] at integral rows and columns [B, H, W] float32.

    The batch remains a separate axis, so that sharding along it needs no communication.
    """
    index = rows.astype(jnp.int32) * x.shape[2] + columns.astype(jnp.int32)
    flat = x.reshape(len(x), -1, *x.shape[3:])
    return jax.vmap(lambda values, i: jnp.take(values, i, axis=0, mode="clip"))(flat, index)
