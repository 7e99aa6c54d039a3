"""Measures our memory bank and Gaussians beside anomalib's: the same images, weights and cores.

Each side runs in a process of its own, and they take turns: one works, the other waits. This file
says what is compared, asks both, and does the arithmetic; `peer_anomalib.py` shows it.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.benchmarks.measures import progress
from vtadl_jax.benchmarks.measures.processes import Worker
from vtadl_jax.benchmarks.timing import SAME, relative_difference

BORDER = 16  # pixels at a map's edge, where the two smooth differently
# What anomalib adds to each variance: 0.01, and 1e-5 before it inverts.
PADIM_RIDGE = 0.01 + 1e-5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a comparison. patches: of one image; ratio: of the patches that enter the bank."""

    train: int
    patches: int
    ratio: float

    @property
    def bank(self) -> int:
        return max(int(self.train * self.patches * self.ratio), 1)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of anomalib and how our detector does the same.

    network: our name of the encoder, also of its file. stride: pixels between patches. multiple: of
    the sides of an image. detector, options: ours, theirs: anomalib's options; both of `Sizes`.
    scale: what our distances are multiplied by before they are compared, of the number of images.
    own_bank: whether the bank is chosen at random, so that theirs is given to ours to compare.
    same: what must agree, of 'distances' and 'scores'. notes: what differs nevertheless.
    """

    name: str
    network: str
    stride: int
    multiple: int
    detector: str
    options: Callable[[Sizes], dict[str, Any]]
    theirs: Callable[[Sizes], dict[str, Any]]
    scale: Callable[[int], float] = lambda images: 1.0
    own_bank: bool = False
    same: tuple[str, ...] = ("distances",)
    notes: str = ""


def _bank(sizes: Sizes) -> dict[str, Any]:
    """Returns the options of a bank that is chosen from all patches, as they are."""
    every = sizes.train * sizes.patches
    return {
        "memory.standardise": False,
        "memory.patches": 0,
        "memory.candidates": every,
        "memory.size": sizes.bank,
        "memory.projection": projection_of(every),
    }


def projection_of(patches: int) -> int:
    """Returns the dimensions in which anomalib chooses a coreset (Johnson-Lindenstrauss, 0.9)."""
    return int(4 * np.log(patches) / (0.9**2 / 2 - 0.9**3 / 3))


METHODS = (
    Method(
        "anomaly_dino",
        "dinov2_vits14",
        14,
        14,
        "patch_memory",
        lambda sizes: {
            **_bank(dataclasses.replace(sizes, ratio=1.0)),
            "features": "dinov2_vits14",
            "encoder.blocks": (11,),
            "memory.metric": "one_minus_cosine",
            "memory.score": "patches",
        },
        lambda sizes: {"backbone": "vit_small_patch14_dinov2"},
        same=("distances", "scores"),
        notes="all patches in the bank; no mask of the background, as by default",
    ),
    Method(
        "patchcore",
        "wide_resnet50_2",
        8,
        16,
        "patch_memory",
        lambda sizes: {**_bank(sizes), "features": "wide_resnet50_2"},
        lambda sizes: {
            "backbone": "wide_resnet50_2",
            "layers": ["layer2", "layer3"],
            "ratio": sizes.ratio,
        },
        own_bank=True,
        notes="scores of images: the largest of the map here, of a patch with a weight there",
    ),
    Method(
        "padim",
        "resnet18",
        4,
        16,
        "position_gaussian",
        lambda sizes: {
            "features": "resnet18",
            "resnet.stages": (1, 2, 3),
            "resnet.pool": False,
            "resnet.resize": "nearest",
            "gaussian.reduction": "choice",
            "gaussian.shrinkage": 0.0,
            "gaussian.distance": "mahalanobis",
            # Their covariances are divided by one less than the images; see `scale`.
            "gaussian.ridge": PADIM_RIDGE * (sizes.train - 1) / sizes.train,
        },
        lambda sizes: {
            "backbone": "resnet18",
            "layers": ["layer1", "layer2", "layer3"],
            "n_features": 100,
        },
        scale=lambda images: ((images - 1) / images) ** 0.5,
        notes="100 features, the same ones",
    ),
)


def measure(
    method: Method,
    workers: Mapping[str, Worker],
    files: Mapping[str, Path],
    sizes: Sizes,
    batch: int,
    repeats: int,
) -> dict[str, Any]:
    """Fits and scores on both sides in turns; returns their times and how well they agree.

    workers: 'ours' and 'anomalib'. files: 'train' and 'test', uint8 arrays; 'weights', the
    encoder's, made here if missing; 'ours', 'anomalib' and 'shared' for values.
    """
    ours, theirs = workers["ours"], workers["anomalib"]
    images = {name: str(files[name]) for name in ("train", "test")} | {"batch": batch}
    hello = {name: worker.ask("hello") for name, worker in workers.items()}
    began = ours.ask("begin", detector=method.detector, options=method.options(sizes), **images)
    facts = theirs.ask("begin", method=method.name, options=method.theirs(sizes), **images)
    drawn = not files["weights"].exists()
    if drawn:
        theirs.ask("make_weights", out=str(files["weights"]))
    for worker in workers.values():
        worker.ask("load_weights", file=str(files["weights"]))
    if began["chosen"]:
        theirs.ask("choose", features=began["chosen"])
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(repeats):
        for name, worker in workers.items():
            progress(f"{method.name}, round {number + 1} of {repeats}: {name}")
            found = {"fit": worker.ask("fit")}
            for count in (1, batch):
                if number == 0:
                    worker.ask("score", batch=count)  # caches, and our compiler
                found[f"score_{count}"] = worker.ask("score", batch=count)
            rounds[name].append(found)
    values = {name: worker.ask("values", out=str(files[name])) for name, worker in workers.items()}
    arrays = {name: _read(files[name]) for name in workers}
    agreed = agreement(arrays["ours"], arrays["anomalib"], method.scale(sizes.train))
    if method.own_bank:
        ours.ask("values", out=str(files["shared"]), bank=str(files["anomalib"]))
        shared = difference(_read(files["shared"])["distances"], arrays["anomalib"]["distances"])
        agreed |= {"own_banks": agreed["distances"], "distances": shared}
    return {
        "method": method.name,
        "network": method.network,
        "weights": "random" if drawn else "of a file",
        "notes": method.notes,
        "masking": facts["masking"],
        "sizes": dataclasses.asdict(sizes),
        "image_size": np.load(files["train"], mmap_mode="r").shape[1:3],
        "versions": {name: hello[name]["versions"] for name in workers},
        "sides": {
            name: summary(rounds[name], batch)
            | {key: hello[name][key] for key in ("import_seconds", "import_mib")}
            | {"peak_mib": values[name]["peak_mib"]}
            for name in workers
        },
        "agreement": agreed,
        "same": all(agreed[name]["difference"] <= SAME for name in method.same),
        "must_be_same": list(method.same),
        "rounds": rounds,
    }


def _read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def summary(rounds: Sequence[Mapping[str, Any]], batch: int) -> dict[str, float]:
    """Returns the medians of the rounds' seconds: of a fit, its two parts, and an image's score."""

    def median(kind: str, *parts: str) -> float:
        return statistics.median(
            sum(found["fit"][part][kind] for part in parts) for found in rounds
        )

    def image(kind: str, count: int) -> float:
        every = [one[kind] for found in rounds for one in found[f"score_{count}"]["seconds"]]
        return statistics.median(every) / count

    return {
        "fit_seconds": median("wall", "features", "solve"),
        "features_seconds": median("wall", "features"),
        "solve_seconds": median("wall", "solve"),
        "fit_cpu_seconds": median("cpu", "features", "solve"),
        "image_seconds": image("wall", 1),
        "image_cpu_seconds": image("cpu", 1),
        "image_in_batch_seconds": image("wall", batch),
        "compiling_seconds": rounds[0]["fit"].get("compiling", 0.0),
    }


def agreement(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], scale: float = 1.0
) -> dict[str, dict[str, float]]:
    """Compares scores [N], distances of patches [N, h, w] and maps [N, H, W].

    scale: factor of ours. 'maps_inside' leaves out the maps' edges.
    """
    found = {
        name: difference(ours[name] * scale, theirs[name])
        for name in ("scores", "distances", "maps")
    }
    inside = np.s_[:, BORDER:-BORDER, BORDER:-BORDER]
    found["maps_inside"] = difference(ours["maps"][inside] * scale, theirs["maps"][inside])
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Returns the largest relative difference, as `relative_difference`, and the correlation of all
    values, which is 0 where one side is constant."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (ours, theirs))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return {
        "difference": relative_difference(ours, theirs),
        "correlation": float(a @ b) / length if length > 0 else 0.0,
    }
