"""Multi-process training: start, barrier, broadcast, and exit after the loss of a peer.

On GKE and Slurm JAX reads the cluster from the environment; on the VMs of a TPU pod slice
VTADL_DISTRIBUTED=1 makes JAX ask the platform. Elsewhere set the flags --coordinator HOST:PORT
--num_processes N --process_id I, or the variables VTADL_COORDINATOR, VTADL_NUM_PROCESSES and
VTADL_PROCESS_ID, as `launch/local.sh` does.
"""

import itertools
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vtadl_jax.errors import UserError

PEER_LOST = 76  # exit code
HEARTBEAT_SECONDS = 30  # a process without heartbeat for this long counts as lost
START_SECONDS = 300  # timeout for all processes at the start
SHUTDOWN_SECONDS = 3600  # timeout at the end, for the process that writes the report
BARRIER_SECONDS = 3600  # timeout of a barrier, for a process that compiles
_barriers = itertools.count()  # every process reaches the same barriers in the same order


def cluster_of(environment: Mapping[str, str]) -> str | None:
    """Returns the kind of cluster that JAX reads from the environment, None outside a cluster."""
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return "slurm"
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment:  # several TPU slices
        return "tpu"
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if workers and len(workers.split(",")) > 1:
        return "tpu"
    # A TPU VM without GKE: only its metadata server knows the other hosts.
    return "tpu" if environment.get("VTADL_DISTRIBUTED") else None


def explicit_cluster(
    environment: Mapping[str, str], coordinator: str = "", count: int = 0, index: int = -1
) -> tuple[str, int, int] | None:
    """Returns (coordinator, number of processes, index of this process) from arguments or VTADL_*.

    None without a coordinator. Raises UserError if the numbers are missing or invalid.
    """
    coordinator = coordinator or environment.get("VTADL_COORDINATOR", "")
    if not coordinator:
        return None
    try:
        count = count or int(environment.get("VTADL_NUM_PROCESSES", "0"))
        index = index if index >= 0 else int(environment.get("VTADL_PROCESS_ID", "-1"))
    except ValueError as e:
        raise UserError(f"VTADL_NUM_PROCESSES or VTADL_PROCESS_ID: {e}: give numbers") from e
    if not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator {coordinator}: give HOST:PORT of process 0")
    if count < 1 or not 0 <= index < count:
        raise UserError(
            f"--coordinator {coordinator} needs --num_processes N and --process_id 0 to N - 1, got "
            f"{count} and {index}"
        )
    return coordinator, count, index


def start(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Connects to the other processes, if there are any. Call it before JAX touches a device.

    Raises UserError if they cannot be reached.
    """
    explicit = explicit_cluster(os.environ, coordinator, num_processes, process_id)
    cluster = cluster_of(os.environ)
    if explicit is None and cluster is None:
        return
    jax.config.update("jax_enable_preemption_service", True)
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "initialization_timeout": START_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    if explicit is not None:
        names = ("coordinator_address", "num_processes", "process_id")
        options |= dict(zip(names, explicit, strict=True))
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as e:
        where = explicit[0] if explicit else f"the {cluster} environment"
        raise UserError(
            f"process could not join the others through {where}: {' '.join(str(e).split())[:200]}: "
            f"start all processes within {START_SECONDS} s, on a free port that all can reach"
        ) from e


def is_main() -> bool:
    """Returns whether this process writes logs, reports and pictures (process 0)."""
    return jax.process_index() == 0


def barrier(place: str) -> None:
    """Waits until all processes reach this barrier, up to `BARRIER_SECONDS`.

    Call it before the first use of a program with collectives: gloo times out after 30 seconds,
    while one process may still compile what another found in the compilation cache. JAX has no
    public barrier without a collective.
    """
    if jax.process_count() > 1:
        from jax._src.distributed import global_state

        client = global_state.client
        assert client is not None, "several processes have a client"
        client.wait_at_barrier(f"{place}-{next(_barriers)}", BARRIER_SECONDS * 1000)


def broadcast_from_main(value):
    """Broadcasts a JSON value from process 0 to all processes; a barrier for all of them."""
    if jax.process_count() == 1:
        return value
    barrier("agree")
    raw = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(raw))))
    raw = raw if is_main() else np.zeros(size, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(raw)).tobytes())


def anywhere(value: bool) -> bool:
    """Returns whether `value` is true in any process; a barrier for all of them."""
    if jax.process_count() == 1:
        return value
    barrier("anywhere")
    return bool(np.any(multihost_utils.process_allgather(np.asarray(value))))


def lost_peer(error: Exception) -> bool:
    """Returns whether an error of JAX means that another process is gone."""
    signs = ("Gloo", "gloo", "Connection", "connection", "peer", "heartbeat", "UNAVAILABLE")
    return jax.process_count() > 1 and any(sign in str(error) for sign in signs)


def exit_after_peer_loss(error: Exception) -> None:
    """Prints that another process is gone and exits without JAX's shutdown barrier, which would
    wait for it."""
    reason = " ".join(str(error).split())[:200]
    print(
        f"process {jax.process_index()} of {jax.process_count()} lost the others ({reason}): rerun "
        f"the same command in all processes to continue from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(PEER_LOST)
