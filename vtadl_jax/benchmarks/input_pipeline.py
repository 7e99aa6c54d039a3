"""Images per second of each way to feed training, beside a PyTorch DataLoader; extra `bench`.

python -m vtadl_jax.benchmarks.input_pipeline --config configs/demo.py --json input_pipeline.json

Draws textured RGB images of `--side`² pixels, writes them as PNG and measures, `--workers` at a
time, in turns, the median of `--rounds` turns: decoding and shrinking them to half the side (ours:
threads; DataLoader: processes, PIL), the same from prepared records, and from the host cache. Then
the train step of `--config` with its images resident on the device, beside the same step on a
constant batch.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from PIL import Image

from vtadl_jax import config as config_lib
from vtadl_jax import feed, prepare, sharding, train
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.data import pipeline
from vtadl_jax.data.layouts import folder_layout
from vtadl_jax.data.prepared import prepared
from vtadl_jax.data.records import Record
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.writers import say

_SIDE = flags.DEFINE_integer("side", 1024, "Of the images, pixels.", lower_bound=64)
_IMAGES = flags.DEFINE_integer("images", 64, "How many are drawn.", lower_bound=16)
_WORKERS = flags.DEFINE_integer("workers", 2, "Threads or processes that decode.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each way.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 100, "Train steps that are timed.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.")

BATCH_SIZE = 8
AHEAD = 8  # batches: more than any reader makes before it is asked
Images = Iterator[np.ndarray]  # batches uint8 [B, H, W, 3]


def draw_images(folder: Path, count: int, side: int) -> None:
    """Textures with structure at every scale and a little sensor noise: about 14 bits a pixel."""
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
    """Our training pipeline, endless as it is."""
    iterator = pipeline.train_iterator(load, count, BATCH_SIZE, seed=0, prefetch=2)
    return (batch["image"] for batch in iterator)


def torch_loader(paths: list[Path], side: int, workers: int) -> Images:
    """The same work as people write it for PyTorch, PIL in worker processes; endless too."""
    try:
        import torch
        from torch.utils.data import DataLoader, Dataset, RandomSampler
    except ImportError as e:
        raise UserError("PyTorch is not installed: pip install 'vtadl_jax[bench]'") from e

    class Textures(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, i: int):
            image = Image.open(paths[i]).convert("RGB")
            image = image.resize((side, side), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image))

    images = Textures()
    sampler = RandomSampler(images, replacement=True, num_samples=10**9)
    loader = DataLoader(images, BATCH_SIZE, sampler=sampler, num_workers=workers)
    return (batch.numpy() for batch in loader)


def images_per_second(images: Images, count: int) -> float:
    """Over `count` images, each touched, once what was made beforehand is used up.

    So the readers are as far ahead at the start as at the end, and other turns lend nothing.
    """
    for _ in range(AHEAD):
        next(images)
    start = time.perf_counter()
    for _ in range(count // BATCH_SIZE):
        next(images)[:, ::16, ::16].sum()
    return count // BATCH_SIZE * BATCH_SIZE / (time.perf_counter() - start)


def measure_reading(folder: Path, workers: int, rounds: int) -> dict:
    """Rates of each way, images/s, and their ratios. `folder` is used for scratch files."""
    source, side = folder / "textures", _SIDE.value // 2
    good = source / "train" / "good"
    good.mkdir(parents=True)
    say(f"drawing {_IMAGES.value} images of {_SIDE.value}²")
    draw_images(good, _IMAGES.value, _SIDE.value)
    records, geometry = folder_layout(source).train, Geometry((side, side))
    prepare.prepare("folder", source, folder / "records", image_size=(side, side))
    packed = prepared(folder / "records", "", geometry.canvas).train
    cached = pipeline.decode_all(records, geometry, 3, workers)
    same_pixels(records, packed, cached, geometry)

    def decoding(some: Sequence[Record]) -> Images:
        return ours(pipeline.decoding_loader(some, geometry, 3, workers), len(some))

    count = len(records)
    ways = {  # and how many images a turn: fast ways need more for a time that can be measured
        "torch_decode": (torch_loader([Path(str(r.image)) for r in records], side, workers), count),
        "decode": (decoding(records), count),
        "prepared": (decoding(packed), 8 * count),
        "host_cache": (
            ours(pipeline.array_loader(cached, pipeline.labels_of(records)), count),
            32 * count,
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        say(f"turn {i} of {rounds}")
        for name, (images, number) in ways.items():
            rate = images_per_second(images, number)
            if i > 0:  # the first warms caches, workers and allocators
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
    """Assert that every way gives what PIL gives."""
    for record, stored, image in list(zip(records, packed, cached, strict=True))[:4]:
        with Image.open(Path(str(record.image))) as opened:
            expected = opened.resize(geometry.size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(pipeline.load_example(stored, geometry, 3)["image"], image)


def measure_step(config, steps: int) -> dict:
    """Seconds a step: images resident on the device, and one constant batch; in turns of ten."""
    config.data.cache = "device"
    config_lib.check_values(config)
    config_lib.assume_color(config)
    mesh, detector = sharding.make_mesh(**config.mesh), make_detector(config)
    tx, geometry = make_optimizer(config.optimizer, 1000), Geometry(tuple(config.image_size))
    resident = feed.make_feed(config, load_splits(config).train, geometry, mesh)
    batch = next(resident)
    constant = {
        "image": jax.jit(sharding.take_rows, static_argnums=0)(
            mesh, batch["images"], batch["index"]
        )
    }
    times: dict[str, list[float]] = {"constant": [], "resident": []}
    runs = {}
    for name, shapes in (("constant", constant), ("resident", resident.shapes)):
        state = sharding.put_state(mesh, train.create_state(detector, tx, config.seed))
        step = train.make_train_step(detector, tx, mesh, state)
        runs[name] = (train.compile_train_step(step, state, shapes), state)

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


def main(argv: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="vtadl_jax_input_"))
    try:
        config, _ = config_lib.parse_flags(argv)
        check_json(_JSON.value)
        if config.data.source == "synthetic":
            config.data.root = str(folder / "parts")
        figures = measure_reading(folder, _WORKERS.value, _ROUNDS.value)
        figures |= measure_step(config, _STEPS.value)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(write_json(figures, _JSON.value))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
