"""Devices and how arrays lie on them; the only file that names mesh axes."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vtadl_jax.errors import UserError

DATA = "data"


def make_mesh(data: int = -1) -> Mesh:
    """A mesh of `data` devices that share the batch; -1 takes all there are.

    Axes are Auto: flax linen modules do not carry shardings in their types.
    """
    devices = jax.devices()
    if data == 0 or data < -1 or data > len(devices):
        raise UserError(
            f"mesh.data {data}: {len(devices)} {devices[0].platform} device(s) are there: use "
            f"1 to {len(devices)}, or -1 for all"
        )
    count = len(devices) if data == -1 else data
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Auto,), devices=devices[:count])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the data-parallel devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raise UserError unless the batch divides over the mesh."""
    count = mesh.shape[DATA]
    if batch_size < 1 or batch_size % count:
        up = max(-(-batch_size // count), 1) * count
        raise UserError(
            f"{name} {batch_size} is not divisible by {count} data-parallel devices: use {up}, or "
            f"another --config.mesh.data"
        )


def put_batch(mesh: Mesh, batch):
    """Host arrays of this process → global arrays split along their leading axis."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """[N, ...], the same in every process → global array, its rows shared out over the devices.

    Zeros are added after the last row where the devices do not divide N.
    """
    count = mesh.shape[DATA]
    size = -(-len(rows) // count) * count
    sharding = batch_sharding(mesh)

    def shard(index) -> np.ndarray:
        start, stop, _ = index[0].indices(size)
        part = rows[start:stop]
        missing = stop - start - len(part)
        return np.pad(part, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else part

    return jax.make_array_from_callback((size, *rows.shape[1:]), sharding, shard)


def take_rows(mesh: Mesh, rows: jax.Array, index: jax.Array) -> jax.Array:
    """rows[index] of an array of `put_rows`: [N, ...] and int32 [B] → [B, ...] split over the mesh.

    Every device looks up what it has of the whole batch, zeros for the rest; one reduce-scatter
    then brings each row to the device that works on it.
    """
    if mesh.shape[DATA] == 1:
        return rows[index]

    def shard(rows, index):
        wanted = jax.lax.all_gather(index, DATA, tiled=True)
        local = wanted - jax.lax.axis_index(DATA) * len(rows)
        here = (local >= 0) & (local < len(rows))
        taken = rows.at[local].get(mode="clip", wrap_negative_indices=False)
        here = here.reshape(-1, *[1] * (rows.ndim - 1))
        return jax.lax.psum_scatter(taken * here.astype(rows.dtype), DATA, tiled=True)

    spec = PartitionSpec(DATA)
    return jax.shard_map(shard, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(rows, index)
