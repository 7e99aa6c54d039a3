"""Scoring images, metrics and what is written about them."""

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from vtadl_jax import __version__, calibration, metrics, sharding
from vtadl_jax.calibration import Calibration
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.models.detector import Detector, Scores
from vtadl_jax.report.pictures import contact_sheet, overlay_row
from vtadl_jax.writers import say, track

SHEET_ROWS = 12


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the detector said of a list of images, beside the truth.

    terms: [N, T] float32; maps: [N, H, W] float32; masks: [N, H, W] uint8; labels: [N];
    has_mask: [N] bool, False for defective images without ground truth.
    """

    terms: np.ndarray
    maps: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    has_mask: np.ndarray


class Evaluator:
    """Scores lists of records with one compiled step."""

    def __init__(self, config: ConfigDict, detector: Detector, geometry: Geometry, mesh: Mesh):
        self.config, self.detector, self.geometry, self._mesh = config, detector, geometry, mesh
        everywhere = sharding.replicated(mesh)
        self._step = jax.jit(detector.score, out_shardings=everywhere)

    def batches(self, variables, records: Sequence[Record], what: str) -> Iterator[tuple]:
        """(host batch, host scores) of every batch, padding cut off."""
        size, data = self.config.eval.batch_size, self.config.data
        total = -(-len(records) // size)
        loader = eval_batches(records, self.geometry, data.channels, size, data.num_threads)
        for batch in track(loader, total, what):
            scores = self._step(variables, sharding.put_batch(self._mesh, batch["image"]))
            valid = np.asarray(batch["valid"])
            scores = jax.device_get(scores)
            yield jax.tree.map(lambda x, keep=valid: x[keep], (batch, scores))

    def run(
        self,
        variables,
        records: Sequence[Record],
        what: str,
        on_batch: Callable[[dict, Scores], None] | None = None,
    ) -> Outputs:
        parts = []
        for batch, scores in self.batches(variables, records, what):
            if on_batch is not None:
                on_batch(batch, scores)
            parts.append(
                (
                    scores.terms,
                    scores.anomaly_map,
                    batch["mask"],
                    batch["label"],
                    batch["has_mask"],
                )
            )
        return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def calibrate(self, variables, holdout: Sequence[Record]) -> Calibration:
        outputs = self.run(variables, holdout, "calibrate")
        return calibration.calibrate(self.detector.score_terms, outputs.terms, outputs.maps)


def compute_metrics(outputs: Outputs, scores: np.ndarray, fpr_limit: float) -> dict:
    """Image metrics of `scores` [N], pixel metrics of the maps; None where undefined."""
    result: dict[str, float | None] = dict.fromkeys(
        ("image_auroc", "image_average_precision", "pixel_auroc", "aupro")
    )
    if 0 < outputs.labels.sum() < len(outputs.labels):
        result["image_auroc"] = metrics.auroc(scores, outputs.labels)
        result["image_average_precision"] = metrics.average_precision(scores, outputs.labels)
    maps, masks = outputs.maps[outputs.has_mask], outputs.masks[outputs.has_mask]
    if masks.any() and not masks.all():
        result["pixel_auroc"] = metrics.auroc(maps, masks)
        result["aupro"] = metrics.aupro(maps, masks, fpr_limit)
    return result


def evaluate(
    evaluator: Evaluator,
    variables,
    holdout: Sequence[Record],
    test: Sequence[Record],
    step: int,
    out: Path | None = None,
) -> dict:
    """Calibrate on `holdout`, score `test`; with `out`, write everything a person wants to see.

    Writes calibration.json, results.json, scores.csv, overlays/ and overview.png into `out`.
    Returns the results.
    """
    start = time.perf_counter()
    config = evaluator.config
    calib = evaluator.calibrate(variables, holdout)
    if not test:
        if out is not None:
            calib.save(out / "calibration.json")
        return {"step": step, "num_test_images": 0}
    pictures = None if out is None else _Pictures(out, test, calib, config)
    outputs = evaluator.run(variables, test, "evaluate", pictures.add if pictures else None)
    scores = calib.image_scores(outputs.terms, config.eval.term_weights)
    results = {
        "step": step,
        **compute_metrics(outputs, scores, config.eval.fpr_limit),
        "fpr_limit": config.eval.fpr_limit,
        "image_auroc_by_term": _by_term(calib.terms, outputs),
        "num_test_images": len(test),
        "num_anomalous": int(outputs.labels.sum()),
        "num_without_mask": int((~outputs.has_mask).sum()),
        "num_calibration_images": calib.num_images,
        "seconds": time.perf_counter() - start,
        "versions": {"vtadl_jax": __version__, "jax": jax.__version__},
    }
    if out is not None and pictures is not None:
        calib.save(out / "calibration.json")
        pictures.finish()
        _write_scores(out / "scores.csv", test, scores, outputs.terms, calib.terms)
        _replace(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def _by_term(names: Sequence[str], outputs: Outputs) -> dict[str, float | None]:
    both = 0 < outputs.labels.sum() < len(outputs.labels)
    return {
        name: metrics.auroc(outputs.terms[:, i], outputs.labels) if both else None
        for i, name in enumerate(names)
    }


class _Pictures:
    """Overlays of chosen test images, written as they are scored; and one sheet of some of them."""

    def __init__(self, out: Path, test: Sequence[Record], calib: Calibration, config: ConfigDict):
        self._folder, self._out = out / "overlays", out
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("*.png"):
            old.unlink()
        self._test, self._calib, self._weights = test, calib, config.eval.term_weights
        limit = len(test) if config.eval.num_pictures < 0 else config.eval.num_pictures
        self._chosen = spread(test, limit)
        self._on_sheet = spread(test, SHEET_ROWS)
        self._rows: dict[int, Image.Image] = {}

    def add(self, batch: dict, scores: Scores) -> None:
        values = self._calib.image_scores(scores.terms, self._weights)
        for i, index in enumerate(batch["index"].tolist()):
            if index not in self._chosen and index not in self._on_sheet:
                continue
            record = self._test[index]
            recon = scores.recon[i]
            row = overlay_row(
                as_rgb(batch["image"][i]),
                scores.anomaly_map[i],
                low=self._calib.map_low,
                high=self._calib.map_high,
                mask=batch["mask"][i] if batch["has_mask"][i] else None,
                recon=as_rgb(recon) if recon.size else None,
                title=f"{record.name}   score {values[i]:.2f}",
            )
            if index in self._chosen:
                name = record.name.removeprefix("test/").replace("/", "_")
                row.save(self._folder / f"{Path(name).stem}.png")
            if index in self._on_sheet:
                self._rows[index] = row

    def finish(self) -> None:
        rows = [self._rows[i] for i in sorted(self._rows)]
        if rows:
            sheet = contact_sheet(rows, low=self._calib.map_low, high=self._calib.map_high)
            sheet.save(self._out / "overview.png")


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] → [H, W, 3]."""
    return np.broadcast_to(image, (*image.shape[:2], 3))


def spread(records: Sequence[Record], limit: int) -> set[int]:
    """Indices of at most `limit` records, taken in turn from every defect kind, evenly inside."""
    groups: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record.defect, []).append(i)
    chosen: set[int] = set()
    share, extra = divmod(min(limit, len(records)), max(len(groups), 1))
    for rank, members in enumerate(sorted(groups.values(), key=len)):
        take = min(len(members), share + (rank < extra))
        chosen.update(members[len(members) * j // take] for j in range(take))
    rest = [i for i in range(len(records)) if i not in chosen]
    missing = min(limit, len(records)) - len(chosen)
    chosen.update(rest[len(rest) * j // missing] for j in range(missing))
    return chosen


def _write_scores(path: Path, test, scores, terms, names) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(("name", "label", "defect", "score", *names))
        for record, score, row in zip(test, scores, terms, strict=True):
            values = (f"{v:.7g}" for v in (score, *row))
            writer.writerow((record.name, record.label, record.defect, *values))
    temporary.replace(path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def say_results(results: dict) -> None:
    """The metrics on one line."""
    names = ("image_auroc", "image_average_precision", "pixel_auroc", "aupro")
    if results["num_test_images"] == 0:
        say("no test images: calibrated only")
        return
    shown = (f"{n} {'-' if results[n] is None else format(results[n], '.4f')}" for n in names)
    say(f"step {results['step']}  {'  '.join(shown)}  on {results['num_test_images']} images")
