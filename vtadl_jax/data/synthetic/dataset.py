"""A small procedural data set of machined parts in the MVTec AD layout, with exact masks.

This module adds defects to parts and writes the files. `parts.py` renders the parts;
`data/sources` reads the layout. The set is for demonstrations and tests: it is not a benchmark.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtadl_jax.data.synthetic import parts
from vtadl_jax.data.synthetic.parts import Array, Edit, Raster, Scene, smoothstep
from vtadl_jax.errors import UserError

CATEGORIES: tuple[str, ...] = tuple(parts.SHAPES)
DEFECT_SIZES: dict[str, float] = {"small": 0.06, "medium": 0.11, "large": 0.2}
VISIBLE = 5 / 255  # smaller changes of a display value are not in the mask
VERSION = 1  # increase it when the same arguments give other pixels
MIN_IMAGE_SIZE = 32
SETTINGS_FILE = "dataset.json"
NOISE = 1.3 / 255  # read noise of the sensor in display values
ATTEMPTS = 8
PLACES = 48  # candidate places of a defect; the first good one is taken

Mask = NDArray[np.bool_]
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
    offset = int(rng.integers(parts.TILE))
    pressure = 0.85 + 0.15 * parts.sample_tile("grain", 0.2 * along, 0.0 * along, offset)
    line = np.exp(-((distance / width) ** 2)) * smoothstep(1.0 - np.abs(along), 0.3) * pressure
    tone = np.float32(0.9 if rng.random() < 0.5 else -0.62)
    return Edit(
        height=-0.0012 * line, albedo=(1.0 + tone * line)[..., None], gloss=1.0 + 0.7 * tone * line
    )


def _frayed(
    raster: Raster, rng: np.random.Generator, place: tuple[float, float], size: float, fray: float
) -> tuple[Array, Array]:
    """Distance from a place over half of `size`, contours irregular by `fray`; and the noise."""
    along, across = _axes(raster, *place, rng.uniform(0.0, np.pi))
    zoom, offset = np.float32(0.2 / size), int(rng.integers(parts.TILE))
    noise = parts.sample_tile("cloud", along * zoom, across * zoom, offset)
    noise = noise + 0.15 * parts.sample_tile("grain", along * zoom, across * zoom, offset)
    oval = across * np.float32(rng.uniform(1.05, 1.4))
    return np.hypot(along, oval) * np.float32(2 / size) * (1.0 + np.float32(fray) * noise), noise


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
    return Edit(albedo=1.0 - amount[..., None] * loss, gloss=1.0 - 0.6 * amount)


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
        albedo=shaded[..., None],
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


def render_part(
    category: str,
    rng: np.random.Generator,
    size: int,
    defect: str | None = None,
    defect_size: float = 0.1,
) -> tuple[NDArray[np.uint8], Mask]:
    """Renders one image and its mask: image [size, size, 3] uint8, mask [size, size] bool.

    `defect_size` is a fraction of the image side. Equal generators give the same pose, light and
    sensor noise whatever the defect, so that a defective image has an exact clean twin.
    """
    if category not in parts.SHAPES:
        raise UserError(f"category {category!r} is not rendered here: use {', '.join(CATEGORIES)}")
    if defect is not None and defect not in FAULTS:
        raise UserError(f"defect {defect!r} is not rendered here: use {', '.join(DEFECTS)}")
    scene = parts.sample_scene(category, rng)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(NOISE)
    raster = parts.rasterise(scene, size)
    picture = parts.shade(raster, Edit())
    mask = np.zeros((size, size), bool)
    if defect is not None:
        picture, mask = _break(raster, picture, defect, rng, defect_size)
    grain = noise * (0.6 + 0.8 * np.sqrt(picture))  # shot noise grows with the light
    return np.rint((picture + grain).clip(0.0, 1.0) * 255).astype(np.uint8), mask


def _break(
    raster: Raster, clean: Array, defect: str, rng: np.random.Generator, size: float
) -> tuple[Array, Mask]:
    """Draws defects until one is visible; a bright scratch may vanish in a highlight."""
    tries = []
    for _ in range(ATTEMPTS):
        picture, mask = _apply(raster, clean, FAULTS[defect](raster, rng, size))
        tries.append((int(mask.sum()), picture, mask))
        if tries[-1][0] >= 3 + 0.5 * size * len(clean):
            break
    area, picture, mask = max(tries, key=lambda attempt: attempt[0])
    if area == 0:
        raise UserError(
            f"defect_size {size} of {defect!r} cannot be seen at {len(clean)} pixels: "
            "use a larger defect_size or image size"
        )
    return picture, mask


def _apply(raster: Raster, clean: Array, edit: Edit) -> tuple[Array, Mask]:
    """Shades a part with an edit and marks the pixels of its footprint that changed visibly."""
    from scipy import ndimage  # imports slowly, and only rendering needs it

    cover = parts.coverage(raster)
    if edit.removed is None:
        touched = footprint = (edit.extent() > 0.01) & (cover > 0.02)
        gone = np.zeros_like(footprint)
    else:  # light also changes beside the gap: the part's shadow on the mat goes with the piece
        touched = edit.removed < 0.05
        footprint = (edit.removed < raster.look.bevel) & (cover > 0.5)
        gone = (edit.removed < 0.0) & (cover > 0.5)
    spread = (parts.pool(touched.astype(np.float32)) > 0.0).astype(np.float32)
    weight = ndimage.gaussian_filter(spread, 0.7)[..., None]
    picture = clean + weight * (parts.shade(raster, edit) - clean)
    change = np.abs(picture - clean).max(axis=-1)
    inside = parts.pool(footprint.astype(np.float32)) > 0.0
    # The change of a dent passes through zero between its bright and its dark side.
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(inside & (change > VISIBLE)))
    mask = (solid & inside) | (parts.pool(gone.astype(np.float32)) > 0.5)
    return picture, mask


def make_dataset(
    root: str | Path,
    *,
    image_size: int = 128,
    num_train: int = 96,
    num_test_good: int = 24,
    num_per_defect: int = 9,
    seed: int = 0,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Path:
    """Writes all categories under `root` in the MVTec AD layout and returns `root`.

    Image `index` of a split depends on (seed, category, split, index) only, not on the counts.
    `progress(items, total=n)` may wrap the loop, as tqdm does. Keeps a root that holds the same
    set; raises UserError if anything else is there.
    """
    root = Path(root)
    settings = _settings(image_size, num_train, num_test_good, num_per_defect, seed)
    _check(settings)
    if _holds(root, settings):
        return root
    items = _items(num_train, num_test_good, num_per_defect)
    partial = root.absolute().parent / f".{root.name}.{uuid.uuid4().hex}.partial"
    try:
        partial.mkdir(parents=True)
        for item in progress(items, total=len(items)) if progress else items:
            _write(partial, seed, image_size, *item)
        (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        try:
            partial.rename(root)
        except OSError:  # another process may have written it first
            if not _holds(root, settings):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def missing_images(root: str | Path) -> int:
    """Returns how many images `make_dataset(root)` would draw, 0 if it holds them.

    Raises UserError if anything else is there.
    """
    sizes: dict[str, Any] = dict(make_dataset.__kwdefaults__ or {})
    train, good, per_defect = (
        sizes[name] for name in ("num_train", "num_test_good", "num_per_defect")
    )
    settings = _settings(sizes["image_size"], train, good, per_defect, sizes["seed"])
    return 0 if _holds(Path(root), settings) else len(_items(train, good, per_defect))


def _settings(
    image_size: int, num_train: int, num_test_good: int, num_per_defect: int, seed: int
) -> dict[str, Any]:
    """Returns what a drawn data set stores about itself."""
    return {
        "generator": "vtadl_jax.data.synthetic.dataset",
        "version": VERSION,
        "image_size": image_size,
        "num_train": num_train,
        "num_test_good": num_test_good,
        "num_per_defect": num_per_defect,
        "seed": seed,
    }


def _check(settings: dict[str, Any]) -> None:
    least = {"image_size": MIN_IMAGE_SIZE, "num_train": 1, "num_test_good": 0, "num_per_defect": 0}
    for name, low in (least | {"seed": 0}).items():
        if settings[name] < low:
            raise UserError(
                f"make_dataset: {name} {settings[name]} is too small: use {low} or more"
            )


def _holds(root: Path, settings: dict[str, Any]) -> bool:
    """Returns whether `root` is the same data set; False if absent. Raises UserError otherwise."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    file = root / SETTINGS_FILE
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{root} is not a synthetic data set (no readable {SETTINGS_FILE}): "
            "name another folder or remove it"
        ) from None
    if found == settings:
        return True
    raise UserError(
        f"{root} holds a synthetic data set with other settings, {found}: "
        "name another folder or remove it"
    )


def _items(train: int, good: int, per_defect: int) -> list[tuple[str, str, str | None, int]]:
    """Yields (category, split, defect, index) of every image."""
    splits: list[tuple[str, str | None, int]] = [("train", None, train), ("test", None, good)]
    splits += [("test", defect, per_defect) for defect in DEFECTS]
    return [
        (category, split, defect, index)
        for category in CATEGORIES
        for split, defect, count in splits
        for index in range(count)
    ]


def _write(
    root: Path, seed: int, size: int, category: str, split: str, defect: str | None, index: int
) -> None:
    """Writes one image, and its mask if it has a defect; the defect sizes alternate."""
    ordinal = 2 + DEFECTS.index(defect) if defect else ("train", "test").index(split)
    rng = np.random.default_rng([seed, CATEGORIES.index(category), ordinal, index])
    fraction = list(DEFECT_SIZES.values())[index % len(DEFECT_SIZES)]
    image, mask = render_part(category, rng, size, defect, fraction)
    _save(root / category / split / (defect or "good") / f"{index:03d}.png", image)
    if defect:
        truth = root / category / "ground_truth" / defect / f"{index:03d}_mask.png"
        _save(truth, mask.astype(np.uint8) * 255)


def _save(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, compress_level=3)
