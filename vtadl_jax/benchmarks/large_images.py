"""Compares windows with one resize on drawn large images with small defects; measures memory.

    python -m vtadl_jax.benchmarks.large_images --output DIR
    python -m vtadl_jax.benchmarks.large_images --output DIR --memory 9000,12000

The first draws woven surfaces of 4096 × 3072 pixels into DIR/images, whose defects are 0.02 % of
the image, and trains and tests configs/large.py on them twice: by windows, and by one resize to the
network's size. The second, after the first, scores a drawn image of that height and width by
windows and prints the peak resident memory of its process. A folder that is there already is used
again.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vtadl_jax.data.synthetic.large import KINDS, SHARE, draw_large_set, draw_weave
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.experiment import load
from vtadl_jax.run import run
from vtadl_jax.runtime.console import say
from vtadl_jax.training.measuring import peak_of_process

WINDOWS = ("--config.data.windows.side=256", "--config.data.windows.overlap=0.25")
WAYS = {"windows": WINDOWS, "one resize": ("--config.data.windows.side=0",)}
FIGURES = ("aupro", "pixel_auroc", "image_auroc")


def main(argv: list[str] | None = None) -> int:
    """Runs what the arguments ask for, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vtadl_jax.benchmarks.large_images")
    parser.add_argument("--output", type=Path, required=True, help="folder of images and runs")
    parser.add_argument("--memory", metavar="HEIGHT,WIDTH", help="score one image of this size")
    parser.add_argument("--size", default="3072,4096", help="HEIGHT,WIDTH of drawn images")
    parser.add_argument("--train", type=int, default=12, help="training images (default: 12)")
    parser.add_argument("--per_kind", type=int, default=2, help="images of a defect (default: 2)")
    args = parser.parse_args(argv)
    try:
        if args.memory:
            measure_memory(args.output, *_sides(args.memory))
        else:
            compare(args.output, *_sides(args.size), args.train, args.per_kind)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(folder: Path, height: int, width: int, num_train: int, per_kind: int) -> None:
    """Draws the set, trains and tests both ways, and prints their figures."""
    images = folder / "images"
    if not images.exists():
        say(f"drawing into {images}: defects are {SHARE:.2%} of an image's area")
        draw_large_set(images, height, width, num_train, len(KINDS), per_kind)
    found = {}
    for name, flags in WAYS.items():
        fields = ("--config.eval.cross_fit=off", f"--config.data.root={images}", *flags)
        config, _ = load("configs/large.py", fields)
        start = time.perf_counter()
        results = run(config, folder / name.replace(" ", "-"))
        found[name] = [results[figure] for figure in FIGURES]
        say(f"{name}: {time.perf_counter() - start:.0f} s")
    print(f"{'':12}" + "".join(f"{figure:>13}" for figure in FIGURES))
    for name, values in found.items():
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        print(f"{name:12}" + "".join(f"{cell:>13}" for cell in cells))


def measure_memory(folder: Path, height: int, width: int) -> None:
    """Scores one drawn image by the run of `compare`, and prints memory and seconds."""
    predictor = Predictor.from_workdir(folder / "windows")
    predictor.warm_up()
    part = draw_weave(1024, 1024, np.random.default_rng(0))
    whole = np.tile(part, (-(-height // 1024), -(-width // 1024)))[:height, :width]
    path = folder / f"weave-{width}x{height}.png"
    Image.fromarray(whole).save(path, compress_level=1)
    size = whole.nbytes
    del whole
    drawn = peak_of_process()
    start = time.perf_counter()
    prediction = predictor(path)
    assert prediction.anomaly_map is not None, "this method has maps"
    print(f"image {width}×{height} (width×height), {size / 2**20:.0f} MiB as 8-bit grey")
    print(f"score {prediction.score:.3f} in {time.perf_counter() - start:.0f} s")
    print(f"map float32, {prediction.anomaly_map.nbytes / 2**20:.0f} MiB at the image's size")
    peak = peak_of_process()
    print(f"peak resident memory {peak / 2**30:.2f} GiB ({drawn / 2**30:.2f} before scoring)")


def _sides(text: str) -> tuple[int, int]:
    sides = text.split(",")
    if len(sides) != 2 or not all(side.strip().isdigit() and int(side) for side in sides):
        raise UserError(f"{text!r}: give HEIGHT,WIDTH in pixels, as 3072,4096")
    return int(sides[0]), int(sides[1])


if __name__ == "__main__":
    sys.exit(main())
