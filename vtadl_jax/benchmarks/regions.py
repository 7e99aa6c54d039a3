"""Measures what `data.regions` gains where the background of a part changes.

python -m vtadl_jax.benchmarks.regions --config configs/baseline_filters.py --output DIR

Draws parts (`data/synthetic`) in front of backgrounds that are others in each image, in training
and in test images alike, and trains the config twice: without regions, and with a polygon around
the parts. DIR keeps the images, the polygon (regions.json) and both runs; a second start continues.
Prints a Markdown table. Exit codes: 0 done, 2 a mistake.
"""

import functools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image, ImageDraw

from vtadl_jax import experiment
from vtadl_jax.data.decode import load_image
from vtadl_jax.data.regions.area import read_area
from vtadl_jax.data.regions.polygons import INSPECT, to_labelme
from vtadl_jax.data.synthetic.dataset import CATEGORIES, make_dataset
from vtadl_jax.errors import UserError
from vtadl_jax.options import replace
from vtadl_jax.run import run as run_experiment
from vtadl_jax.runtime.console import say, track
from vtadl_jax.runtime.files import write_json

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", "", "Folder of images and runs.", flag_values=FLAGS)
_PART = flags.DEFINE_enum("part", "gear", CATEGORIES, "What is drawn.", flag_values=FLAGS)
_SIDE = flags.DEFINE_integer("side", 128, "Side of the images.", 32, 1024, flag_values=FLAGS)
_IMAGES = flags.DEFINE_integer("images", 64, "Good training images.", 8, flag_values=FLAGS)
FIGURES = ("image_auroc", "pixel_auroc", "aupro")
RADIUS, CORNERS = 0.47, 36  # of the polygon around a part, of the side; its corners
CLUTTER = 30  # shapes in a background


def background(side: int, rng: np.random.Generator) -> Image.Image:
    """Returns an image of rectangles, ellipses and lines of any color, [side, side] RGB."""
    picture = Image.new("RGB", (side, side), tuple(rng.integers(20, 230, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    for _ in range(CLUTTER):
        corners = rng.uniform(-0.2, 1.2, 2) * side, rng.uniform(0.05, 0.4, 2) * side
        low, high = corners[0], corners[0] + corners[1]
        box, color = [*low.tolist(), *high.tolist()], tuple(rng.integers(0, 256, 3).tolist())
        draw = (pen.rectangle, pen.ellipse, pen.line)[int(rng.integers(3))]
        draw(box, fill=color)
    return picture


def make_images(folder: Path, part: str, side: int, count: int) -> Path:
    """Draws the set and its polygon into a folder, unless it is there; returns the polygon's file.

    An image's background depends on its name only.
    """
    regions, root = folder / "regions.json", folder / "images"
    if regions.is_file():
        return regions
    sizes = {"image_size": side, "num_train": count, "num_test_good": 24, "num_per_defect": 9}
    plain = make_dataset(folder / "plain", categories=(part,), progress=track_parts, **sizes)
    turns = (2 * math.pi * i / CORNERS for i in range(CORNERS))
    points = [
        (side * (0.5 + RADIUS * math.cos(a)), side * (0.5 + RADIUS * math.sin(a))) for a in turns
    ]
    write_json(folder / "polygon.json", to_labelme((side, side), [(INSPECT, points)], ""))
    inside = read_area(folder / "polygon.json").pixels[..., None]
    for path in sorted(plain.rglob("*.png")):
        where = root / path.relative_to(plain)
        where.parent.mkdir(parents=True, exist_ok=True)
        if "ground_truth" in path.parts:
            where.write_bytes(path.read_bytes())
            continue
        seed = list(path.relative_to(plain).as_posix().encode())
        other = np.asarray(background(side, np.random.default_rng(seed)))
        Image.fromarray(np.where(inside, load_image(path, 3), other)).save(where)
    (folder / "polygon.json").rename(regions)
    return regions


track_parts = functools.partial(track, what="draw parts")


def measure(text: str, overrides: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Trains a config without and with regions; returns the figures of each."""
    regions = make_images(folder, _PART.value, _SIDE.value, _IMAGES.value)
    config, _ = experiment.load(text, overrides)
    fields = {
        "data.source": "mvtec_layout",
        "data.root": str(folder / "images"),
        "data.category": _PART.value,
    }
    found = []
    for name, where in (("without", ""), ("with", str(regions))):
        say(f"{name} data.regions")
        chosen = replace(config, {**fields, "data.regions": where})
        results = run_experiment(chosen, folder / name)
        image = results["at_threshold"]["image"]
        figures = {metric: results[metric] for metric in FIGURES}
        found.append({"regions": name, **figures, "found": image["tpr"], "alarms": image["fpr"]})
    return found


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [
        "| data.regions | image AUROC | pixel AUROC | AU-PRO | defective images found | "
        "false alarms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        figures = [f"{row[name]:.3f}" for name in FIGURES]
        rates = [f"{row[name]:.0%}" for name in ("found", "alarms")]
        lines.append(f"| {' | '.join((row['regions'], *figures, *rates))} |")
    return lines


def run(text: str, overrides: Sequence[str]) -> None:
    """Measures what the command line names; prints the figures and writes figures.json."""
    if not text:
        raise UserError("no config: give --config FILE, as configs/baseline_filters.py")
    if not _OUTPUT.value:
        raise UserError("no --output: give a folder for images and runs")
    folder = Path(_OUTPUT.value).expanduser()
    settings = {"part": _PART.value, "side": _SIDE.value, "images": _IMAGES.value}
    stored = folder / "settings.json"
    if stored.is_file() and json.loads(stored.read_text(encoding="utf-8")) != settings:
        raise UserError(f"--output {folder} has other images: give another, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(stored, settings)
    rows = measure(text, overrides, folder)
    write_json(folder / "figures.json", {"config": text, **settings, "rows": rows})
    print("\n".join(table_of(rows)))


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(FLAGS, argv, __doc__, run, "start it again to go on")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
