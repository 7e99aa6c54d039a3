"""Scores image files and writes their table, maps, overlays and regions, batch by batch."""

import contextlib
import csv
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.data.finding import Found
from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.drift import Alarm, DriftMonitor
from vtadl_jax.evaluation.predictor import Intake, Prediction, Predictor, check_score
from vtadl_jax.report.groups import Groups
from vtadl_jax.report.marks import with_region
from vtadl_jax.report.names import cell, file_names, png_name
from vtadl_jax.report.picture_files import save_map, save_picture
from vtadl_jax.report.pictures import overlay_row, photo_of
from vtadl_jax.report.prediction_page import Sheet
from vtadl_jax.report.region_files import Regions
from vtadl_jax.runtime.console import say, track
from vtadl_jax.runtime.files import writing

COLUMNS = (
    *("name", "score", "threshold", "decision", "seconds", "overlay", "map"),
    *("unlike_training", "p_value"),
)


@dataclass
class Outcome:
    """Results so far: the number of images scored, and of defective ones among them; name and
    reason of each that was left out, and of each that is unlike all training images.

    drift: follows the images, if it is given; alarms: its alarms, and the image since which.
    groups: counts them by station and time, if it is given. sheet: the images of the page.
    """

    scored: int = 0
    defective: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unlike: list[tuple[str, str]] = field(default_factory=list)
    drift: DriftMonitor | None = None
    alarms: list[tuple[Alarm, str]] = field(default_factory=list)
    groups: Groups | None = None
    sheet: Sheet | None = None
    _names: list[str] = field(default_factory=list)

    def count(self, name: str, prediction: Prediction) -> bool:
        """Counts an image; returns False, and leaves it out, for a score that is no decision."""
        try:
            check_score(prediction.score)
        except UserError as error:
            self.left_out.append((name, f"image {printable(name)}: {error}"))
            return False
        self.scored += 1
        self.defective += prediction.is_defective
        if prediction.unlike_training:
            self.unlike.append((name, prediction.unlike_training))
        self._names.append(name)
        if self.groups is not None:
            self.groups.add(name, prediction.is_defective)
        if self.drift is not None and prediction.description is not None:
            followed = prediction.description, prediction.score, prediction.is_defective
            self.alarms += [(a, self._names[a.since]) for a in self.drift.add(*followed)]
        return True


@dataclass(frozen=True)
class Item:
    """A file on its way through prediction. photo: for the overlay, uint8 [h, w, 3], reduced."""

    name: str
    intake: Intake | None = None
    photo: np.ndarray | None = None
    error: UserError | None = None
    path: Path | None = None


def read_batches(
    found: Found, predictor: Predictor, maps: bool, photos: bool
) -> Iterator[list[Item]]:
    """Yields batches of images, or of read errors; decodes the next batch ahead."""

    def read(path: Path) -> Item:
        name = found.name(path)
        try:
            intake, photo = predictor.take_in(path, photo_of if photos else None)
        except UserError as error:
            return Item(name, error=error)
        if not maps:  # for the overlay, the map needs the size of the photo only
            size = photo.shape[:2] if photos else intake.image.shape[:2]
            intake = replace(intake, map_size=size)
        return Item(name, intake, photo, path=path)

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
    regions: Regions | None = None,
) -> list[tuple[str, str]]:
    """Scores files and writes all results to `out`; returns name and reason of each left out.

    outcome: is kept up to date, for a caller that is interrupted. regions: gets the
    regions of the maps, which are written to regions.csv; None writes none. Raises UserError if
    something can't be written; the scores so far are kept.
    """
    outcome = Outcome() if outcome is None else outcome
    if predictor.warm_up().anomaly_map is None:
        if maps != "none":
            say("this detector scores whole images and makes no maps: no maps are written")
        maps, regions = "none", None
    found = Found(root, list(files))
    names = [found.name(path) for path in files]
    drawn = dict(zip(names, file_names(names, png_name), strict=True)) if overlays else {}
    located = dict(zip(names, file_names(names, lambda name: f"{name}.{maps}"), strict=True))
    located = {} if maps == "none" else located
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as tables:
        experts = predictor.calibration.good_terms
        columns = (*COLUMNS, *(cell(f"{COLUMNS[-1]}_{name}") for name in experts))
        columns += ("station", outcome.groups.period) if outcome.groups else ()
        writer, stream = tables.enter_context(table(out / "predictions.csv", columns))
        if regions is not None:
            areas, _ = tables.enter_context(table(out / "regions.csv", regions.columns))
        whole = bool(located) or regions is not None  # maps have the image's own size
        photos = overlays or outcome.sheet is not None
        batches = read_batches(found, predictor, whole, photos)
        total = -(-len(files) // predictor.batch_size)
        for batch in track(batches, total, "predict"):
            outcome.left_out += [(i.name, str(i.error)) for i in batch if i.error is not None]
            for item, prediction, seconds in _scored(predictor, batch):
                if not outcome.count(item.name, prediction):
                    continue
                overlay, where = drawn.get(item.name, ""), located.get(item.name, "")
                group = outcome.groups.key(item.name) if outcome.groups else ()
                row = _row(item.name, prediction, seconds, overlay, where)
                writer.writerow((*row, *map(cell, group)))
                if outcome.sheet is not None and item.photo is not None and item.path is not None:
                    outcome.sheet.add(item.path, item.name, item.photo, prediction)
                if prediction.anomaly_map is not None:
                    if regions is not None:
                        areas.writerows(regions.add(item.name, prediction.anomaly_map))
                    if where:
                        save_map(prediction.anomaly_map, out / "maps", where)
                if overlay:
                    picture = _overlay(item, prediction, predictor)
                    save_picture(picture, out / "overlays", overlay)
            stream.flush()
    return outcome.left_out


def _row(
    name: str, prediction: Prediction, seconds: float, overlay: str, where: str
) -> tuple[str, ...]:
    """Returns an image's row of predictions.csv."""
    decision = "defective" if prediction.is_defective else "good"
    numbers = (f"{v:.9g}" for v in (prediction.score, prediction.threshold))
    rarity = "" if prediction.p_value is None else f"{prediction.p_value:.6g}"
    row = (cell(name), *numbers, decision, f"{seconds:.4f}", overlay, where)
    each = (f"{p:.6g}" for p in prediction.expert_p_values.values())
    return (*row, prediction.unlike_training, rarity, *each)


@contextlib.contextmanager
def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
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
    inside = None if item.intake is None else predictor.inside_at(item.intake, (height, width))
    return overlay_row(
        with_region(item.photo, inside),
        anomaly_map,
        low=predictor.calibration.map_low,
        high=predictor.calibration.map_high,
        title=f"{printable(item.name)}   score {prediction.score:.2f}, "
        f"threshold {prediction.threshold:.2f}",
    )
