"""Makes a cell: trains and evaluates a method on a category, and measures what it costs."""

import dataclasses
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtadl_jax import options as options_lib
from vtadl_jax.comparing import measures
from vtadl_jax.comparing.arguments import Weights, config_of, weights_of
from vtadl_jax.comparing.budget import Budget, choose_budget, within
from vtadl_jax.comparing.exporting import onnx_size
from vtadl_jax.comparing.methods import Method
from vtadl_jax.config import Config
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.results import RESULTS_FILE, Results
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.experiment import assume_color, make_detector
from vtadl_jax.run import run
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json, write_json
from vtadl_jax.selection.sets import ImageSet
from vtadl_jax.training.stored import stamp

SECONDS = "seconds.json"  # of a run, beside its folder
COMPLETE = "complete"
QUALITY = ("image_auroc", "pixel_auroc", "aupro", "aupro_0.05", "image_f1_max")
MEMORY_NOTE = (
    "of the compiled program for this machine: forward is the temporaries of scoring one image, "
    "train_step those of a whole train step"
)
Cell = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What all cells share.

    workdir: of all cells. minutes: of the steps of a cell, over all its folds. num_folds: of a
    supervised method's folds, how many are run; 0: all. gaps: category → `data.group_gap`. tpu: a
    topology for estimates, '' for none. commit: of the program.
    """

    workdir: Path
    minutes: float = 20.0
    num_folds: int = 0
    weights: Weights = Weights()
    gaps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tpu: str = ""
    commit: str = "-"

    def folder(self, method: Method, image_set: ImageSet) -> Path:
        return self.workdir / image_set.name / method.name


def make_cell(method: Method, arguments: list[str], folder: Path, protocol: Protocol) -> Cell:
    """Trains, evaluates and measures; returns the fields of a complete cell."""
    config = config_of(arguments)
    _, pretrained, line = weights_of(method, protocol.weights)
    folds = folds_of(config, protocol.num_folds)
    budget = choose_budget(config, folder, protocol.minutes / len(folds))
    if budget.steps < budget.full_steps:
        say(
            f"{folder.name}: {budget.steps} of {budget.full_steps} steps of "
            f"{budget.step_seconds:.3g} s, for {protocol.minutes:g} minutes"
        )
    runs = [train(within(one, budget), place) for one, place in places(config, folder, folds)]
    detector = make_detector(assume_color(config))
    found = measure(runs[0], budget)
    if protocol.tpu:
        found["latency"] |= estimate(runs[0], method, protocol)
    return {
        "status": COMPLETE,
        "reason": "",
        "command": command_of(arguments, config, budget),
        "commit": protocol.commit,
        "weights": {"pretrained": pretrained, "note": line},
        "losses": method.losses,
        "needs": needs_of(detector, method),
        "stages": stages_of(detector, budget),
        "image_size": list(config.image_size),
        "training": training_of(budget, runs),
        **found,
        "onnx": onnx_size(runs[0]),
        "folds": [_fold(fold, place) for fold, place in zip(folds, runs, strict=True)],
        "folds_of": config.data.folds,
        "metrics": mean_metrics([Results.load(place / RESULTS_FILE) for place in runs]),
        **stamp(),
    }


def command_of(arguments: Sequence[str], config: Config, budget: Budget) -> str:
    """Returns the command line of a cell's first run."""
    more = [f"--config.data.fold={config.data.fold}"] if config.data.folds else []
    if budget.steps:
        warmup = within(config, budget).optimizer.warmup_steps
        more.append(f"--config.num_train_steps={budget.steps}")
        more.append(f"--config.optimizer.warmup_steps={warmup}")
    return shlex.join(("python", "-m", "vtadl_jax.main", *arguments, *more))


def folds_of(config: Config, wanted: int) -> list[int]:
    """Returns the folds to run; [0] for a method that is not cross-validated."""
    if not config.data.folds:
        return [0]
    if wanted > config.data.folds:
        raise UserError(f"--folds {wanted}: there are {config.data.folds}: use that many or less")
    return list(range(wanted or config.data.folds))


def places(config: Config, folder: Path, folds: Sequence[int]) -> list[tuple[Config, Path]]:
    """Returns the config and the workdir of each fold's run."""
    if not config.data.folds:
        return [(config, folder / "run")]
    return [
        (options_lib.replace(config, {"data.fold": fold}), folder / f"fold-{fold}")
        for fold in folds
    ]


def train(config: Config, workdir: Path) -> Path:
    """Runs or continues one run, and adds its time to `seconds.json` beside its folder."""
    if (workdir / RESULTS_FILE).is_file():
        return workdir
    path = workdir.with_name(f"{workdir.name}-{SECONDS}")
    before = read_json(path)["seconds"] if path.is_file() else 0.0
    start = time.perf_counter()
    run(config, workdir)
    write_json(path, {"seconds": before + time.perf_counter() - start})
    return workdir


def seconds_of(workdir: Path) -> float | None:
    """Returns the time of a run's program, from reading to results; killed starts do not count."""
    path = workdir.with_name(f"{workdir.name}-{SECONDS}")
    return read_json(path)["seconds"] if path.is_file() else None


def measure(workdir: Path, budget: Budget) -> dict[str, Any]:
    """Returns parameters, memory and latency of a run."""
    trained = load_run(workdir)
    memory, latency = measures.measure_scoring(trained)
    step = {"train_step": budget.memory.get("temporary"), "train_batch": budget.batch_size or None}
    return {
        "parameters": measures.parameters(trained.variables),
        "memory": {"by_device": memory, **step, "how": MEMORY_NOTE},
        "latency": latency,
    }


def estimate(workdir: Path, method: Method, protocol: Protocol) -> dict[str, Any]:
    """Returns the estimates of the TPU's compiler for a run."""
    config = load_run(workdir).config
    cache = protocol.workdir / "readings"
    return measures.estimate_latency(config, method.name, protocol.tpu, cache)


def needs_of(detector: Detector, method: Method) -> dict[str, Any]:
    """Returns what a method needs from its user."""
    if "mask" in detector.needs:
        images = "good and defective images with masks"
    elif "label" in detector.needs:
        images = "good and defective images with labels"
    else:
        images = "good images"
    return {"images": images, "weights": method.encoder, "optional_weights": method.optional}


def stages_of(detector: Detector, budget: Budget) -> list[str]:
    """Returns the stages of a run, in order."""
    stages = ["fit"] if detector.fit is not None else []
    stages += ["train"] if budget.steps else []
    return [*stages, *(["tails"] if detector.tails is not None else []), "calibrate"]


def training_of(budget: Budget, runs: Sequence[Path]) -> dict[str, Any]:
    """Returns length and times of a training."""
    times = [seconds_of(place) for place in runs]
    return {
        **dataclasses.asdict(budget),
        "epochs": budget.epochs(budget.steps),
        "full_epochs": budget.epochs(budget.full_steps),
        "seconds_per_100_epochs": budget.seconds_of(100),
        "seconds": sum(t for t in times if t is not None) if any(times) else None,
        "runs": len(runs),
        "load": measures.load(),
    }


def _fold(fold: int, workdir: Path) -> dict[str, Any]:
    results = Results.load(workdir / RESULTS_FILE)
    return {
        "fold": fold,
        "run": workdir.name,
        "metrics": quality_of(results),
        "num_train_images": results.num_train_images,
        "num_train_anomalous": sum(results.num_train_anomalous.values()),
        "num_test_images": results.num_test_images,
        "num_test_anomalous": results.num_anomalous,
    }


def quality_of(results: Results) -> dict[str, float | None]:
    """Returns the metrics of the comparison."""
    small = (results.aupro_at or {}).get("0.05")
    known = {**results.metrics, "aupro_0.05": small}
    return {name: known.get(name) for name in QUALITY}


def mean_metrics(results: Sequence[Results]) -> dict[str, dict[str, float | None] | None]:
    """Returns mean and sample standard deviation over folds, which share no scale of scores."""
    found: dict[str, dict[str, float | None] | None] = {}
    for name in QUALITY:
        values = [quality_of(one)[name] for one in results]
        known = [value for value in values if value is not None]
        spread = statistics.stdev(known) if len(known) > 1 else None
        found[name] = {"mean": statistics.fmean(known), "spread": spread} if known else None
    return found
