"""From records to the batches of global arrays that a step takes, and where images live meanwhile.

`data.cache` says where: 'none' decodes each image whenever it is drawn; 'host' decodes all once and
keeps them in this process's memory; 'device' puts them on the devices, each a share, and steps look
their batches up. Batches are the same, in the same order, in each case.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import sharding
from vtadl_jax.data import pipeline
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.writers import say, track

CACHES = ("none", "host", "device")
SPARE = 0.1  # of the free memory that a cache leaves to others


@dataclasses.dataclass(frozen=True)
class Feed:
    """An endless iterator over batches for the step.

    iterator: numpy batches; its state is what a checkpoint holds. put: a numpy batch → global
    arrays. shapes: shape, type and sharding of a batch, to compile for.
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
        """Make the first batch meanwhile, in a thread of its own. The iterator must be where it is
        to begin; its state is ahead until that batch is taken."""
        pool = ThreadPoolExecutor(1)
        self._first.append(pool.submit(lambda: self.put(next(self.iterator))))
        pool.shutdown(wait=False)


def make_feed(
    config: ConfigDict, records: Sequence[Record], geometry: Geometry, mesh: Mesh
) -> Feed:
    """The feed of a config. Decodes everything first where it caches.

    Raises UserError for a cache that does not fit into memory, with the numbers, for a batch size
    that does not fit the data, and for files that cannot be read.
    """
    data, size = config.data, config.batch_size
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def iterate(load: pipeline.Loader) -> grain.DatasetIterator:
        return pipeline.train_iterator(
            load, len(records), size, config.seed, data.prefetch, **share
        )

    iterator = iterate(pipeline.index_loader)  # refuses a wrong batch size before the long work
    image_shape = (*geometry.size, data.channels)
    check_cache(data.cache, len(records), image_shape, mesh)
    if data.cache == "none":
        load = pipeline.decoding_loader(records, geometry, data.channels, data.num_threads)
        return _streaming(iterate(load), mesh, (size, *image_shape))
    images = pipeline.decode_all(records, geometry, data.channels, data.num_threads, track)
    if data.cache == "host":
        load = pipeline.array_loader(images, pipeline.labels_of(records))
        return _streaming(iterate(load), mesh, (size, *image_shape))
    return _resident(iterator, mesh, images, size)


def _streaming(iterator: grain.DatasetIterator, mesh: Mesh, shape: tuple[int, ...]) -> Feed:
    split = sharding.batch_sharding(mesh)
    shapes = {
        "image": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=split),
    }
    return Feed(iterator, lambda batch: sharding.put_batch(mesh, batch), shapes)


def _resident(
    iterator: grain.DatasetIterator, mesh: Mesh, images: np.ndarray, batch_size: int
) -> Feed:
    resident = sharding.put_rows(mesh, images)
    split = sharding.batch_sharding(mesh)
    shapes = {
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=split),
        "images": jax.ShapeDtypeStruct(resident.shape, resident.dtype, sharding=split),
    }
    return Feed(iterator, lambda b: {**sharding.put_batch(mesh, b), "images": resident}, shapes)


def check_cache(cache: str, count: int, image_shape: tuple[int, ...], mesh: Mesh) -> None:
    """Say what each cache would take; raise UserError if the chosen one does not fit."""
    if cache not in CACHES:
        raise UserError(f"data.cache {cache!r}: use {', '.join(CACHES)}")
    image = int(np.prod(image_shape))
    host, device = count * image, -(-count // mesh.size) * image
    say(
        f"data.cache {cache}; {count} decoded images take {_mib(host)} on the host ('host') or "
        f"{_mib(device)} on each of {mesh.size} devices ('device')"
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
    """What this process may still take: the machine's free memory, or its control group's."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(int(limit) - used, 0))


def free_device_bytes(mesh: Mesh) -> int:
    """The least free memory of a device of this process; CPU devices share the host's."""
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
