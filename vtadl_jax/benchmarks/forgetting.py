"""Measures how much a method forgets of old images when it is updated with new ones.

    python -m vtadl_jax.benchmarks.forgetting --root DIR [--products bottle,pill,screw]
        [--way naive,replay,ewc] [--strength 1e6,1e7] [--json OUT]

Two tasks. A sequence of products: one run learns the first, then the second, then the third; after
each, the image AUROC of every product's own test images. One product that drifts: good images, then
the same product darker; after the second step the test images as they were, and darker ones.

Ways: naive, on the new images alone from the old weights; replay, with as many old images in
every batch as new ones; ewc, new images alone with elastic weight consolidation, the Fisher
information summed over the steps before. A fitted method that keeps all images is fitted to all of
them, and, for what it forgets by itself, to the newest alone. Everything is drawn by a seed.

Images are those of MVTec AD or another set in its layout, at a small size: the differences between
ways are what is measured, not the best figure that a method can reach.
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtadl_jax import metrics
from vtadl_jax.config import Config
from vtadl_jax.data.decode import load_image
from vtadl_jax.data.records import Record, natural_key
from vtadl_jax.data.sources.layouts import mvtec_layout
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.consolidation import (
    consolidated,
    fisher_diagonal,
    with_start,
    without_start,
)
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.experiment import base, make_detector, parse
from vtadl_jax.options import replace
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.files import write_json
from vtadl_jax.training.assembly import Assembly, assemble
from vtadl_jax.training.fitting import solve
from vtadl_jax.training.state import TrainState, with_variables
from vtadl_jax.training.step import make_train_step

WAYS = ("naive", "replay", "ewc")
TRAINED, FITTED = "autoencoder", "position_gaussian"
DARKER = 0.6  # factor of the images of the drifted product


@dataclasses.dataclass(frozen=True)
class Task:
    """Images of one product or one light. train, test: uint8 [N, H, W, C]; labels: [M]."""

    name: str
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sizes:
    """side: of the images in pixels. images: good training images of a product. steps: of each
    product. batch: images. rate: of learning."""

    side: int
    images: int
    steps: int
    batch: int
    rate: float
    seed: int


def read_task(root: Path, product: str, sizes: Sizes) -> Task:
    """Reads a product at a small size. Raises UserError if it is not there."""
    splits = mvtec_layout(str(root), product)
    geometry = Geometry((sizes.side, sizes.side))

    def pixels(records: Sequence[Record]) -> np.ndarray:
        return np.stack([geometry.image(load_image(r.image, 3), 3) for r in records])

    train = sorted(splits.train, key=lambda r: natural_key(r.name))[: sizes.images]
    return Task(
        product, pixels(train), pixels(splits.test), np.array([r.label for r in splits.test])
    )


def darkened(task: Task) -> Task:
    """Returns the images of a task in less light."""

    def dark(images: np.ndarray) -> np.ndarray:
        return np.rint(images * DARKER).astype(np.uint8)

    return Task(f"{task.name}, darker", dark(task.train), dark(task.test), task.labels)


def config_of(method: str, sizes: Sizes) -> Config:
    """Returns a small config of a method."""
    fields: dict[str, Any] = {
        "image_size": (sizes.side, sizes.side),
        "batch_size": sizes.batch,
        "optimizer.learning_rate": sizes.rate,
        "seed": sizes.seed,
        "mesh.data": 1,
    }
    if method == TRAINED:
        small = {"features": (16, 16, 8, 8), "vector_dim": 256}
        fields |= {f"model.decoder.{name}": value for name, value in small.items()}
        fields |= {"model.latent_dim": 64, "num_train_steps": sizes.steps}
    return replace(parse(base(method).to_dict()), fields)


@functools.cache
def program(sizes: Sizes, ewc: bool) -> tuple[Detector, Assembly, Any, Any]:
    """Returns the trained method, its assembly, its compiled step and its compiled score."""
    config = config_of(TRAINED, sizes)
    plain = make_detector(config)
    detector = consolidated(plain, 1.0) if ewc else plain
    assembly = assemble(config, sizes.steps, detector)
    step = make_train_step(detector, assembly.tx, sharding.make_mesh(1), assembly.shapes)
    return plain, assembly, step, jax.jit(detector.score)


class Learner:
    """The trained method, which learns one task after the other in one way.

    strength: of the consolidation, which scales the information.
    """

    def __init__(self, way: str, sizes: Sizes, strength: float = 0.0):
        self.way, self.sizes, self.strength = way, sizes, strength
        self.plain, self.assembly, self.step, self.score = program(sizes, way == "ewc")
        self.state: TrainState = self.assembly.make_state()
        self.old: list[np.ndarray] = []
        self.fisher: Any = None
        self.rng = np.random.default_rng(sizes.seed)

    def variables(self) -> Variables:
        return jax.device_get(self.state.variables)

    def learn(self, task: Task) -> None:
        """Trains on a task's good images, from the weights so far and with a new optimizer."""
        self.state = with_variables(self.state, self.variables(), self.assembly.tx)
        for _ in range(self.sizes.steps):
            images = self.draw(task.train, self.sizes.batch)
            if self.way == "replay" and self.old:
                half = self.sizes.batch // 2
                images = np.concatenate([images[half:], self.draw(np.concatenate(self.old), half)])
            self.state, _ = self.step(self.state, {"image": images})
        self.old.append(task.train)
        if self.way == "ewc":
            self.remember(task)

    def draw(self, images: np.ndarray, count: int) -> np.ndarray:
        return images[self.rng.integers(0, len(images), count)]

    def remember(self, task: Task) -> None:
        """Adds a task's information to that of the tasks before, at the weights of now."""
        found, size = self.variables(), self.sizes.batch
        key = jax.random.key(self.sizes.seed)
        whole = len(task.train) // size * size  # one shape
        batches = ({"image": task.train[i : i + size]} for i in range(0, whole, size))
        new = fisher_diagonal(self.plain, without_start(found), batches, key)
        new = jax.tree.map(lambda x: self.strength * x, new)
        self.fisher = new if self.fisher is None else jax.tree.map(np.add, self.fisher, new)
        kept = with_start(found, found["params"], self.fisher)
        self.state = with_variables(self.state, kept, self.assembly.tx)

    def measure(self, task: Task) -> tuple[float, float]:
        return measured(self.score, self.variables(), self.plain, task, self.old[-1])


def measured(
    score: Any, variables: Variables, detector: Detector, task: Task, good: np.ndarray
) -> tuple[float, float]:
    """Returns the image AUROC of a task, and the mean of the first score term of its good test
    images. good: images that standardize the score terms."""

    def terms(images: np.ndarray) -> np.ndarray:
        parts = [images[i : i + 16] for i in range(0, len(images), 16)]
        short = 16 - len(parts[-1])
        parts[-1] = np.concatenate([parts[-1], images[:1].repeat(short, 0)])
        found = np.concatenate([np.asarray(score(variables, part).terms) for part in parts])
        return found[: len(images)]

    normal, found = terms(good[:32]), terms(task.test)
    spread = np.maximum(normal.std(0), 1e-9)
    scores = ((found - normal.mean(0)) / spread) @ np.array(detector.term_weights)
    return metrics.auroc(scores, task.labels), float(found[task.labels == 0, 0].mean())


Pairs = list[list[tuple[float, float]]]  # [tasks learned so far][task]: AUROC, first term


def trained(way: str, tasks: Sequence[Task], sizes: Sizes, strength: float = 0.0) -> Pairs:
    """Returns what every task measures after learning each."""
    learner = Learner(way, sizes, strength)
    table = []
    for task in tasks:
        learner.learn(task)
        table.append([learner.measure(each) for each in tasks])
    return table


def fitted(tasks: Sequence[Task], sizes: Sizes, keeps: bool) -> Pairs:
    """Returns the same for a fitted method, of all images so far or of the newest task alone."""
    config = config_of(FITTED, sizes)
    detector = make_detector(config)
    initial = detector.init(jax.random.key(sizes.seed))
    fit = detector.fit
    assert fit is not None, "it is fitted"
    gather, score = jax.jit(fit.gather), jax.jit(detector.score)
    table = []
    for number, task in enumerate(tasks):
        images = np.concatenate([t.train for t in tasks[: number + 1]]) if keeps else task.train
        rows = [
            jax.device_get(gather(initial, images[i : i + 8], jax.random.key(i)))
            for i in range(0, len(images) // 8 * 8, 8)
        ]
        variables = solve(fit, initial, rows, config)
        table.append([measured(score, variables, detector, each, task.train) for each in tasks])
    return table


def row_of(name: str, way: str, tasks: Sequence[Task], table: Pairs) -> dict[str, Any]:
    """Returns what is reported of a sequence: AUROC when learned, at the end, and what was lost.

    error_factor: how much the first score term of good test images of tasks before grew, the
    geometric mean.
    """
    old = range(len(tasks) - 1)
    lost = [table[i][i][0] - table[-1][i][0] for i in old]
    grew = [math.log(max(table[-1][i][1], 1e-12) / max(table[i][i][1], 1e-12)) for i in old]
    return {
        "tasks": [task.name for task in tasks],
        "method": name,
        "way": way,
        "table": table,
        "learned": [table[i][i][0] for i in range(len(tasks))],
        "last": [auroc for auroc, _ in table[-1]],
        "forgotten": float(np.mean(lost)),
        "error_factor": math.exp(float(np.mean(grew))) if name == TRAINED else None,
    }


def line_of(row: dict[str, Any]) -> str:
    """Returns a row of the Markdown table."""
    cells = [f"{a:.3f} → {b:.3f}" for a, b in zip(row["learned"], row["last"], strict=True)]
    factor = "-" if row["error_factor"] is None else f"× {row['error_factor']:.2f}"
    tail = [f"{row['forgotten']:.3f}", f"{np.mean(row['last']):.3f}", factor]
    return f"| {' | '.join([row['method'], row['way'], *cells, *tail])} |"


def ways_of(text: str, strengths: str) -> list[tuple[str, str, float]]:
    """Returns (title, way, strength) of each way; ewc once for each strength."""
    found = []
    for way in text.split(","):
        if way not in WAYS:
            raise SystemExit(f"--way {way}: use {', '.join(WAYS)}")
        every = [float(s) for s in strengths.split(",")] if way == "ewc" else [0.0]
        found += [(f"{way} {s:g}" if way == "ewc" else way, way, s) for s in every]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vtadl_jax.benchmarks.forgetting")
    parser.add_argument("--root", required=True, type=Path, help="folder of the products")
    parser.add_argument("--products", default="bottle,pill,screw")
    parser.add_argument("--way", default=",".join(WAYS), help="of naive, replay, ewc")
    parser.add_argument("--strength", default="1e6,1e7", help="of ewc")
    parser.add_argument("--side", type=int, default=64, help="of the images, px")
    parser.add_argument("--images", type=int, default=60, help="good training images of each")
    parser.add_argument("--steps", type=int, default=400, help="training steps for each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    sizes = Sizes(**{f.name: getattr(given, f.name) for f in dataclasses.fields(Sizes)})
    ways = ways_of(given.way, given.strength)
    products = [read_task(given.root, name, sizes) for name in given.products.split(",")]
    rows = []
    for tasks in (products, [products[0], darkened(products[0])]):
        header = ["method", "way", *(f"{task.name}: learned → last" for task in tasks)]
        header += ["forgotten", "mean at the end", "error of old good images"]
        print(f"| {' | '.join(header)} |\n|---|---|{'--:|' * (len(tasks) + 3)}")
        for title, way, strength in ways:
            rows.append(row_of(TRAINED, title, tasks, trained(way, tasks, sizes, strength)))
            print(line_of(rows[-1]), flush=True)
        for keeps, title in ((True, "all images"), (False, "newest alone")):
            rows.append(row_of(FITTED, title, tasks, fitted(tasks, sizes, keeps)))
            print(line_of(rows[-1]), flush=True)
        print()
    if given.json:
        write_json(given.json, {"sizes": dataclasses.asdict(sizes), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
