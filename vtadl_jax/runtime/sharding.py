"""Device mesh and array shardings; the only file that names mesh axes.

A batch is sharded over all devices. The state is replicated over `data` and sharded over `fsdp`;
weights are all-gathered where they are used. With `shard_optimizer`, optimizer states are sharded
over `data` too (ZeRO-1: Rajbhandari et al., 2020; Xu et al., 2020).
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vtadl_jax.errors import UserError

DATA, FSDP = "data", "fsdp"
BATCH = (DATA, FSDP)  # the axes that a batch is sharded over
OPTIMIZER_STATE, FROZEN = "opt_state", "frozen"  # fields of a train state
# Smaller arrays are replicated: an all-gather would cost more time than the memory it saves.
MIN_SHARDED = 2**12


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of data × fsdp devices; data = -1 uses all devices, or all of `devices`.

    Axes are Auto: flax linen modules do not carry shardings in their types. Raises UserError for
    numbers that do not fit the devices; with several processes the mesh must use all devices.
    """
    devices = jax.devices() if devices is None else devices
    there = f"{len(devices)} {devices[0].platform} device(s) are there"
    if not 1 <= fsdp <= len(devices):
        raise UserError(f"mesh.fsdp {fsdp}: {there}: use 1 to {len(devices)}")
    if data == -1 and len(devices) % fsdp:
        raise UserError(f"mesh.fsdp {fsdp} does not divide the devices: {there}")
    most = len(devices) // fsdp
    if data == 0 or data < -1 or data > most:
        times = f" of {fsdp} each" if fsdp > 1 else ""
        raise UserError(f"mesh.data {data}: {there}: use 1 to {most}{times}, or -1 for all")
    data = most if data == -1 else data
    if jax.process_count() > 1 and data * fsdp != len(devices):
        raise UserError(
            f"mesh.data {data} × mesh.fsdp {fsdp}: {there} in {jax.process_count()} processes, and "
            f"the mesh must use all: use --config.mesh.data=-1"
        )
    if (slices := num_slices(devices)) > 1:
        return _hybrid_mesh(data, fsdp, devices, slices)
    return jax.make_mesh(
        (data, fsdp), BATCH, axis_types=(AxisType.Auto,) * 2, devices=devices[: data * fsdp]
    )


def num_slices(devices: Iterable[jax.Device]) -> int:
    """Returns the number of TPU slices that the devices belong to; 1 for other devices."""
    return len({getattr(device, "slice_index", None) for device in devices})


def _hybrid_mesh(data: int, fsdp: int, devices: Sequence[jax.Device], slices: int) -> Mesh:
    """Returns a mesh of several slices, in which the devices of an fsdp group are of one slice.

    The network between slices is slow: only gradients of the data axis cross it.
    """
    size = len(devices) // slices
    if size % fsdp:
        raise UserError(
            f"mesh.fsdp {fsdp}: a slice has {size} devices, and a group must be of one slice: use "
            f"a divisor of {size}"
        )
    if data * fsdp != len(devices):
        raise UserError(
            f"mesh.data {data} × mesh.fsdp {fsdp}: {slices} slices have {len(devices)} devices, "
            f"and the mesh must use all: use --config.mesh.data=-1"
        )
    placed = create_hybrid_device_mesh((size // fsdp, fsdp), (slices, 1), devices)
    return Mesh(placed, BATCH, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state, shard_optimizer: bool = False) -> Any:
    """Returns a sharding for every array (or shape) of a train state.

    Shards the longest axis that the devices divide over `fsdp`; replicates arrays without such an
    axis, arrays below `MIN_SHARDED` and frozen weights. With `shard_optimizer`, shards optimizer
    states over `data` too.
    """

    def place(path, x):
        field = getattr(path[0], "name", None) if path else None
        if field == FROZEN:
            return replicated(mesh)
        shared = shard_optimizer and field == OPTIMIZER_STATE
        return NamedSharding(mesh, _state_spec(x.shape, mesh, (FSDP, DATA) if shared else (FSDP,)))

    return jax.tree_util.tree_map_with_path(place, state)


def state_shapes(mesh: Mesh, state, shard_optimizer: bool = False) -> Any:
    """Returns the shapes and shardings of a state, to compile for."""
    return jax.tree.map(
        lambda x, placed: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
        state,
        state_sharding(mesh, state, shard_optimizer),
    )


def _state_spec(shape: tuple[int, ...], mesh: Mesh, axes: tuple[str, ...]) -> PartitionSpec:
    count = math.prod(mesh.shape[axis] for axis in axes)
    dividing = [axis for axis, size in enumerate(shape) if size % count == 0]
    if count > 1 and dividing and math.prod(shape) >= MIN_SHARDED:
        longest = max(dividing, key=lambda axis: shape[axis])
        return PartitionSpec(*[axes if axis == longest else None for axis in range(len(shape))])
    return _state_spec(shape, mesh, axes[:-1]) if len(axes) > 1 else PartitionSpec()


def reshard_updates(mesh: Mesh | None) -> Callable[[Any], Any]:
    """Returns a function that reshards a tree of gradients or parameters to the optimizer state's
    sharding (ZeRO-1).

    Constrains the tree to the parameters' sharding first: without it the compiler partitions the
    gradients' matrix products over their output axes instead of over the batch.
    """
    if mesh is None:
        return lambda tree: tree

    def share(x):
        for axes in ((FSDP,), (FSDP, DATA)):
            spec = _state_spec(x.shape, mesh, axes)
            x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
        return x

    return lambda tree: jax.tree.map(share, tree)


def gather_weights(mesh: Mesh | None) -> Callable[[jax.Array], jax.Array] | None:
    """Returns a function that all-gathers a weight with the sharding of `state_sharding`.

    Its gradient is resharded back to the weight's sharding. None if `fsdp` is 1.
    """
    if mesh is None or mesh.shape[FSDP] == 1:
        return None

    @jax.custom_vjp
    def gather(x):
        return jax.lax.with_sharding_constraint(x, replicated(mesh))

    def backward(_, g):
        # Replicated first: without it the compiler shards the batch's tokens over fewer devices.
        g = jax.lax.with_sharding_constraint(g, replicated(mesh))
        spec = _state_spec(g.shape, mesh, (FSDP,))
        return (jax.lax.with_sharding_constraint(g, NamedSharding(mesh, spec)),)

    gather.defvjp(lambda x: (gather(x), None), backward)
    return gather


def column_layouts(mesh: Mesh | None) -> tuple[Callable | None, Callable | None]:
    """Returns two functions that reshard activations around a weight [D, F] with D over `fsdp`.

    The first: [B, D] from the batch's sharding to B over `data` and D over `fsdp`. The second: any
    [B, ...] back to the batch's sharding. (None, None) if `fsdp` is 1.
    """
    if mesh is None or mesh.shape[FSDP] == 1:
        return None, None

    def lay(spec: PartitionSpec) -> Callable:
        return lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return lay(PartitionSpec(DATA, FSDP)), lay(PartitionSpec(BATCH))


def put_state(mesh: Mesh, state, shard_optimizer: bool = False) -> Any:
    """Places a state, equal in the memory of every process, on the mesh as global arrays."""

    def put(x, sharding):
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, state, state_sharding(mesh, state, shard_optimizer))


def check_batch(name: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Checks that a batch divides over the mesh, and each device's share into `parts` microbatches.

    Raises UserError if not.
    """
    count = mesh.size * parts
    if batch_size < 1 or batch_size % count:
        up = max(-(-batch_size // count), 1) * count
        each = f", {parts} microbatches each" if parts > 1 else ""
        raise UserError(
            f"{name} {batch_size} is not divisible by {mesh.size} data-parallel devices{each}: use "
            f"{up}, or another --config.mesh.data"
        )


def check_parallel(parallel: str, mesh: Mesh) -> None:
    """Checks that a step with `train.parallel` can run on the mesh. Raises UserError if not."""
    if parallel == "pmap" and mesh.shape[FSDP] > 1:
        raise UserError(
            f"train.parallel 'pmap' replicates the state, mesh.fsdp is {mesh.shape[FSDP]}: use "
            f"--config.train.parallel=jit, or --config.mesh.fsdp=1"
        )


def put_batch(mesh: Mesh, batch):
    """Places this process's host arrays on the mesh: global arrays, leading axis sharded."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def platform_of(mesh: Mesh) -> str:
    """Returns the platform of the mesh's devices: 'cpu', 'gpu' or 'tpu'."""
    return mesh.devices.flat[0].platform


def put_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """Places rows [N, ...], equal in every process, on the mesh: a global array, rows sharded.

    Pads with zero rows at the end if the number of devices does not divide N.
    """
    size = -(-len(rows) // mesh.size) * mesh.size
    sharding = batch_sharding(mesh)

    def shard(index) -> np.ndarray:
        start, stop, _ = index[0].indices(size)
        part = rows[start:stop]
        missing = stop - start - len(part)
        return np.pad(part, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else part

    return jax.make_array_from_callback((size, *rows.shape[1:]), sharding, shard)


def map_devices(mesh: Mesh, step: Callable) -> Callable:
    """Maps step(state, batch, axis), for one device's share of a batch, over all devices; jitted.

    Equivalent to `jax.pmap`, but takes global arrays instead of arrays with a leading device axis.
    The state is replicated, and every device must return the same results.
    """
    mapped = jax.shard_map(
        functools.partial(step, axis=BATCH),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(BATCH)),
        out_specs=PartitionSpec(),
        check_vma=False,  # as in pmap, gradients of replicated values are not summed by themselves
    )
    return jax.jit(mapped, donate_argnums=0)


def take_rows(mesh: Mesh, rows: jax.Array, index: jax.Array) -> jax.Array:
    """Returns rows[index] for an array of `put_rows`: [N, ...], int32 [B] → [B, ...], sharded.

    Every device looks up its rows of the whole batch and fills the others with zeros; one
    reduce-scatter then moves each row to its device.
    """
    if mesh.size == 1:
        return rows[index]
    spec = PartitionSpec(BATCH)
    take = lambda rows, index: take_local_rows(rows, index, BATCH)  # noqa: E731
    return jax.shard_map(take, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(rows, index)


def take_local_rows(rows: jax.Array, index: jax.Array, axis) -> jax.Array:
    """Implements `take_rows` on one device: its shards of `rows` and `index` → its rows."""
    wanted = jax.lax.all_gather(index, axis, tiled=True)
    local = wanted - jax.lax.axis_index(axis) * len(rows)
    here = (local >= 0) & (local < len(rows))
    taken = rows.at[local].get(mode="clip", wrap_negative_indices=False)
    here = here.reshape(-1, *[1] * (rows.ndim - 1))
    # bool has no sum: reduce as uint8.
    summed = jnp.where(here, taken, 0).astype(jnp.uint8 if rows.dtype == bool else rows.dtype)
    return jax.lax.psum_scatter(summed, axis, tiled=True).astype(rows.dtype)
