"""Draws defects on images inside the compiled step, for training without defective images.

A defect is a patch with a frayed outline, from a dot to a scratch, filled with another part of the
same image (as CutPaste, Li et al., 2021), a colour, or a change of brightness. It looks like no
particular defect: a network learns where an image is not as it should be. The defect of an image
depends on its own key only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.resize import bilinear_matrix

CELLS = 6  # of the noise of an outline, along each side of the image
FRAY = 0.35  # how far it moves the outline, in half axes
ASPECT = 8.0  # largest ratio of a patch's axes
THINNEST = 1.5  # smallest half axis, in pixels
EDGE = 4.0  # the filling is whole where the distance to the outline is 1 / EDGE half axes
OPACITY = (0.35, 1.0)
CHANGE = 3  # grey levels; pixels that changed less are not marked as defective
PASTED, COLOURED, DIMMED = range(3)


class Defects(NamedTuple):
    """The sampled defect of each image of a batch; every field starts with [B]."""

    present: jax.Array  # bool
    centre: jax.Array  # [B, 2] row and column, as fractions of the sides
    angle: jax.Array  # radians, of the long axis
    size: jax.Array  # half of the long axis, as a fraction of the shorter side
    aspect: jax.Array  # long by short axis
    noise: jax.Array  # [B, CELLS, CELLS], -1 to 1
    kind: jax.Array  # PASTED, COLOURED or DIMMED
    shift: jax.Array  # [B, 2] of the pasted part, as fractions of the sides
    colour: jax.Array  # [B, C] grey levels
    gain: jax.Array  # factor of the brightness
    opacity: jax.Array


def sample(keys, channels: int, share: float, smallest: float, largest: float) -> Defects:
    """Samples a defect for each image; row i depends on keys[i] and the options only.

    keys: [B]. share: probability that an image has one. smallest, largest: of `Defects.size`.
    """

    def one(key):
        u = jax.random.uniform(key, (12 + channels,), jnp.float32)
        noise = jax.random.uniform(jax.random.fold_in(key, 1), (CELLS, CELLS), minval=-1)
        away = 0.25 + 0.6 * u[10]  # half an octave to more than one, either way
        return Defects(
            present=u[0] < share,
            centre=u[1:3],
            angle=jnp.pi * u[3],
            size=smallest * (largest / smallest) ** u[4],
            aspect=ASPECT ** u[5],
            noise=noise,
            kind=jnp.minimum((3 * u[6]).astype(jnp.int32), DIMMED),
            shift=0.25 + 0.5 * u[7:9],
            colour=255 * u[12:],
            gain=jnp.exp(jnp.where(u[11] < 0.5, away, -away)),
            opacity=OPACITY[0] + (OPACITY[1] - OPACITY[0]) * u[9],
        )

    return jax.vmap(one)(keys)


def draw(images, defects: Defects):
    """Returns the images with their defects, uint8, and masks uint8 [B, H, W], 1 defective.

    images: uint8 [B, H, W, C].
    """
    return jax.vmap(_draw)(images, defects)


def _draw(image, defect: Defects):
    height, width, _ = image.shape
    row = jnp.arange(height)[:, None] - defect.centre[0] * height
    column = jnp.arange(width) - defect.centre[1] * width
    cos, sin = jnp.cos(defect.angle), jnp.sin(defect.angle)
    half = jnp.maximum(defect.size * min(height, width), THINNEST)
    along, across = cos * column + sin * row, cos * row - sin * column
    short = jnp.maximum(half / defect.aspect, THINNEST)
    distance = jnp.sqrt(jnp.square(along / half) + jnp.square(across / short))
    rows, columns = (
        bilinear_matrix(CELLS, side, True).astype(np.float32) for side in (height, width)
    )
    outline = distance + FRAY * (rows @ defect.noise @ columns.T)
    weight = defect.opacity * jnp.clip(EDGE * (1 - outline), 0, 1) * defect.present
    pixels = image.astype(jnp.float32)
    shift = jnp.round(defect.shift * jnp.array([height, width])).astype(jnp.int32)
    fillings = (
        jnp.roll(pixels, shift, (0, 1)),
        jnp.broadcast_to(defect.colour, pixels.shape),
        jnp.minimum(pixels * defect.gain, 255),
    )
    filling = jax.lax.select_n(defect.kind, *fillings)
    drawn = jnp.round(pixels + weight[..., None] * (filling - pixels))
    mask = (jnp.abs(drawn - pixels) >= CHANGE).any(-1)
    return jnp.clip(drawn, 0, 255).astype(jnp.uint8), mask.astype(jnp.uint8)


def draw_reference(images, defects: Defects):
    """Computes `draw` pixel by pixel, in float64 numpy."""
    images = np.asarray(images)
    drawn, masks = images.copy(), np.zeros(images.shape[:3], np.uint8)
    for i, image in enumerate(images):
        defect = Defects(*(np.asarray(field)[i] for field in defects))
        for row, column in np.ndindex(*image.shape[:2]):
            weight = _weight_reference(defect, image.shape, row, column)
            if not weight:
                continue
            pixel = image[row, column].astype(np.float64)
            filling = _filling_reference(defect, image, row, column)
            new = np.round(pixel + weight * (filling - pixel))
            masks[i, row, column] = (np.abs(new - pixel) >= CHANGE).any()
            drawn[i, row, column] = np.clip(new, 0, 255)
    return drawn, masks


def _weight_reference(defect: Defects, shape, row: int, column: int) -> float:
    height, width = shape[:2]
    down, right = row - defect.centre[0] * height, column - defect.centre[1] * width
    half = max(defect.size * min(height, width), THINNEST)
    short = max(half / defect.aspect, THINNEST)
    along = np.cos(defect.angle) * right + np.sin(defect.angle) * down
    across = np.cos(defect.angle) * down - np.sin(defect.angle) * right
    places = [place * (CELLS - 1) / (side - 1) for place, side in ((row, height), (column, width))]
    (y, x), noise = (min(int(p), CELLS - 2) for p in places), defect.noise
    v, u = places[0] - y, places[1] - x
    fray = (1 - v) * ((1 - u) * noise[y, x] + u * noise[y, x + 1])
    fray += v * ((1 - u) * noise[y + 1, x] + u * noise[y + 1, x + 1])
    outline = np.hypot(along / half, across / short) + FRAY * fray
    return float(defect.present * defect.opacity * min(max(EDGE * (1 - outline), 0), 1))


def _filling_reference(defect: Defects, image, row: int, column: int):
    if defect.kind == COLOURED:
        return defect.colour
    if defect.kind == DIMMED:
        return np.minimum(image[row, column] * np.float64(defect.gain), 255)
    height, width = image.shape[:2]
    down, right = np.round(defect.shift * (height, width)).astype(int)
    return image[(row - down) % height, (column - right) % width]
