"""Devices and how arrays lie on them; the only file that names mesh axes.

A batch is split over all devices. Along `data` the devices hold copies of the state; along `fsdp`
each holds a share of it, and weights are gathered where they are used. Where an update is shared,
optimiser states are split along `data` too (ZeRO-1: Rajbhandari et al., 2020; Xu et al., 2020).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vtadl_jax.errors import UserError

DATA, FSDP = "data", "fsdp"
BATCH = (DATA, FSDP)  # the axes that share a batch
OPTIMIZER_STATE = "opt_state"  # the field of a train state
PARALLEL = ("jit", "pmap")
# Smaller arrays are kept whole: gathering them would take longer than they save.
MIN_SHARDED = 2**12


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of data × fsdp devices that share the batch; data = -1 takes all there are, or all of
    `devices`.

    Axes are Auto: flax linen modules do not carry shardings in their types. Raises UserError for
    numbers that the devices do not allow; with several processes all devices must take part.
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
            f"all must take part: use --config.mesh.data=-1"
        )
    return jax.make_mesh(
        (data, fsdp), BATCH, axis_types=(AxisType.Auto,) * 2, devices=devices[: data * fsdp]
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state, share_update: bool = False) -> Any:
    """A sharding for every array (or shape) of a train state: along `fsdp` by its longest axis
    that divides, whole where none does or the array is small. `share_update`: those of the
    optimiser along `data` too."""

    def place(path, x):
        shared = share_update and getattr(path[0], "name", None) == OPTIMIZER_STATE
        return NamedSharding(mesh, _state_spec(x.shape, mesh, (FSDP, DATA) if shared else (FSDP,)))

    return jax.tree_util.tree_map_with_path(place, state)


def state_shapes(mesh: Mesh, state, share_update: bool = False) -> Any:
    """Shapes of a state, with the sharding of each, to compile for."""
    return jax.tree.map(
        lambda x, placed: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
        state,
        state_sharding(mesh, state, share_update),
    )


def _state_spec(shape: tuple[int, ...], mesh: Mesh, axes: tuple[str, ...]) -> PartitionSpec:
    count = math.prod(mesh.shape[axis] for axis in axes)
    dividing = [axis for axis, size in enumerate(shape) if size % count == 0]
    if count > 1 and dividing and math.prod(shape) >= MIN_SHARDED:
        longest = max(dividing, key=lambda axis: shape[axis])
        return PartitionSpec(*[axes if axis == longest else None for axis in range(len(shape))])
    return _state_spec(shape, mesh, axes[:-1]) if len(axes) > 1 else PartitionSpec()


def shares_update(train: Mapping[str, Any]) -> bool:
    """Whether steps of the config's section `train` share the update: pmap keeps states whole."""
    return train["share_update"] and train["parallel"] == "jit"


def share_updates(mesh: Mesh | None) -> Callable[[Any], Any]:
    """A function that lays gradients or parameters, a tree, as the optimiser's states lie. They are
    summed as parameters lie first, lest the compiler split products of a batch by their results."""
    if mesh is None:
        return lambda tree: tree

    def share(x):
        for axes in ((FSDP,), (FSDP, DATA)):
            spec = _state_spec(x.shape, mesh, axes)
            x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
        return x

    return lambda tree: jax.tree.map(share, tree)


def gather_weights(mesh: Mesh | None) -> Callable[[jax.Array], jax.Array] | None:
    """A function from a weight as `state_sharding` lays it to the same, whole on every device; its
    gradient is shared out again. None where devices hold states whole."""
    if mesh is None or mesh.shape[FSDP] == 1:
        return None

    @jax.custom_vjp
    def gather(x):
        return jax.lax.with_sharding_constraint(x, replicated(mesh))

    def backward(_, g):
        # Summed whole first, lest the compiler split the tokens of a batch among fewer devices.
        g = jax.lax.with_sharding_constraint(g, replicated(mesh))
        spec = _state_spec(g.shape, mesh, (FSDP,))
        return (jax.lax.with_sharding_constraint(g, NamedSharding(mesh, spec)),)

    gather.defvjp(lambda x: (gather(x), None), backward)
    return gather


def column_layouts(mesh: Mesh | None) -> tuple[Callable | None, Callable | None]:
    """Two functions of activations [B, D]: from the batch's layout to one by columns among the
    devices that share a weight [D, F], D the axis that `state_sharding` splits; and of any [B, ...]
    back to the batch's. None where devices hold states whole."""
    if mesh is None or mesh.shape[FSDP] == 1:
        return None, None

    def lay(spec: PartitionSpec) -> Callable:
        return lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return lay(PartitionSpec(DATA, FSDP)), lay(PartitionSpec(BATCH))


def put_state(mesh: Mesh, state, share_update: bool = False) -> Any:
    """A state in this process's memory, the same in every process → global arrays."""

    def put(x, sharding):
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, state, state_sharding(mesh, state, share_update))


def check_batch(name: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raise UserError unless the batch divides over the mesh, and each share into `parts`."""
    count = mesh.size * parts
    if batch_size < 1 or batch_size % count:
        up = max(-(-batch_size // count), 1) * count
        each = f", {parts} parts each" if parts > 1 else ""
        raise UserError(
            f"{name} {batch_size} is not divisible by {mesh.size} data-parallel devices{each}: use "
            f"{up}, or another --config.mesh.data"
        )


def check_parallel(parallel: str, mesh: Mesh) -> None:
    """Raise UserError unless a step of that form can run on the mesh."""
    if parallel not in PARALLEL:
        raise UserError(f"train.parallel {parallel!r}: use {' or '.join(map(repr, PARALLEL))}")
    if parallel == "pmap" and mesh.shape[FSDP] > 1:
        raise UserError(
            f"train.parallel 'pmap' keeps whole states, mesh.fsdp is {mesh.shape[FSDP]}: use "
            f"--config.train.parallel=jit, or --config.mesh.fsdp=1"
        )


def put_batch(mesh: Mesh, batch):
    """Host arrays of this process → global arrays split along their leading axis."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """[N, ...], the same in every process → global array, its rows shared out over the devices.

    Zeros are added after the last row where the devices do not divide N.
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
    """step(state, batch, axis) of one device's share of a batch → the compiled step of all devices.

    This is what `jax.pmap` is made of, with global arrays instead of ones with an axis of devices
    in front. Every device keeps a whole state and must give the same results.
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
    """rows[index] of an array of `put_rows`: [N, ...] and int32 [B] → [B, ...] split over the mesh.

    Every device looks up what it has of the whole batch, zeros for the rest; one reduce-scatter
    then brings each row to the device that works on it.
    """
    if mesh.size == 1:
        return rows[index]
    spec = PartitionSpec(BATCH)
    take = lambda rows, index: take_local_rows(rows, index, BATCH)  # noqa: E731
    return jax.shard_map(take, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(rows, index)


def take_local_rows(rows: jax.Array, index: jax.Array, axis) -> jax.Array:
    """`take_rows` seen from one device: its shares of `rows` and `index` → its rows."""
    wanted = jax.lax.all_gather(index, axis, tiled=True)
    local = wanted - jax.lax.axis_index(axis) * len(rows)
    here = (local >= 0) & (local < len(rows))
    taken = rows.at[local].get(mode="clip", wrap_negative_indices=False)
    here = here.reshape(-1, *[1] * (rows.ndim - 1))
    return jax.lax.psum_scatter(taken * here.astype(rows.dtype), axis, tiled=True)
