"""Scores new images with a trained run.

python -m vtadl_jax.predict --workdir runs/mvtec-screw --input DIR_OR_FILE_OR_GLOB --output OUT

or, in place of --workdir, --model FILE of vtadl_jax.export.

Writes OUT/predictions.csv and, for every image, an overlay and its anomaly map at the image's own
size, if the detector makes maps. Images that are not scored are in OUT/left_out.csv. Exit codes: 0
all scored, 1 some images are left out (they are listed, the others are scored), 2 a mistake the
user can fix, 130 interrupted, 143 told to stop (SIGTERM). The scores so far are kept.
"""

import contextlib
import csv
import functools
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from vtadl_jax.data.finding import Found, find_images
from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.predictor import Intake, Prediction, Predictor, check_score
from vtadl_jax.report.names import cell, file_names, png_name
from vtadl_jax.report.picture_files import save_map, save_picture
from vtadl_jax.report.pictures import overlay_row, photo_of
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say, track
from vtadl_jax.runtime.files import writing

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Folder of the trained run.")
_MODEL = _define("model", "", "File that vtadl_jax.export wrote, in place of --workdir.")
_INPUT = _define("input", "", "Images: a folder (and its sub-folders), a file or a glob pattern.")
_OUTPUT = _define("output", "", "Folder for the results; must be new or empty.")
_MAPS = flags.DEFINE_enum(
    "maps", "npy", ["npy", "tiff", "none"], "File type of the float32 maps.", flag_values=FLAGS
)
_OVERLAYS = flags.DEFINE_bool("overlays", True, "Also draw pictures.", flag_values=FLAGS)
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Defect if score >= threshold. Default: calibrated.", flag_values=FLAGS
)
COLUMNS = (
    *("name", "score", "threshold", "decision", "seconds", "overlay", "map"),
    *("unlike_training", "p_value"),
)
TERMINATED = 143
NAMED = 20  # names on a line of the terminal


class Terminated(BaseException):
    """The system told the program to stop (SIGTERM)."""


@dataclass
class Outcome:
    """Results so far: the number of images scored, and of defective ones among them; name and
    reason of each that was left out, and of each that is unlike all training images."""

    scored: int = 0
    defective: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unlike: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """A file on its way through prediction. photo: for the overlay, uint8 [h, w, 3], reduced."""

    name: str
    intake: Intake | None = None
    photo: np.ndarray | None = None
    error: UserError | None = None


def read_batches(
    found: Found, predictor: Predictor, maps: bool, overlays: bool
) -> Iterator[list[Item]]:
    """Yields batches of images, or of read errors; decodes the next batch ahead."""

    def read(path: Path) -> Item:
        name = found.name(path)
        try:
            intake, photo = predictor.take_in(path, photo_of if overlays else None)
        except UserError as error:
            return Item(name, error=error)
        if not maps:  # for the overlay, the map needs the size of the photo only
            size = photo.shape[:2] if overlays else intake.image.shape[:2]
            intake = Intake(intake.image, size)
        return Item(name, intake, photo)

    files, size = found.images, predictor.batch_size
    pool = ThreadPoolExecutor(max(predictor.num_threads, 1))
    try:
        pending = None
        for start in range(0, len(files), size):
            following = [pool.submit(read, path) for path in files[start : start + size]]
            if pending is not None:
                yield [future.result() for future in pending]
            pending = following
        if pending is not None:
            yield [future.result() for future in pending]
    finally:
        pool.shutdown(cancel_futures=True)


def predict(
    predictor: Predictor,
    files: Sequence[Path],
    root: Path,
    out: Path,
    maps: str = "npy",
    overlays: bool = True,
    outcome: Outcome | None = None,
) -> list[tuple[str, str]]:
    """Scores files and writes all results to `out`; returns name and reason of each left out.

    outcome: is kept up to date, for a caller that is interrupted. Raises UserError if something
    can't be written; the scores so far are kept.
    """
    outcome = Outcome() if outcome is None else outcome
    if predictor.warm_up().anomaly_map is None and maps != "none":
        say("this detector scores whole images and makes no maps: no maps are written")
        maps = "none"
    found = Found(root, list(files))
    names = [found.name(path) for path in files]
    drawn = dict(zip(names, file_names(names, png_name), strict=True)) if overlays else {}
    located = dict(zip(names, file_names(names, lambda name: f"{name}.{maps}"), strict=True))
    located = {} if maps == "none" else located
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with _table(out / "predictions.csv", COLUMNS) as (writer, stream):
        batches = read_batches(found, predictor, bool(located), overlays)
        total = -(-len(files) // predictor.batch_size)
        for batch in track(batches, total, "predict"):
            outcome.left_out += [(i.name, str(i.error)) for i in batch if i.error is not None]
            for item, prediction, seconds in _scored(predictor, batch):
                overlay, where = drawn.get(item.name, ""), located.get(item.name, "")
                try:
                    check_score(prediction.score)
                except UserError as error:
                    outcome.left_out.append((item.name, f"image {printable(item.name)}: {error}"))
                    continue
                decision = "defective" if prediction.is_defective else "good"
                numbers = (f"{v:.9g}" for v in (prediction.score, prediction.threshold))
                row = (cell(item.name), *numbers, decision, f"{seconds:.4f}", overlay, where)
                rarity = "" if prediction.p_value is None else f"{prediction.p_value:.6g}"
                writer.writerow((*row, prediction.unlike_training, rarity))
                outcome.scored += 1
                outcome.defective += prediction.is_defective
                if prediction.unlike_training:
                    outcome.unlike.append((item.name, prediction.unlike_training))
                if where and prediction.anomaly_map is not None:
                    save_map(prediction.anomaly_map, out / "maps", where)
                if overlay:
                    picture = _overlay(item, prediction, predictor)
                    save_picture(picture, out / "overlays", overlay)
            stream.flush()
    return outcome.left_out


@contextlib.contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Opens a new CSV file with a header; what was written stays, whatever ends the with block."""
    with writing(path), path.open("x", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        yield writer, stream


def _scored(
    predictor: Predictor, batch: Sequence[Item]
) -> Iterator[tuple[Item, Prediction, float]]:
    """Yields the images of a batch that were read, with predictions, and seconds per image."""
    good = [(item, item.intake) for item in batch if item.intake is not None]
    if not good:
        return
    start, seconds = time.perf_counter(), None
    predictions = predictor.predict_batch([intake for _, intake in good])
    for (item, _), prediction in zip(good, predictions, strict=True):
        if seconds is None:  # the first one waits for the scores of all
            seconds = (time.perf_counter() - start) / len(good)
        yield item, prediction, seconds


def _overlay(item: Item, prediction: Prediction, predictor: Predictor) -> Image.Image:
    """Draws the reduced image beside its map."""
    assert item.photo is not None, "it was read for the overlay"
    anomaly_map, (height, width) = prediction.anomaly_map, item.photo.shape[:2]
    if anomaly_map is not None and anomaly_map.shape != (height, width):
        smaller = Image.fromarray(anomaly_map).resize((width, height), Image.Resampling.BILINEAR)
        anomaly_map = np.asarray(smaller)
    return overlay_row(
        item.photo,
        anomaly_map,
        low=predictor.calibration.map_low,
        high=predictor.calibration.map_high,
        title=f"{printable(item.name)}   score {prediction.score:.2f}, "
        f"threshold {prediction.threshold:.2f}",
    )


def report_left_out(out: Path, found: Found, outcome: Outcome) -> None:
    """Names on the terminal what was not scored; writes left_out.csv if these may be images."""
    for name, reason in outcome.left_out:
        text = reason if printable(name) in reason else f"{name} {reason}"
        print(f"skipped: {printable(text)}", file=sys.stderr)
    if found.passed_over:
        names = ", ".join(map(printable, found.passed_over[:NAMED]))
        more = f" and {len(found.passed_over) - NAMED} more" if found.passed_over[NAMED:] else ""
        say(f"passed over, as they are hidden or no images: {names}{more}")
    if outcome.left_out:
        with _table(out / "left_out.csv", ("name", "reason")) as (writer, _):
            writer.writerows((cell(name), cell(reason)) for name, reason in outcome.left_out)


def run() -> int:
    """Scores the images that the flags name."""
    if not _WORKDIR.value and not _MODEL.value:
        raise UserError("no --workdir: give the folder of a run, or --model FILE of an export")
    if _WORKDIR.value and _MODEL.value:
        raise UserError(f"--workdir {_WORKDIR.value} and --model {_MODEL.value}: give one of them")
    for flag in (_INPUT, _OUTPUT):
        if not flag.value:
            raise UserError(f"no --{flag.name}: give it ({FLAGS[flag.name].help})")
    threshold = _THRESHOLD.value
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: give a finite number")
    found = find_images(_INPUT.value)
    out = Path(_OUTPUT.value).expanduser()
    with writing(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--output {out} exists and is not an empty folder: give another")
    outcome = Outcome(left_out=list(found.left_out))
    stopped = True
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        predictor = _open(threshold)
        rest = _MAPS.value, _OVERLAYS.value, outcome
        predict(predictor, found.images, found.root, out, *rest)
        stopped = False
    except Terminated:
        say("stopped by SIGTERM")
    finally:
        signal.signal(signal.SIGTERM, previous)
        if stopped and (out / "predictions.csv").is_file():
            with contextlib.suppress(UserError):  # the error on its way says more
                _conclude(out, found, outcome)
    if not stopped:
        _conclude(out, found, outcome)
    return TERMINATED if stopped else bool(outcome.left_out)


def _open(threshold: float | None) -> Predictor:
    if _MODEL.value:
        return Predictor.from_file(Path(_MODEL.value).expanduser(), threshold=threshold)
    return Predictor.from_workdir(Path(_WORKDIR.value).expanduser(), threshold=threshold)


def _conclude(out: Path, found: Found, outcome: Outcome) -> None:
    report_left_out(out, found, outcome)
    for name, reason in outcome.unlike[:NAMED]:
        say(f"{printable(name)} is unlike all training images: {reason.partition('; ')[0]}")
    if outcome.unlike[NAMED:]:
        say(f"and {len(outcome.unlike) - NAMED} more images: column unlike_training of the table")
    total = len(found.images) + len(found.left_out)
    decided = f"{outcome.defective} defective, {outcome.scored - outcome.defective} good"
    table = printable(out / "predictions.csv")
    say(f"{outcome.scored} of {total} images scored, {decided}: {table}")


def _stop(*_: object) -> None:
    raise Terminated


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "the images scored so far are in --output")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
