"""The compiler's flags: from the command line, tried on the target, and a table of documented ones.

A flag given to one compilation (`--xla NAME=VALUE`) acts as in `LIBTPU_INIT_ARGS` or `XLA_FLAGS`,
which act on a whole process.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtadl_jax.compiling.topology import Target
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import sharding

Value = bool | int | float | str


def parse(texts: Sequence[str]) -> dict[str, Value]:
    """Parses ['xla_tpu_rwb_fusion=false'] into {name: value}; leading dashes are removed.

    Raises UserError for an entry without '=', and for a flag with two values.
    """
    found: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.strip().lstrip("-").partition("=")
        if not equals or not name:
            raise UserError(f"--xla {text!r}: give NAME=VALUE, as xla_tpu_rwb_fusion=false")
        if name in found and found[name] != _value(value):
            raise UserError(f"--xla {name} is given as {found[name]} and {value}: give one value")
        found[name] = _value(value)
    return found


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):  # XLA's own flags take no text for these
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def written(flags: Mapping[str, Value]) -> str:
    """Returns flags as text: 'a=true b=2'; 'none' if there are none."""
    return " ".join(f"{name}={as_text(value)}" for name, value in flags.items()) or "none"


def as_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def one_line(error: BaseException) -> str:
    """Returns XLA's own words in one line, without the name of the error's class."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.removeprefix("INVALID_ARGUMENT: ").rstrip(" :")


def check(target: Target, flags: Mapping[str, Value]) -> None:
    """Compiles a tiny program with the flags.

    Raises UserError with XLA's own words for a flag or a value that the compiler does not know.
    """
    if not flags:
        return
    try:
        _probe(target).compile(compiler_options={**target.options, **flags})
    except jax.errors.JaxRuntimeError as e:
        raise UserError(f"--xla {written(flags)} on {target.name}: {one_line(e)}") from e


def is_known(target: Target, flags: Mapping[str, Value]) -> bool:
    """Returns whether the target's compiler takes the flags."""
    try:
        check(target, flags)
    except UserError:
        return False
    return True


def taken(target: Target) -> dict[str, str]:
    """Returns name → 'taken' of the documented flags that the target's compiler takes."""
    flags = {name: value for c in candidates(target) for name, value in c.flags.items()}
    return {name: "taken" for name, value in flags.items() if is_known(target, {name: value})}


def _probe(target: Target) -> Any:
    mesh = Mesh(np.asarray(target.devices[:1]), ("x",))
    shape = jax.ShapeDtypeStruct((8,), np.float32, sharding=sharding.replicated(mesh))
    return jax.jit(lambda x: x + 1).lower(shape)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A change of flags that the search tries. flags: set together; what: its effect."""

    flags: Mapping[str, Value]
    what: str
    source: str

    @functools.cached_property
    def text(self) -> str:
        return written(self.flags)


_GUIDE = "openxla.org/xla/flags_guidance"
_XLA = "xla/debug_options_flags.cc (XLA_FLAGS=--help prints it)"
# Settings other than the default, read in November 2026.
TPU = (
    Candidate(
        {"xla_tpu_scoped_vmem_limit_kib": 8192},
        "half of the default on-chip memory for one operation; the rest prefetches for the next",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_scoped_vmem_limit_kib": 32768},
        "twice the default on-chip memory for one operation",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_scoped_vmem_limit_kib": 65536},
        "four times the default on-chip memory for one operation",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_enable_dot_strength_reduction": False},
        "leaves small products as products instead of multiply and reduce",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_dot_dot_fusion": False},
        "does not fuse a product with the product that uses it",
        _GUIDE,
    ),
    Candidate(
        {"xla_jf_enable_multi_output_fusion": False},
        "no fusions with several results",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_rwb_fusion": False},
        "no fusions of a reduction with a broadcast; may need less memory",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_async_copy_bandwidth_scaling_factor": 0.5},
        "counts with half the rate of copies when it chooses what to keep on the chip",
        _GUIDE,
    ),
    Candidate(
        {"xla_tpu_msa_inefficient_use_to_copy_ratio": 0.0},
        "regards every use of on-chip memory as worth its copy",
        _GUIDE,
    ),
    Candidate(
        {"xla_latency_hiding_scheduler_rerun": 5},
        "schedules again with less memory, up to 5 times",
        _GUIDE,
    ),
    Candidate(
        {
            "xla_should_allow_loop_variant_parameter_in_chain": "enabled",
            "xla_should_add_loop_invariant_op_in_chain": "enabled",
            "xla_tpu_enable_ici_ag_pipelining": True,
        },
        "pipelines all-gathers over the iterations of loops",
        _GUIDE,
    ),
    Candidate(
        {
            "xla_tpu_enable_async_collective_fusion": True,
            "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
        },
        "runs all-reduces beside computations",
        _GUIDE,
    ),
)
CPU = (
    Candidate(
        {"xla_cpu_enable_fast_math": True},
        "reorders float operations and takes no care of NaN and infinity: other results",
        _XLA,
    ),
    Candidate(
        {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
        "orders operations for little memory",
        _XLA,
    ),
    Candidate(
        {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_CONCURRENCY_OPTIMIZED"},
        "orders operations so that more of them can run at once",
        _XLA,
    ),
    Candidate(
        {"xla_cpu_use_fusion_emitters": False},
        "loops by XLA's own emitters instead of those by MLIR",
        _XLA,
    ),
    Candidate(
        {"xla_cpu_copy_insertion_use_region_analysis": True},
        "looks for needless copies by regions",
        _XLA,
    ),
)


def candidates(target: Target) -> tuple[Candidate, ...]:
    """Returns the documented candidates for a target's platform; () for platforms without any."""
    return {"tpu": TPU, "cpu": CPU}.get(target.devices[0].platform, ())


def launch_lines(target: Target, flags: Mapping[str, Value]) -> str:
    """Returns the line of a shell that sets the flags for a run, '' without flags."""
    if not flags:
        return ""
    variable = "LIBTPU_INIT_ARGS" if target.devices[0].platform == "tpu" else "XLA_FLAGS"
    options = " ".join(f"--{name}={as_text(value)}" for name, value in flags.items())
    return f'export {variable}="{options}"'
