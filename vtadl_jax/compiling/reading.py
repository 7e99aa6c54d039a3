"""Compiles and analyses one program; a reading is all data of its report, plain for JSON."""

import contextlib
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vtadl_jax import __version__
from vtadl_jax.compiling import collectives, compiler_record, costs, hlo, xla_flags
from vtadl_jax.compiling.origin import Origins
from vtadl_jax.compiling.program import Program, lower_step
from vtadl_jax.compiling.topology import Target
from vtadl_jax.compiling.xla_flags import one_line
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.options import flatten
from vtadl_jax.runtime.files import write_json, write_text
from vtadl_jax.runtime.sharding import num_slices
from vtadl_jax.runtime.versions import compiler_versions

SCHEMA = 4
NUM_MOST_EXPENSIVE = 10
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class DoesNotFit(Exception):
    """The compiler could not fit the program into the memory of a device."""

    needed: int
    limit: int


Reading = dict[str, Any]


def read_step(
    config: Config,
    name: str,
    target: Target,
    step: str,
    images_per_device: int = 0,
    cache: Path | None = None,
    dump: Path | None = None,
    implementations: Mapping[str, str] | None = None,
    xla: Mapping[str, Any] | None = None,
    record: bool = False,
    program: Program | None = None,
) -> Reading:
    """Lowers and compiles a step and returns its reading.

    cache: a folder of readings; a reading of the same program is reused, a new one is stored.
    dump: a prefix for files of the program's texts. xla: the compiler's flags. record: also keeps
    the compiler's flags and passes (`compiler_record.py`). program: the step if it is lowered
    already. A reading with 'fits' False has only the results of lowering and the memory that the
    program would need.

    Raises UserError if the compiler fails with the given flags.
    """
    if program is None:
        program = lower_step(config, target, step, images_per_device, implementations)
    stored = cache / f"{_key(program, target, xla or {}, record)}.json" if cache else None
    if stored and stored.is_file() and dump is None:
        reading = json.loads(stored.read_text(encoding="utf-8"))
    else:
        with began(stored if xla else None):
            reading = _compile(program, target, dump, xla or {}, record)
        if record and reading["fits"] and not reading["compiler"]["flags"]:
            reading["compiler"]["flags"] = xla_flags.taken(target)
        if stored:
            stored.parent.mkdir(parents=True, exist_ok=True)
            write_json(stored, reading)
    described = _describe(program, config, name, target)
    chosen = {"implementations": dict(implementations or {}), "xla": dict(xla or {})}
    return {"program": {**described, **chosen}, **reading}


@contextlib.contextmanager
def began(stored: Path | None) -> Iterator[None]:
    """Marks a compilation with flags while it runs: some values end the process.

    Raises UserError if an earlier process ended during the same compilation.
    """
    if stored is None:
        yield
        return
    mark = stored.with_suffix(".began")
    if mark.is_file():
        raise UserError(
            f"an earlier process ended while it compiled this program with these flags: leave them "
            f"out, or remove {mark} to try again"
        )
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_text(mark, "")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _key(program: Program, target: Target, xla: Mapping[str, Any], record: bool) -> str:
    """Returns a hash of the compiler's whole input, source lines included."""
    text = program.lowered.as_text(debug_info=True)
    # The path of the checkout does not count; the version of this reader does.
    parts = [text, target.name, __version__, str(SCHEMA), json.dumps(compiler_versions())]
    if xla:
        parts.append(json.dumps(dict(sorted(xla.items()))))
    if record:
        parts.append("record")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()[:24]


def _describe(program: Program, config: Config, name: str, target: Target) -> dict:
    chip = target.chip
    return {
        "config": name,
        "fields": {k: list(v) if isinstance(v, tuple) else v for k, v in flatten(config)},
        "step": program.step,
        "topology": target.name,
        "chip": dataclasses.asdict(chip) if chip else None,
        "device_kind": target.devices[0].device_kind,
        "num_devices": program.num_devices,
        "mesh": dict(program.mesh.shape),
        "images": program.images,
        "images_per_device": program.images_per_device,
        "dtype": config.dtype,
        "num_parameters": program.num_parameters,
        "parameter_bytes": program.parameter_bytes,
        "versions": {"vtadl_jax": __version__, **compiler_versions()},
    }


def _compile(
    program: Program, target: Target, dump: Path | None, xla: Mapping[str, Any], record: bool
) -> Reading:
    if dump is not None:
        _dump_lowered(program, dump)
    start = time.perf_counter()
    recorded: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        options = {**target.options, **xla}
        if record:
            options |= stack.enter_context(compiler_record.recording(recorded))
        compiled_programs = stack.enter_context(_counting_programs())
        try:
            compiled = program.lowered.compile(compiler_options=options or None)
        except jax.errors.JaxRuntimeError as e:
            needed = _memory_asked(str(e))
            if needed is None:
                if xla:
                    raise UserError(f"--xla {xla_flags.written(xla)}: {one_line(e)}") from e
                if target.options:
                    raise UserError(
                        f"{program.step} on {target.name}: the compiler fails: {one_line(e)}: try "
                        f"--xla xla_gpu_enable_triton_gemm=false"
                    ) from e
                raise
            seconds = {**program.seconds, "compile": time.perf_counter() - start}
            return {"fits": False, "memory": needed, "seconds": seconds}
    seconds = {**program.seconds, "compile": time.perf_counter() - start}
    memory = memory_of(compiled)
    if target.options and target.chip and memory["needed"] > target.chip.hbm_bytes:
        # XLA's compiler for GPUs does not refuse it.
        over = {"needed": memory["needed"], "limit": target.chip.hbm_bytes}
        return {"fits": False, "memory": over, "seconds": seconds}
    text = compiled.as_text()
    if dump is not None:
        _write(dump, "after.hlo.txt", text)
    return {
        "fits": True,
        "seconds": seconds,
        **read_text(text, program.num_devices, num_slices(program.mesh.devices.flat)),
        "work": work_of(compiled),
        "memory": memory,
        "programs": len(compiled_programs),
        **({"compiler": recorded} if record else {}),
    }


def read_text(text: str, num_devices: int, num_slices: int = 1) -> Reading:
    """Returns the part of a reading that comes from the optimized program's text."""
    module = hlo.parse(text)
    origins = Origins(module)
    scheduled, unknown = costs.schedule(module)
    there = collectives.find_collectives(module, scheduled)
    found = collectives.tabulate(origins, there, num_devices)
    return {
        "cycles": costs.cycles(scheduled),
        "loops_of_unknown_length": unknown,
        "library_calls": costs.count_library_calls(scheduled),
        "modules": costs.by_module(origins, scheduled),
        "instructions": costs.instructions(origins, scheduled),
        "most_expensive": costs.most_expensive(origins, scheduled, NUM_MOST_EXPENSIVE),
        "collectives": found,
        "collective_totals": {
            "instructions": len(found),
            "executed": sum(c["times"] for c in found),
            "bytes": sum(c["bytes"] for c in found),
            "wire_bytes": sum(c["wire_bytes"] for c in found),
        },
        "between_slices": collectives.between_slices(scheduled, num_slices),
        "counts": costs.counts(scheduled),
        "aliased_outputs": module.num_aliased,
    }


def work_of(compiled) -> dict[str, float | None]:
    """Returns FLOPs and bytes of a compiled program, None where the compiler does not tell."""
    analysis = compiled.cost_analysis() or {}
    flops, num_bytes = analysis.get("flops"), analysis.get("bytes accessed")
    return {"flops": flops, "bytes": num_bytes}


def memory_of(compiled) -> dict[str, int]:
    """Returns bytes per device. needed: state, batch, results and the program's own memory."""
    m = compiled.memory_analysis()
    if m is None:
        return {}
    needed = (
        m.argument_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
        + m.temp_size_in_bytes
        + m.generated_code_size_in_bytes
    )
    return {
        "arguments": m.argument_size_in_bytes,
        "outputs": m.output_size_in_bytes,
        "aliased": m.alias_size_in_bytes,
        "temporary": m.temp_size_in_bytes,
        "program": m.generated_code_size_in_bytes,
        "peak": m.peak_memory_in_bytes,
        "needed": needed,
    }


_AMOUNT = r"([0-9.]+)([KMGT]?)"
TOO_LARGE = (  # needed, available
    rf"Used {_AMOUNT} of {_AMOUNT} hbm",
    rf"required for HLO temporaries \({_AMOUNT}\) exceeds available HBM \({_AMOUNT}\)",
)


def _memory_asked(message: str) -> dict[str, int] | None:
    """Parses the memory from the compiler's two error messages; None for any other error."""
    for pattern in TOO_LARGE:
        if found := re.search(pattern, message):
            break
    else:
        return None
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, limit = (round(float(found.group(i)) * unit[found.group(i + 1)]) for i in (1, 3))
    return {"needed": needed, "limit": limit}


@contextlib.contextmanager
def _counting_programs() -> Iterator[list[float]]:
    """Yields a list that collects the durations of all compilations in its context."""
    seen: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _dump_lowered(program: Program, prefix: Path) -> None:
    _write(prefix, "stablehlo.mlir", program.lowered.as_text(debug_info=True))
    _write(prefix, "before.hlo.txt", program.lowered.as_text("hlo"))


def _write(prefix: Path, kind: str, text: str) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_text(prefix.with_name(f"{prefix.name}.{kind}"), text)
