"""Measures images per second of each input pipeline and of a PyTorch DataLoader; extra `bench`.

python -m vtadl_jax.benchmarks.input_pipeline --config configs/demo.py:vtadl --json pipeline.json

Draws textured RGB images of --side² pixels, writes them as PNG and measures with --workers, in
alternating rounds, the median of --rounds: decoding and resizing to half the side (ours: threads;
DataLoader: processes, PIL), the same from prepared records, and from the host cache. Then measures
the train step of --config with images resident on the device, and the same step on a constant
batch. Exit codes: 0 done, 2 a mistake.
"""

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

from vtadl_jax import experiment, prepare
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.benchmarks.workloads import assemble_trained
from vtadl_jax.config import Config
from vtadl_jax.data import pipeline
from vtadl_jax.data.records import Record
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.sources.layouts import folder_layout
from vtadl_jax.data.sources.prepared import prepared
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.options import replace
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.console import say
from vtadl_jax.training import feed
from vtadl_jax.training.assembly import Assembly
from vtadl_jax.training.compiled_steps import compile_train_step
from vtadl_jax.training.stored import make_geometry

FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_SIDE = _integer("side", 1024, "Side of the images in pixels.", lower_bound=64)
_IMAGES = _integer("images", 64, "Number of images.", lower_bound=16)
_WORKERS = _integer("workers", 2, "Threads or processes that decode.", lower_bound=1)
_ROUNDS = _integer("rounds", 5, "Rounds of each pipeline.", lower_bound=1)
_STEPS = _integer("steps", 100, "Timed train steps.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=FLAGS)

BATCH_SIZE = 8
AHEAD = 8  # batches: more than any reader prefetches
Images = Iterator[np.ndarray]  # batches uint8 [B, H, W, 3]


def draw_images(folder: Path, count: int, side: int) -> None:
    """Writes textures with structure at every scale and a little sensor noise, as PNG: about 14
    bits a pixel."""
    for i in range(count):
        rng = np.random.default_rng(i)
        total = 128 + 2 * rng.normal(size=(side, side, 3))
        for cells in (8, 32, 128, 512):
            coarse = 40 / cells**0.25 * rng.normal(size=(cells, cells, 3))
            for channel in range(3):
                layer = Image.fromarray(coarse[..., channel].astype(np.float32))
                total[..., channel] += np.array(
                    layer.resize((side, side), Image.Resampling.BICUBIC)
                )
        Image.fromarray(np.clip(total, 0, 255).astype(np.uint8)).save(folder / f"{i:03}.png")


def ours(load: pipeline.Loader, count: int) -> Images:
    """Returns an endless iterator over batches of our training pipeline."""
    iterator = pipeline.train_iterator(load, count, BATCH_SIZE, seed=0, prefetch=2)
    return (batch["image"] for batch in iterator)


def torch_loader(paths: list[Path], side: int, workers: int) -> Images:
    """Returns an endless iterator over batches of a usual PyTorch DataLoader, PIL in worker
    processes. Raises UserError if torch is missing."""
    try:
        import torch
        from torch.utils.data import DataLoader, Dataset, RandomSampler
    except ImportError as e:
        raise UserError("PyTorch is not installed: pip install 'vtadl_jax[bench]'") from e

    class Textures(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, i: int) -> torch.Tensor:
            image = Image.open(paths[i]).convert("RGB")
            image = image.resize((side, side), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image))

    images = Textures()
    sampler = RandomSampler(images, replacement=True, num_samples=10**9)
    loader = DataLoader(images, BATCH_SIZE, sampler=sampler, num_workers=workers)
    return (batch.numpy() for batch in loader)


def images_per_second(images: Images, count: int) -> float:
    """Returns the rate over `count` images, each read, after the prefetched batches are used up.

    So the readers are as far ahead at the start as at the end of a round.
    """
    for _ in range(AHEAD):
        next(images)
    start = time.perf_counter()
    for _ in range(count // BATCH_SIZE):
        next(images)[:, ::16, ::16].sum()
    return count // BATCH_SIZE * BATCH_SIZE / (time.perf_counter() - start)


def measure_reading(
    folder: Path, images: int, drawn_side: int, workers: int, rounds: int
) -> dict[str, Any]:
    """Returns the rate of each pipeline, images/s, and their ratios.

    folder: for temporary files. images, drawn_side: number of images, and their side in pixels,
    which reading halves.
    """
    source, side = folder / "textures", drawn_side // 2
    good = source / "train" / "good"
    good.mkdir(parents=True)
    say(f"drawing {images} images of {drawn_side}²")
    draw_images(good, images, drawn_side)
    records, geometry = folder_layout(source).train, Geometry((side, side))
    prepare.prepare("folder", source, folder / "records", image_size=(side, side))
    packed = prepared(folder / "records", "", geometry.canvas).train
    cached = pipeline.decode_all(records, geometry, 3, workers)
    same_pixels(records, packed, cached["image"], geometry)

    def decoding(some: Sequence[Record]) -> Images:
        return ours(pipeline.decoding_loader(some, geometry, 3, workers), len(some))

    count = len(records)
    ways = {  # and images per round: fast pipelines need more for a measurable time
        "torch_decode": (torch_loader([Path(str(r.image)) for r in records], side, workers), count),
        "decode": (decoding(records), count),
        "prepared": (decoding(packed), 8 * count),
        "host_cache": (ours(pipeline.array_loader(cached), count), 32 * count),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        say(f"turn {i} of {rounds}")
        for name, (batches, number) in ways.items():
            rate = images_per_second(batches, number)
            if i > 0:  # the first round warms up caches, workers and allocators
                rates[name].append(rate)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "images_per_second": medians,
        "decode_over_torch": medians["decode"] / medians["torch_decode"],
        "prepared_over_decode": medians["prepared"] / medians["decode"],
        "host_cache_over_decode": medians["host_cache"] / medians["decode"],
        "workers": workers,
        "megabytes_per_png": sum(p.stat().st_size for p in good.iterdir()) / len(records) / 1e6,
    }


def same_pixels(
    records: tuple[Record, ...], packed: tuple[Record, ...], cached: np.ndarray, geometry: Geometry
) -> None:
    """Asserts that every pipeline gives PIL's pixels. cached: uint8 [N, H, W, 3]."""
    for record, stored, image in list(zip(records, packed, cached, strict=True))[:4]:
        with Image.open(Path(str(record.image))) as opened:
            expected = opened.resize(geometry.size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(pipeline.load_example(stored, geometry, 3)["image"], image)


def measure_step(assembly: Assembly, steps: int) -> dict[str, Any]:
    """Returns seconds per step with images resident on the device, and with one constant batch; in
    alternating rounds of ten."""
    config, needs = assembly.config, assembly.detector.needs
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    records = load_splits(config, needs).train
    resident = feed.make_feed(config, records, make_geometry(config), mesh, needs)
    batch: dict[str, Any] = next(resident)
    take = jax.jit(functools.partial(sharding.take_rows, mesh))
    constant = {name: take(rows, batch["index"]) for name, rows in batch["resident"].items()}
    times: dict[str, list[float]] = {"constant": [], "resident": []}
    runs = {}
    for name, shapes in (("constant", constant), ("resident", resident.shapes)):
        state = sharding.put_state(mesh, assembly.make_state(), assembly.shard_optimizer)
        step = assembly.make_step(mesh, state)
        runs[name] = (compile_train_step(step, state, shapes), state)

    def ten_steps(name: str) -> float:
        step, state = runs[name]
        start = time.perf_counter()
        for _ in range(10):
            state, metrics = step(state, constant if name == "constant" else next(resident))
        jax.block_until_ready(metrics)
        runs[name] = (step, state)
        return (time.perf_counter() - start) / 10

    for i in range(1 + max(steps // 10, 1)):
        for name in times if i % 2 else reversed(times):
            seconds = ten_steps(name)
            if i > 0:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    pairs = zip(times["resident"], times["constant"], strict=True)
    return {
        "step_seconds": medians,
        "resident_over_constant": statistics.median(a / b for a, b in pairs),
    }


def run(text: str, overrides: Sequence[str]) -> None:
    """Measures reading and the step that the command line names; prints and writes the figures."""
    if not text:
        raise UserError("no config: give --config FILE, for example --config configs/demo.py:vtadl")
    check_json(_JSON.value)
    config, _ = experiment.load(text, overrides)
    with tempfile.TemporaryDirectory(prefix="vtadl_jax_input_", ignore_cleanup_errors=True) as path:
        folder = Path(path)
        assembly = assemble_trained(resident_config(config, folder))
        figures = measure_reading(
            folder, _IMAGES.value, _SIDE.value, _WORKERS.value, _ROUNDS.value
        ) | measure_step(assembly, _STEPS.value)
    print(write_json(figures, _JSON.value))


def resident_config(config: Config, folder: Path) -> Config:
    """Returns the config with its images on the device; renders new parts into `folder`."""
    fields = {"data.cache": "device"}
    if config.data.source == "synthetic":
        fields["data.root"] = str(folder / "parts")
    return experiment.assume_color(replace(config, fields))


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
