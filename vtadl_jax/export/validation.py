"""Compares the predictions of an exported file with those of its run."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Intake, Prediction, Predictor
from vtadl_jax.runtime.console import track

SCORES = {"float32": 1e-4, "float16": 5e-3, "int8": 0.25}  # relative tolerance by precision
REPEATS = 20  # timed calls


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """scores: largest difference, divided by the score if that is above 1. maps: as a share of the
    color range. precision: of the exported file."""

    scores: float
    maps: float
    precision: str = "float32"

    @classmethod
    def of(cls, file: Path, scores: float | None, maps: float | None) -> "Tolerances":
        """Returns the tolerances for a file, those given or the defaults of its precision."""
        precision = precision_of(file)
        scores = SCORES.get(precision, SCORES["float32"]) if scores is None else scores
        return cls(scores, 10 * scores if maps is None else maps, precision)


def precision_of(file: Path) -> str:
    """Returns the precision of an exported file: an ONNX file says it, others are in float32."""
    if file.suffix != ".onnx":
        return "float32"
    from vtadl_jax.export.onnx.opened import read_onnx

    return read_onnx(file)[0]["precision"]


def known_images(workdir: Path) -> list[Path]:
    """Returns held-out good images and test images of a run, of those in files of their own.

    Raises UserError if its data are not there.
    """
    from vtadl_jax.data.sources import load_splits
    from vtadl_jax.experiment import make_detector
    from vtadl_jax.training.division import divide
    from vtadl_jax.training.stored import load_config

    config = load_config(workdir)
    try:
        splits = load_splits(config, make_detector(config).needs, draw=False)
    except UserError as error:
        raise UserError(f"no --input, and the run's own images can't be read: {error}") from error
    records = [*divide(config, splits.train).holdout, *splits.test]
    paths = [record.image for record in records if isinstance(record.image, Path)]
    if not paths:
        raise UserError("the run's images are not in files of their own: give --input")
    return paths


def compare(
    reference: Predictor, exported: Predictor, images: Sequence[Path], tolerances: Tolerances
) -> dict[str, Any]:
    """Scores images by both predictors; returns differences and flips, ready for JSON.

    A decision that differs counts as flipped unless the score is within the tolerance of the
    threshold, where rounding decides. Raises UserError for an image that can't be read.
    """
    rows = []
    size = reference.batch_size
    starts = range(0, len(images), size)
    for start in track(starts, len(starts), "validate"):
        batch = list(images[start : start + size])
        pairs = zip(reference(batch), exported(batch), strict=True)
        rows += [_differences(*pair, reference, tolerances) for pair in pairs]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    flips = columns["differs"] & ~columns["near"]
    passed = not flips.any() and columns["score"].max() <= tolerances.scores
    has_maps = bool(columns["has_map"].all())
    passed = bool(passed and (not has_maps or columns["map"].max() <= tolerances.maps))
    found: dict[str, Any] = {
        "passed": passed,
        "images": len(rows),
        "tolerances": dataclasses.asdict(tolerances),
        "score_difference": _summary(columns["score"]),
        "map_difference": _summary(columns["map"]) if has_maps else None,
        "p_value_difference": _summary(columns["p_value"]),
        "flipped": int(flips.sum()),
        "flipped_names": [str(images[i]) for i in np.flatnonzero(flips).tolist()],
        "within_rounding_of_the_threshold": int((columns["differs"] & columns["near"]).sum()),
    }
    return found


def _differences(
    ours: Prediction, theirs: Prediction, reference: Predictor, tolerances: Tolerances
) -> dict[str, Any]:
    scale = max(abs(ours.score), 1.0)
    width = reference.calibration.map_high - reference.calibration.map_low
    apart, there = 0.0, False
    if ours.anomaly_map is not None and theirs.anomaly_map is not None:
        apart = float(np.abs(ours.anomaly_map - theirs.anomaly_map).max()) / width
        there = True
    both = ours.p_value is not None and theirs.p_value is not None
    return {
        "score": abs(ours.score - theirs.score) / scale,
        "map": apart,
        "has_map": there,
        "p_value": abs((ours.p_value or 0) - (theirs.p_value or 0)) if both else 0.0,
        "differs": ours.is_defective != theirs.is_defective,
        "near": abs(ours.score - ours.threshold) <= tolerances.scores * scale,
    }


def _summary(values: np.ndarray) -> dict[str, float]:
    return {"largest": float(values.max()), "mean": float(values.mean())}


def latencies(makers: dict[str, Callable[[int], Predictor]], image: Path) -> dict[str, Any]:
    """Returns seconds to score an image that is decoded already: p50 and p95 of `REPEATS` calls,
    interleaved, and an image's share of a full batch.

    makers: batch size → predictor, 0 for its own; a file may have one batch size only.
    """
    singles = {name: make(1) for name, make in makers.items()}
    intakes = {name: predictor.take_in(image)[0] for name, predictor in singles.items()}
    times: dict[str, list[float]] = {name: [] for name in singles}
    for _ in range(REPEATS + 1):
        for name, predictor in singles.items():
            times[name].append(_seconds(predictor, [intakes[name]]))
    found: dict[str, Any] = {}
    for name, make in makers.items():
        p50, p95 = np.quantile(times[name][1:], (0.5, 0.95)).tolist()
        whole = make(0)
        batch = [whole.take_in(image)[0]] * whole.batch_size
        share = min(_seconds(whole, batch) for _ in range(4)) / whole.batch_size
        found[name] = {
            "p50": p50,
            "p95": p95,
            "alone": singles[name].batch_size == 1,
            "batch_size": whole.batch_size,
            "share_of_a_batch": share,
        }
    return found


def _seconds(predictor: Predictor, intakes: list[Intake]) -> float:
    start = time.perf_counter()
    list(predictor.predict_batch(intakes))
    return time.perf_counter() - start


def to_lines(found: dict[str, Any]) -> list[str]:
    """Returns the result of `compare` in lines for the terminal."""
    score, maps, latency = found["score_difference"], found["map_difference"], found["latency"]
    tolerances = found["tolerances"]
    lines = [
        f"{found['images']} images: scores differ by {score['largest']:.2g} at most, "
        f"{score['mean']:.2g} on average (relative; tolerance {tolerances['scores']:g})"
    ]
    if maps is not None:
        lines.append(
            f"maps differ by {maps['largest']:.2g} of the color range at most (tolerance "
            f"{tolerances['maps']:g})"
        )
    lines.append(
        f"{found['flipped']} decisions differ, and "
        f"{found['within_rounding_of_the_threshold']} within rounding of the threshold"
    )
    lines += [
        f"{name}: {1e3 * t['p50']:.1f} ms {'an image' if t['alone'] else 'a batch'} "
        f"(p95 {1e3 * t['p95']:.1f}), {1e3 * t['share_of_a_batch']:.1f} ms an image in a batch of "
        f"{t['batch_size']}"
        for name, t in latency.items()
    ]
    lines.append("the same" if found["passed"] else "NOT the same within the tolerances")
    return lines
