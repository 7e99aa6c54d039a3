"""Defects of drawn parts: each is an `Edit` of a part at a random place, of a given size.

`dataset.py` applies the edits and finds their masks.
"""

from collections.abc import Callable

import numpy as np

from vtadl_jax.data.synthetic import parts
from vtadl_jax.data.synthetic.noise import TILE, Array, sample_tile
from vtadl_jax.data.synthetic.parts import Edit, Raster, Scene, smoothstep

PLACES = 48  # candidate places of a defect; the first good one is taken

Fault = Callable[[Raster, np.random.Generator, float], Edit]


def _axes(raster: Raster, x: float, y: float, angle: float) -> tuple[Array, Array]:
    """Coordinates along and across a defect at x, y of the image."""
    dx, dy = raster.xy[0] - np.float32(x), raster.xy[1] - np.float32(y)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * dx + sin * dy, cos * dy - sin * dx


def _distance_at(scene: Scene, x: Array, y: Array) -> Array:
    return parts.SHAPES[scene.category](*parts.to_part(scene, x, y)).distance


def _inside(scene: Scene, rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """A point on the part, if possible further than `radius` from its edges."""
    x, y = rng.uniform(-0.42, 0.42, size=(2, PLACES))
    distance = _distance_at(scene, x, y)
    fits = distance < -min(radius, 0.022)  # a gear's rim is not wider
    best = int(np.argmax(fits)) if fits.any() else int(np.argmin(distance))
    return float(x[best]), float(y[best])


def _curve(
    raster: Raster, rng: np.random.Generator, length: float, sag: float
) -> tuple[Array, Array]:
    """A parabola of this length, placed where most of it is on the part: position -1..1, distance.

    `sag` is the height of the bow over its chord as a share of the length.
    """
    half = length / 2
    bend = rng.uniform(-1.0, 1.0, size=PLACES) * sag * 2 / half
    x, y = rng.uniform(-0.42, 0.42, size=(2, PLACES))
    angle = rng.uniform(0.0, np.pi, size=PLACES)
    s = np.linspace(-half, half, 13)[:, None]
    t = bend * s * s
    sx, sy = x + np.cos(angle) * s - np.sin(angle) * t, y + np.sin(angle) * s + np.cos(angle) * t
    best = int(np.argmax((_distance_at(raster.scene, sx, sy) < -0.012).mean(axis=0)))
    along, across = _axes(raster, x[best], y[best], angle[best])
    c = np.float32(bend[best])
    distance = (across - c * along * along) / np.sqrt(1.0 + (2.0 * c * along) ** 2)
    return along / np.float32(half), distance


def _scratch(raster: Raster, rng: np.random.Generator, size: float) -> Edit:
    """A groove with a bright or a dark floor; twice as long as `size` and about a pixel wide."""
    along, distance = _curve(raster, rng, 2.0 * size, 0.12)
    width = np.float32(rng.uniform(0.0035, 0.005) + 0.008 * size)
    offset = int(rng.integers(TILE))
    pressure = 0.85 + 0.15 * sample_tile("grain", 0.2 * along, 0.0 * along, offset)
    line = np.exp(-((distance / width) ** 2)) * smoothstep(1.0 - np.abs(along), 0.3) * pressure
    tone = np.float32(0.9 if rng.random() < 0.5 else -0.62)
    return Edit(height=-0.0012 * line, albedo=1.0 + tone * line, gloss=1.0 + 0.7 * tone * line)


def _frayed(
    raster: Raster, rng: np.random.Generator, place: tuple[float, float], size: float, fray: float
) -> tuple[Array, Array]:
    """Distance from a place over half of `size`, contours irregular by `fray`; and the noise."""
    along, across = _axes(raster, *place, rng.uniform(0.0, np.pi))
    zoom, offset = np.float32(0.2 / size), int(rng.integers(TILE))
    noise = sample_tile("cloud", along * zoom, across * zoom, offset)
    noise = noise + 0.15 * sample_tile("grain", along * zoom, across * zoom, offset)
    oval = across * np.float32(rng.uniform(1.05, 1.4))
    return parts.length(along, oval) * np.float32(2 / size) * (
        1.0 + np.float32(fray) * noise
    ), noise


def _dent(raster: Raster, rng: np.random.Generator, size: float) -> Edit:
    """A smooth hollow with a slightly raised rim, or a bump; `size` across."""
    place = _inside(raster.scene, rng, 0.3 * size)
    rho = np.minimum(_frayed(raster, rng, place, 1.1 * size, 0.05)[0], 1.0)
    hollow = (1.0 - rho * rho) ** 2 * (1.0 - 1.6 * rho * rho)
    depth = np.float32(rng.uniform(0.09, 0.12) * size * (1 if rng.random() < 0.3 else -1))
    return Edit(height=depth * hollow)


def _stain(raster: Raster, rng: np.random.Generator, size: float) -> Edit:
    """Rust, oil or heat tint with a frayed outline and a darker rim; about `size` across."""
    place = _inside(raster.scene, rng, 0.3 * size)
    rho, noise = _frayed(raster, rng, place, 1.1 * size, 0.17)
    body = smoothstep(1.0 - rho, 0.35) * (0.7 + 0.12 * noise.clip(-2.0, 2.0))
    amount = np.minimum(body + 0.25 * np.exp(-(((0.9 - rho) / 0.12) ** 2)), 1.0)
    colours = ((0.58, 0.38, 0.22), (0.50, 0.45, 0.36), (0.52, 0.56, 0.74))
    loss = 1.0 - np.array(colours[rng.integers(len(colours))], np.float32)
    return Edit(albedo=1.0 - amount * loss[:, None, None], gloss=1.0 - 0.6 * amount)


def _missing(raster: Raster, rng: np.random.Generator, size: float) -> Edit:
    """A piece broken off the outer edge, at a tooth or a corner where the part has one."""
    scene = raster.scene
    corners = parts.LOOKS[scene.category].corners
    angle = scene.angle + corners[rng.integers(len(corners))] + rng.normal() * 0.05
    reach = np.linspace(0.2, 0.5, 301)
    ray = np.cos(angle) * reach + scene.centre[0], np.sin(angle) * reach + scene.centre[1]
    rim = reach[np.flatnonzero(_distance_at(scene, *ray) < 0)[-1]]
    x, y = scene.centre[0] + rim * np.cos(angle), scene.centre[1] + rim * np.sin(angle)
    radius = 0.6 * size
    rho, _ = _frayed(raster, rng, (x, y), 2 * radius, 0.14)
    return Edit(removed=(rho - 1.0) * np.float32(radius))


def _contamination(raster: Raster, rng: np.random.Generator, size: float) -> Edit:
    """A textile fibre (twice `size` long) or a curled metal chip on the part, with its shadow."""
    from scipy import ndimage

    metal = rng.random() < 0.5
    along, distance = _curve(raster, rng, (1.3 if metal else 2.0) * size, 0.25)
    width = np.float32((0.007 if metal else 0.0045) + 0.02 * size)
    body = np.maximum(1.0 - (distance / width) ** 2, 0.0) * smoothstep(1.0 - np.abs(along), 0.12)
    brass, steel = (0.5, 0.37, 0.16), (0.6, 0.6, 0.62)
    navy, red = (0.02, 0.03, 0.07), (0.3, 0.05, 0.04)
    colour = ((brass, steel) if metal else (navy, red))[rng.integers(2)]
    opaque = smoothstep(body - 0.25, 0.5)
    light = raster.scene.light
    n = body.shape[0]
    shift = tuple(-round(1.6 * float(width) * light[axis] * n) for axis in (1, 0))
    shadow = 0.5 * np.roll(ndimage.gaussian_filter(opaque, 0.004 * n), shift, axis=(0, 1))
    shaded = 1.0 - shadow * (1.0 - opaque)
    return Edit(
        height=0.8 * width * np.sqrt(body),
        albedo=shaded,
        gloss=shaded,
        debris=opaque,
        debris_colour=colour,
    )


FAULTS: dict[str, Fault] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "missing": _missing,
    "contamination": _contamination,
}
DEFECTS: tuple[str, ...] = tuple(FAULTS)
