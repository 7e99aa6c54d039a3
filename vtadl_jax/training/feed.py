"""Makes the batches of global arrays that a step takes from records, with or without a cache.

`data.cache` 'none' decodes each image whenever it is drawn; 'host' decodes all images once and
keeps them in this process's memory; 'device' shards them over the devices, and steps gather their
batches by index. The batches and their order are the same in each case.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh

from vtadl_jax.config import Config
from vtadl_jax.data import pipeline
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.console import say, track
from vtadl_jax.runtime.text_table import plural

SPARE = 0.1  # share of the free memory that a cache does not use


@dataclasses.dataclass(frozen=True)
class TrainFeed:
    """Endless iterator over batches for the step.

    iterator: numpy batches; checkpoints save its state. put: a numpy batch → global arrays.
    shapes: shape, dtype and sharding of a batch, to compile for.
    """

    iterator: grain.DatasetIterator
    put: Callable[[pipeline.Batch], dict[str, jax.Array]]
    shapes: dict[str, Any]
    _first: list[Future] = dataclasses.field(default_factory=list)

    def __next__(self) -> dict[str, jax.Array]:
        if self._first:
            return self._first.pop().result()
        return self.put(next(self.iterator))

    def start(self) -> None:
        """Makes the first batch in a background thread; does nothing if called before.

        Restore the iterator's state before this call; the state is one batch ahead until `next`.
        """
        if self._first:
            return
        pool = ThreadPoolExecutor(1)
        self._first.append(pool.submit(lambda: self.put(next(self.iterator))))
        pool.shutdown(wait=False)


def make_feed(
    config: Config,
    records: Sequence[Record],
    geometry: Geometry,
    mesh: Mesh,
    needs: Collection[str] = (),
    takes_steps: bool = True,
) -> TrainFeed:
    """Returns the feed of a config. With a cache, decodes all images first.

    takes_steps: whether the run does; if not, the feed is never read, and any number of images do.

    needs: subset of 'label' and 'mask' that the detector's loss reads beside the images.
    Raises UserError for a cache that does not fit into memory (with the sizes), for a batch size
    that does not fit the data, and for files that cannot be read.
    """
    data, size = config.data, config.batch_size
    if not takes_steps:
        records = list(records) * -(-size // max(len(records), 1))
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    anomalous = [bool(r.label) for r in records] if data.balanced_batches else None

    def iterate(load: pipeline.Loader) -> grain.DatasetIterator:
        return pipeline.train_iterator(
            load, len(records), size, config.seed, data.prefetch, **share, anomalous=anomalous
        )

    iterator = iterate(pipeline.index_loader)  # checks the batch size before decoding
    shapes = pipeline.example_shapes(geometry, data.channels, needs)
    if takes_steps:
        check_cache(data.cache, len(records), shapes["image"][0], mesh)
    if data.cache == "none" or not takes_steps:
        load = pipeline.decoding_loader(records, geometry, data.channels, data.num_threads, needs)
        return _streaming(iterate(load), mesh, size, shapes)
    examples = pipeline.decode_all(records, geometry, data.channels, data.num_threads, track, needs)
    if data.cache == "host":
        return _streaming(iterate(pipeline.array_loader(examples)), mesh, size, shapes)
    return _resident(iterator, mesh, examples, size)


def batch_shapes(mesh: Mesh, size: int, shapes: Mapping[str, tuple]) -> dict[str, Any]:
    """Returns the shapes and shardings of a batch of `size` examples.

    shapes: name → (shape, dtype) of one example.
    """
    split = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=split)
        for name, (shape, dtype) in shapes.items()
    }


def _streaming(
    iterator: grain.DatasetIterator, mesh: Mesh, size: int, shapes: Mapping[str, tuple]
) -> TrainFeed:
    return TrainFeed(
        iterator, lambda batch: sharding.put_batch(mesh, batch), batch_shapes(mesh, size, shapes)
    )


def _resident(
    iterator: grain.DatasetIterator, mesh: Mesh, examples: pipeline.Batch, batch_size: int
) -> TrainFeed:
    resident = {name: sharding.put_rows(mesh, rows) for name, rows in examples.items()}
    split = sharding.batch_sharding(mesh)
    shapes = {
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=split),
        "resident": {
            name: jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=split)
            for name, rows in resident.items()
        },
    }
    return TrainFeed(
        iterator, lambda b: {**sharding.put_batch(mesh, b), "resident": resident}, shapes
    )


KEPT = {
    "none": "read again in every epoch",
    "host": "kept decoded in host memory",
    "device": "kept decoded on the devices",
}


def check_cache(cache: str, count: int, image_shape: tuple[int, ...], mesh: Mesh) -> None:
    """Prints the memory that each cache needs. Raises UserError if the chosen one does not fit."""
    image = int(np.prod(image_shape))
    host, device = count * image, -(-count // mesh.size) * image
    say(
        f"{plural(count, 'training image')}: {KEPT[cache]} (data.cache {cache}); decoded they take "
        f"{_mib(host)} on the host or {_mib(device)} on {'each' if mesh.size > 1 else 'the'} device"
    )
    # Images are decoded on the host before they go to the devices.
    needs = {"none": [], "host": [(host, "of host memory", free_host_bytes())]}
    needs["device"] = [*needs["host"], (device, "on each device", free_device_bytes(mesh))]
    for needed, where, free in needs[cache]:
        if needed > (1 - SPARE) * free:
            other = "none" if needed == host else "host"
            raise UserError(
                f"data.cache {cache!r} needs {_mib(needed)} {where} for {count} images of "
                f"{'x'.join(map(str, image_shape))}, {_mib(free)} are free: use "
                f"--config.data.cache={other}, or a smaller image_size"
            )


def free_host_bytes() -> int:
    """Returns the free memory for this process, of the machine or of its control group (cgroup)."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(int(limit) - used, 0))


def free_device_bytes(mesh: Mesh) -> int:
    """Returns the smallest free memory of this process's devices; CPU devices share the host's."""
    free = []
    for device in mesh.local_devices:
        stats = device.memory_stats()
        if stats and "bytes_limit" in stats:
            free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        else:
            free.append(free_host_bytes() // len(mesh.local_devices))
    return min(free)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
