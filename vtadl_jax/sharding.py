"""Devices and how arrays lie on them; the only file that names mesh axes."""

import jax
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
