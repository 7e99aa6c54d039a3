"""Renders machined parts from signed distances: shape, relief, texture, light.

This module renders good parts and local `Edit`s of them. `defects.py` defines the defects;
`dataset.py` adds sensor noise and writes files. Lengths are fractions of the image side, x runs
right and y down from the image centre, arrays are [N, N] on a 2x supersampled grid, or [1, N] and
[N, 1] where they vary along one axis only. The order of operations decides rounding: other orders
draw other pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vtadl_jax.data.synthetic.noise import TEXELS_PER_SIDE, TILE, Array, sample_tile

SUPERSAMPLE = 2  # `pool` spells the 2 x 2 out


class Shape(NamedTuple):
    """Part in its own frame: signed distance (negative inside), relief, groove direction."""

    distance: Array
    relief: Array  # height over the top face, mostly <= 0
    groove: tuple[Array, Array]  # unit vector along the tool marks


@dataclass(frozen=True)
class Look:
    """Materials of a part and of the mat below it; colours are linear RGB."""

    metal: tuple[float, float, float]
    mat: tuple[float, float, float]
    thickness: float
    bevel: float
    glint: float  # strength of the specular term
    anisotropy: float  # 0: round highlight (cast), 1: highlight stretched across the grooves
    texture_height: float
    turn: float  # poses are rotated by up to this angle, in radians
    corners: tuple[float, ...]  # polar angles of what sticks out, and so breaks off


@dataclass(frozen=True)
class Scene:
    """Pose and light: all random values of a good image except sensor noise."""

    category: str
    centre: tuple[float, float]
    angle: float
    scale: float
    light: tuple[float, float, float]  # position of the lamp
    gain: float
    tint: tuple[float, float, float]
    offsets: tuple[int, ...]  # where the noise tiles are cut


@dataclass(frozen=True)
class Edit:
    """A local change of a part; the default changes nothing. Arrays are [N, N]."""

    height: Array | float = 0.0  # added to the height map
    albedo: Array | float = 1.0  # multiplies the metal's colour: [N, N], or [3, N, N] by channel
    gloss: Array | float = 1.0  # multiplies the specular term
    removed: Array | None = None  # signed distance of the volume taken away, negative inside
    debris: Array | float = 0.0  # opacity of foreign matter
    debris_colour: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def extent(self) -> Array:
        """[N, N] how much of anything but `removed` changes: 0 where the edit does nothing."""
        hue = np.abs(np.asarray(self.albedo) - 1.0)
        hue = hue.max(axis=0) if hue.ndim == 3 else hue
        return hue + np.abs(self.gloss - 1.0) + 2e3 * np.abs(self.height) + self.debris


@dataclass(frozen=True)
class Raster:
    """A scene on the supersampled grid before shading."""

    scene: Scene
    look: Look
    xy: tuple[Array, Array]  # [1, N] and [N, 1]
    shape: Shape
    texture: Array
    patina: Array
    mat: Array


def smoothstep(value: Array, width: float) -> Array:
    """0 below -width/2, 1 above width/2, a cubic between."""
    t = np.clip(value / width + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def length(x: Array, y: Array) -> Array:
    """np.hypot of float32 arrays, in float64 as the C library does it, but for a whole array."""
    squares = np.square(x, dtype=np.float64) + np.square(y, dtype=np.float64)
    return np.sqrt(squares, out=squares).astype(np.float32)


def _modulo(value: Array, period: float) -> Array:
    """np.mod of float32 arrays by a float32, which is exact; in float64, ten times as fast."""
    exact, step = value.astype(np.float64), float(np.float32(period))
    return (exact - np.floor(exact / step) * step).astype(np.float32)


def _gear(x: Array, y: Array) -> Shape:
    r, theta = length(x, y) + 1e-6, np.arctan2(y, x)
    wave = 1.7 * np.cos(18 * theta)
    slope = np.where(np.abs(wave) < 1.0, 0.032 * 1.7 * 18 * np.sin(18 * theta) / r, 0.0)
    teeth = (r - 0.383 - 0.032 * np.clip(wave, -1.0, 1.0)) / np.sqrt(1.0 + slope * slope)
    bore = np.minimum(r - 0.068, np.maximum(np.abs(x) - 0.02, np.abs(y + 0.06) - 0.032))
    sector = _modulo(theta + np.pi / 6, np.pi / 3) - np.pi / 6
    holes = length(r * np.cos(sector) - 0.208, r * np.sin(sector)) - 0.04
    web = smoothstep(r - 0.132, 0.014) * smoothstep(0.284 - r, 0.014)
    relief = -0.016 * web - 0.004 * smoothstep(0.012 - np.abs(r - 0.318), 0.01)
    distance = np.maximum(np.maximum(teeth, -bore), -holes)
    return Shape(distance, relief, (-y / r, x / r))


def _plate(x: Array, y: Array) -> Shape:
    qx, qy = np.abs(x) - 0.345, np.abs(y) - 0.235
    outside = length(np.maximum(qx, 0.0), np.maximum(qy, 0.0))
    outer = outside + np.minimum(np.maximum(qx, qy), 0.0) - 0.03
    corner = length(np.abs(x) - 0.295, np.abs(y) - 0.185)
    bore = length(x, y)
    slot = length(x + 0.215, y - np.clip(y, -0.055, 0.055)) - 0.02
    dowel = length(x - 0.205, y) - 0.017
    distance = np.maximum(outer, np.maximum(0.032 - corner, 0.082 - bore))
    distance = np.maximum(distance, np.maximum(-slot, -dowel))
    countersink = -0.014 * np.clip((0.056 - corner) / 0.024, 0.0, 1.0)
    relief = countersink - 0.012 * smoothstep(0.122 - bore, 0.01)
    along = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    return Shape(distance, relief, along)


def _nut(x: Array, y: Array) -> Shape:
    r = length(x, y) + 1e-6
    flats = [np.abs(x * math.cos(a) + y * math.sin(a)) for a in (0.0, np.pi / 3, 2 * np.pi / 3)]
    sides = np.maximum(np.maximum(flats[0], flats[1]), flats[2])
    outer = np.maximum(sides - 0.345, r - 0.393)
    chamfer = -0.55 * np.maximum(r - 0.325, 0.0) - 0.8 * np.clip(0.222 - r, 0.0, 0.036)
    thread = 0.0035 * np.cos(2 * np.pi * (r - 0.15) / 0.0125) * smoothstep(0.186 - r, 0.006)
    return Shape(np.maximum(outer, 0.15 - r), chamfer + thread, (-y / r, x / r))


SHAPES: dict[str, Callable[[Array, Array], Shape]] = {
    "gear": _gear,
    "plate": _plate,
    "nut": _nut,
}
LOOKS = {
    "gear": Look(
        metal=(0.27, 0.275, 0.28),
        mat=(0.045, 0.050, 0.058),
        thickness=0.034,
        bevel=0.012,
        glint=0.7,
        anisotropy=0.9,
        texture_height=0.00045,
        turn=math.pi,
        corners=tuple(tooth * math.pi / 9 for tooth in range(18)),
    ),
    "plate": Look(
        metal=(0.40, 0.40, 0.39),
        mat=(0.075, 0.07, 0.062),
        thickness=0.026,
        bevel=0.012,
        glint=0.45,
        anisotropy=0.6,
        texture_height=0.00035,
        turn=0.07,
        corners=(0.615, math.pi - 0.615, math.pi + 0.615, -0.615),
    ),
    "nut": Look(
        metal=(0.215, 0.205, 0.19),
        mat=(0.33, 0.325, 0.31),
        thickness=0.05,
        bevel=0.018,
        glint=0.3,
        anisotropy=0.0,
        texture_height=0.0008,
        turn=math.pi,
        corners=tuple((side + 0.5) * math.pi / 3 for side in range(6)),
    ),
}


def sample_scene(category: str, rng: np.random.Generator) -> Scene:
    """Draws a pose and a light: shifts of 2%, scale of 2%, lamp within 20 degrees of upper left."""
    azimuth = np.deg2rad(-128.0 + rng.uniform(-20.0, 20.0))
    elevation = np.deg2rad(rng.uniform(48.0, 58.0))
    reach = 1.7 * np.cos(elevation)
    warm = rng.uniform(-0.02, 0.02)
    return Scene(
        category=category,
        centre=(rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)),
        angle=rng.uniform(-1.0, 1.0) * LOOKS[category].turn,
        scale=rng.uniform(0.98, 1.02),
        light=(reach * np.cos(azimuth), reach * np.sin(azimuth), 1.7 * np.sin(elevation)),
        gain=rng.uniform(0.9, 1.1),
        tint=(1.0 + warm, 1.0, 1.0 - warm),
        offsets=tuple(int(v) for v in rng.integers(TILE, size=3)),
    )


def rasterise(scene: Scene, size: int) -> Raster:
    """Evaluates a scene's geometry and textures for an image of `size` × `size` pixels."""
    n = size * SUPERSAMPLE
    axis = (np.arange(n, dtype=np.float32) + 0.5) / n - 0.5
    x, y = axis[None, :], axis[:, None]
    px, py = to_part(scene, x, y)
    shape = SHAPES[scene.category](px, py)
    look = LOOKS[scene.category]
    first, second, third = scene.offsets
    if look.anisotropy == 0.0:
        texture = sample_tile("grain", px, py, first)
    elif scene.category == "gear":  # the tile is wrapped round the axis, so it must close
        turns = np.arctan2(py, px) * np.float32(TILE / TEXELS_PER_SIDE / (2 * np.pi))
        texture = sample_tile("brush", turns, length(px, py), first)
    else:
        texture = sample_tile("brush", px, py, first)
    mat = (
        1.0 + 0.07 * sample_tile("grain", x, y, second) + 0.025 * sample_tile("cloud", x, y, third)
    )
    patina = sample_tile("cloud", px, py, second)
    return Raster(scene, look, (x, y), shape, texture, patina, mat)


def to_part(scene: Scene, x: Array, y: Array) -> tuple[Array, Array]:
    """Image coordinates to the part's own frame."""
    cos = np.float32(np.cos(scene.angle) / scene.scale)
    sin = np.float32(np.sin(scene.angle) / scene.scale)
    dx, dy = x - np.float32(scene.centre[0]), y - np.float32(scene.centre[1])
    return cos * dx + sin * dy, cos * dy - sin * dx


def coverage(raster: Raster) -> Array:
    """[N, N] share of each supersampled pixel that the part covers."""
    n = raster.texture.shape[0]
    return smoothstep(-raster.shape.distance, 1.5 / n)


def shade(raster: Raster, edit: Edit) -> Array:
    """Renders an image without sensor noise: [size, size, 3] float32 in display values 0..1."""
    look, scene = raster.look, raster.scene
    if edit.removed is not None:
        distance = np.maximum(raster.shape.distance, -edit.removed)
        raster = replace(raster, shape=raster.shape._replace(distance=distance))
    cover = coverage(raster)
    rise = look.thickness * smoothstep(-raster.shape.distance - 0.5 * look.bevel, look.bevel)
    face = raster.shape.relief + look.texture_height * raster.texture + edit.height
    height = rise + cover * face
    diffuse, glint = _reflect(raster, height)

    broad = _blur(height, 0.022)
    hollow = np.exp(-26.0 * np.maximum(_widen(broad) - height, 0.0))
    albedo = (1.0 + 0.035 * raster.texture + 0.03 * raster.patina) * hollow
    body, shine = diffuse * albedo, glint * edit.gloss * hollow
    dirt, floor = 0.9 * diffuse * hollow, raster.mat * _floor_light(raster, cover, broad)
    hue = np.broadcast_to(np.asarray(edit.albedo, np.float32), (3, *cover.shape))

    def channel(c: int) -> Array:
        """[size, size]. A channel at a time: numpy is slow over a last axis of three."""
        metal = body * np.float32(look.metal[c]) * hue[c]
        metal += shine * np.float32((1.0, 0.99, 0.97)[c])
        metal += edit.debris * (dirt * np.float32(edit.debris_colour[c]) - metal)
        mat = floor * np.float32(look.mat[c])
        return pool(mat + cover * (metal - mat))

    light = np.stack([channel(c) for c in range(3)], axis=-1)
    colour = np.maximum(light * np.array(scene.tint, np.float32) * np.float32(scene.gain), 0)
    # A film-like shoulder keeps the highlights below white; then the display's gamma.
    return (1.2 * colour / (1.0 + 0.35 * colour)).clip(0.0, 1.0) ** np.float32(1 / 2.2)


def pool(fine: Array) -> Array:
    """Averages the supersamples: [N, N, ...] to [size, size, ...]."""
    return 0.25 * (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2])


def _reflect(raster: Raster, height: Array) -> tuple[Array, Array]:
    """Diffuse and specular light on a height map, the camera straight above."""
    look, scene, n = raster.look, raster.scene, height.shape[0]
    slope_y, slope_x = np.gradient(height, np.float32(1.0 / n))
    nz = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    nx, ny = -slope_x * nz, -slope_y * nz
    lx: Array = np.float32(scene.light[0]) - raster.xy[0]
    ly: Array = np.float32(scene.light[1]) - raster.xy[1]
    far = 1.0 / np.sqrt(lx * lx + ly * ly + np.float32(scene.light[2] ** 2))
    lx, ly, lz = lx * far, ly * far, np.float32(scene.light[2]) * far
    key = np.maximum(nx * lx + ny * ly + nz * lz, 0.0) * (1.7 * far) ** 2
    sky = 0.5 + 0.5 * nz - 0.2 * (nx * lx + ny * ly)
    half = 1.0 / np.sqrt(lx * lx + ly * ly + (lz + 1.0) ** 2)
    hx, hy, hz = lx * half, ly * half, (lz + 1.0) * half
    facing = np.maximum(nx * hx + ny * hy + nz * hz, 0.0)
    cos, sin = np.float32(np.cos(scene.angle)), np.float32(np.sin(scene.angle))
    gx, gy = raster.shape.groove
    gx, gy = cos * gx - sin * gy, sin * gx + cos * gy
    along = gx * hx + gy * hy + (gx * slope_x + gy * slope_y) * hz
    streak = np.exp(-40.0 * along * along) * np.exp(-3.0 * (1.0 - facing))
    round_spot = facing**28
    shine = look.anisotropy * streak + (1.0 - look.anisotropy) * round_spot
    return 0.85 * key + 0.3 * sky, look.glint * shine * (1.0 + 0.1 * raster.texture)


def _floor_light(raster: Raster, cover: Array, broad: Array) -> Array:
    """Light on the mat: lamp falloff, contact darkening and the shadow that the part casts.

    broad: [size, size].
    """
    n, light = cover.shape[0], raster.scene.light
    drop = 0.7 * raster.look.thickness / light[2] * n
    shift = (-round(light[1] * drop), -round(light[0] * drop))
    shadow = _blur(np.roll(cover, shift, axis=(0, 1)), 0.008)
    x, y = raster.xy
    falloff = 1.0 + np.float32(0.22 * light[0]) * x + np.float32(0.22 * light[1]) * y
    contact = np.exp(-14.0 * np.maximum(broad, 0.0))
    return falloff * _widen(1.0 - 0.6 * shadow) * _widen(contact)


def _blur(field: Array, sigma: float) -> Array:
    """A wide Gaussian, [size, size]: at the final resolution, the result has no finer detail."""
    from scipy import ndimage

    small = pool(field)
    return ndimage.gaussian_filter(small, sigma * len(small), truncate=2.5)


def _widen(small: Array) -> Array:
    """Repeats pixels over their supersamples: [size, size] to [N, N]."""
    return small.repeat(SUPERSAMPLE, axis=0).repeat(SUPERSAMPLE, axis=1)
