"""Scores new images with a trained run.

python -m vtadl_jax.predict --workdir runs/mvtec-screw --input DIR_OR_FILE_OR_GLOB --output OUT

Writes OUT/predictions.csv and, for every image, an overlay and its anomaly map at the image's own
size, if the detector makes maps. Exit codes: 0 all scored, 1 some images could not be read (they
are listed, the others are scored), 2 a mistake the user can fix, 130 interrupted.
"""

import csv
import functools
import glob
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.formats import EXTENSIONS
from vtadl_jax.data.records import natural_key
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Prediction, Predictor
from vtadl_jax.report.pictures import overlay_row
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say, track

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Folder of the trained run.")
_INPUT = _define("input", "", "Images: a folder (and its sub-folders), a file or a glob pattern.")
_OUTPUT = _define("output", "", "Folder for the results; must be new or empty.")
_MAPS = flags.DEFINE_enum(
    "maps", "npy", ["npy", "tiff", "none"], "File type of the float32 maps.", flag_values=FLAGS
)
_OVERLAYS = flags.DEFINE_bool("overlays", True, "Also draw pictures.", flag_values=FLAGS)
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Defect if score >= threshold. Default: calibrated.", flag_values=FLAGS
)
COLUMNS = ("name", "score", "threshold", "decision", "seconds")


def find_images(pattern: str) -> tuple[Path, list[Path]]:
    """Returns (folder that names are relative to, images in natural order).

    For a folder, all images in it and its sub-folders, except hidden ones; a glob may match any
    files. Raises UserError if there are no images.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        found = [Path(f, name) for f, _, names in os.walk(path) for name in names]
        files = [p for p in found if p.suffix.lower() in EXTENSIONS]
        files = [p for p in files if not any(x.startswith(".") for x in p.relative_to(path).parts)]
        root = path
    else:
        matches = glob.iglob(str(path), recursive=True)  # noqa: PTH207 (absolute patterns too)
        files = [Path(p) for p in matches if Path(p).is_file()]
        root = Path(os.path.commonpath([p.parent for p in files])) if files else path
    if not files:
        raise UserError(f"--input {pattern}: no images there: give a folder, a file or a pattern")
    return root, sorted(files, key=lambda p: natural_key(p.relative_to(root).as_posix()))


def read_batches(
    files: Sequence[Path], batch_size: int, channels: int, num_threads: int
) -> Iterator[list[tuple[Path, np.ndarray | UserError]]]:
    """Yields batches of images, or of read errors; decodes the next batch ahead."""

    def read(path: Path):
        try:
            return path, load_image(path, channels)
        except UserError as error:
            return path, error

    starts = range(0, len(files), batch_size)
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        pending = None
        for start in starts:
            following = [pool.submit(read, p) for p in files[start : start + batch_size]]
            if pending is not None:
                yield [future.result() for future in pending]
            pending = following
        if pending is not None:
            yield [future.result() for future in pending]


def predict(
    predictor: Predictor,
    files: Sequence[Path],
    root: Path,
    out: Path,
    maps: str = "npy",
    overlays: bool = True,
) -> list[UserError]:
    """Scores files and writes all results to `out`; returns the files that could not be read."""
    unreadable = []
    if predictor.warm_up().anomaly_map is None and maps != "none":
        say("this detector scores whole images and makes no maps: no maps are written")
    out.mkdir(parents=True, exist_ok=True)
    size = predictor.batch_size
    batches = read_batches(files, size, predictor.channels, predictor.num_threads)
    temporary = out / "predictions.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for batch in track(batches, -(-len(files) // size), "predict"):
            good = [(path, image) for path, image in batch if not isinstance(image, UserError)]
            unreadable += [error for _, error in batch if isinstance(error, UserError)]
            if not good:
                continue
            start = time.perf_counter()
            predictions = predictor([image for _, image in good])
            seconds = (time.perf_counter() - start) / len(good)
            for (path, image), prediction in zip(good, predictions, strict=True):
                name = path.relative_to(root).as_posix()
                decision = "defective" if prediction.is_defective else "good"
                numbers = (f"{v:.9g}" for v in (prediction.score, prediction.threshold))
                writer.writerow((name, *numbers, decision, f"{seconds:.4f}"))
                _write_map(out, name, prediction, maps)
                if overlays:
                    _write_overlay(out, name, image, prediction, predictor)
    temporary.replace(out / "predictions.csv")
    return unreadable


def _write_map(out: Path, name: str, prediction: Prediction, form: str) -> None:
    if form == "none" or prediction.anomaly_map is None:
        return
    path = out / "maps" / f"{name}.{form}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "npy":
        np.save(path, prediction.anomaly_map)
    else:
        Image.fromarray(prediction.anomaly_map).save(path)


def _write_overlay(
    out: Path, name: str, image: np.ndarray, prediction: Prediction, predictor: Predictor
) -> None:
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    row = overlay_row(
        rgb,
        prediction.anomaly_map,
        low=predictor.calibration.map_low,
        high=predictor.calibration.map_high,
        title=f"{name}   score {prediction.score:.2f}, threshold {prediction.threshold:.2f}",
    )
    path = out / "overlays" / (name if name.lower().endswith(".png") else f"{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    row.save(path)


def run() -> int:
    """Scores the images that the flags name."""
    for flag in (_WORKDIR, _INPUT, _OUTPUT):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    root, files = find_images(_INPUT.value)
    out = Path(_OUTPUT.value).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--output {out} exists and is not an empty folder: give another")
    workdir = Path(_WORKDIR.value).expanduser()
    predictor = Predictor.from_workdir(workdir, threshold=_THRESHOLD.value)
    unreadable = predict(predictor, files, root, out, _MAPS.value, _OVERLAYS.value)
    for error in unreadable:
        print(f"skipped: {error}", file=sys.stderr)
    say(f"{len(files) - len(unreadable)} of {len(files)} images scored: {out / 'predictions.csv'}")
    return 1 if unreadable else 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "the images scored so far are in --output")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
