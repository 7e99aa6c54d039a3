"""Compiles a step ahead of time and reports what XLA makes of it: memory, FLOPs, collectives.

python -m vtadl_jax.compile --config configs/mvtec.py --topology v5e:2x2

Lowers and compiles the same functions that training, evaluation and prediction use, from shapes
alone: no data, no state and no device of the target. The TPU's compiler comes with the extra `tpu`
and runs on any Linux machine. Writes a table to the terminal, and JSON, Markdown and HTML to
--output. The config's batch size is for all devices on 'local', and per device on a topology.

  --against other.json | configs/other.py   differences from that report, or from that config
  --sweep v5e:1x1,2x2,4x4,8x8,16x16         the same step on growing slices

Exit codes: 0 done, 1 the program does not fit, 2 a mistake the user can fix, 130 interrupted.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from vtadl_jax import experiment, options
from vtadl_jax.compiling import (
    comparing,
    every_method,
    flag_search,
    implementations,
    measured,
    page,
    pareto,
    scaling,
    sections,
    versions,
    writing,
    xla_flags,
)
from vtadl_jax.compiling.largest import find_largest
from vtadl_jax.compiling.program import lower_step, step_names
from vtadl_jax.compiling.reading import SCHEMA, Reading, read_step
from vtadl_jax.compiling.topology import LOCAL, Target, find_target
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.sharding import num_slices
from vtadl_jax.runtime.versions import compiler_versions

FLAGS = flags.FlagValues()
_TOPOLOGY = flags.DEFINE_string(
    "topology", LOCAL, "'local', or a topology as v5e:4x4, 2*v5e:4x4.", flag_values=FLAGS
)
_STEP = flags.DEFINE_string(
    "step",
    "train",
    "train, eval, predict, or a part of the detector's train step, as ssim.",
    flag_values=FLAGS,
)
_IMAGES = flags.DEFINE_integer(
    "images_per_device", 0, "0: the config's batch.", lower_bound=0, flag_values=FLAGS
)
_TRAINING = flags.DEFINE_integer(
    "training_images",
    209,
    "Training images of a category, to estimate the time of the whole training.",
    lower_bound=1,
    flag_values=FLAGS,
)
_SEARCH = flags.DEFINE_bool(
    "search_batch",
    False,
    "Find the largest batch that fits: up to 7 more compilations.",
    flag_values=FLAGS,
)
_AGAINST = flags.DEFINE_string(
    "against", "", "A report's JSON, or a config file, to compare with.", flag_values=FLAGS
)
_SWEEP = flags.DEFINE_string("sweep", "", "Topologies, smallest first.", flag_values=FLAGS)
_STRONG = flags.DEFINE_integer(
    "images_in_all",
    256,
    "Global batch of the sweep's strong scaling; 0: weak scaling only.",
    lower_bound=0,
    flag_values=FLAGS,
)
_DUMP = flags.DEFINE_bool(
    "dump", False, "Also write StableHLO, and HLO before and after optimization.", flag_values=FLAGS
)
_IMPLEMENTATIONS = flags.DEFINE_string(
    "implementations",
    "",
    "Implementations of operations in place of the target's, as ops.ssim=cpu.",
    flag_values=FLAGS,
)
_XLA = flags.DEFINE_multi_string(
    "xla", [], "A flag of the compiler, NAME=VALUE; may be repeated.", flag_values=FLAGS
)
_SEARCH_FLAGS = flags.DEFINE_enum(
    "search_flags",
    "",
    ["", *flag_search.GOALS],
    "Try documented flags of the compiler, alone and together, for the fewest cycles or the least "
    "memory.",
    flag_values=FLAGS,
)
_WITH_PYTHON = flags.DEFINE_string(
    "with_python",
    "",
    "Interpreter of another environment: compiles the step there too, and compares.",
    flag_values=FLAGS,
)
_RECORD = flags.DEFINE_bool(
    "record", False, "Also keep the compiler's flags and passes in the JSON.", flag_values=FLAGS
)
_PARETO = flags.DEFINE_string(
    "pareto",
    "",
    "Images a device, as 4,8,16: memory against time for each of them, with and without "
    "recomputation and with each sharding.",
    flag_values=FLAGS,
)
_MEASURED = flags.DEFINE_string(
    "measured",
    "",
    "A profile of this step: measured times beside the estimates, by module and instruction.",
    flag_values=FLAGS,
)
_METHODS = flags.DEFINE_string(
    "methods",
    "",
    "'all', or names of methods: their programs on --topology, as one table; without --config.",
    flag_values=FLAGS,
)
_NAME = flags.DEFINE_string(
    "name", "", "Name of the report's files; '': the config's.", flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string("output", "compiled", "Folder of the reports.", flag_values=FLAGS)


def report(
    config: Config, name: str, target: Target, output: Path, trace: dict[str, Any] | None
) -> Reading:
    """Compiles and reads a step, prints and writes its report. Returns the reading."""
    stem = output / file_name(name, _STEP.value, target.name)

    def read(images: int, dump: Path | None = None) -> Reading:
        return read_step(
            config,
            name,
            target,
            _STEP.value,
            images,
            output / "programs",
            dump,
            implementations.parse(_IMPLEMENTATIONS.value),
            xla_flags.parse(_XLA.value),
            _RECORD.value or bool(_WITH_PYTHON.value),
        )

    reading = read(_IMAGES.value, stem if _DUMP.value else None)
    if _SEARCH.value:
        reading["largest_batch"] = find_largest(read, reading, target, say)
    if trace is not None and reading["fits"]:
        reading["measured"] = measured.beside(reading, trace)
    show(stem, reading)
    return reading


def show(stem: Path, reading: Reading) -> None:
    title, subtitle = sections.title(reading), sections.subtitle(reading)
    tables = sections.sections(reading, _TRAINING.value)
    if "measured" in reading:
        tables += measured.sections(reading["measured"])
    html = page.reading_page(title, subtitle, reading, tables, _TRAINING.value)
    data = {"schema": SCHEMA, **reading}
    writing.write_study(stem, data, title, subtitle, tables, html=html)


def load_other(text: str) -> Reading | Config:
    """Returns what --against names: a written report, or a config to compile."""
    path = Path(text.partition(":")[0])
    return load_reading(path) if path.suffix == ".json" else load_config(text)[0]


def compare(reading: Reading, other: Reading | Config, target: Target, output: Path) -> None:
    """Prints and writes the differences from --against."""
    stem = Path(_AGAINST.value.partition(":")[0]).stem
    if isinstance(other, Config):
        before = read_step(
            other,
            stem,
            target,
            _STEP.value,
            _IMAGES.value,
            output / "programs",
            xla=xla_flags.parse(_XLA.value),
        )
    else:
        before = other
    name = file_name(reading["program"]["config"], _STEP.value, target.name)
    write_comparison(output / f"{name}-against-{stem}", before, reading)


def write_comparison(path: Path, before: Reading, after: Reading) -> None:
    """Prints and writes the differences of two readings."""
    for one in (before, after):
        if not one["fits"]:
            raise UserError(f"{sections.title(one)} does not fit: there is nothing to compare")
    title = f"{sections.title(after)} against {sections.title(before)}"
    tables = [*comparing.comparison(before, after), *versions.sections(before, after)]
    data = {"before": before, "after": after}
    writing.write_study(path, data, title, sections.subtitle(after), tables)


def search_flags(config: Config, name: str, target: Target, output: Path) -> None:
    """Prints and writes what documented flags of the compiler do to the step."""
    step = _STEP.value
    chosen = implementations.parse(_IMPLEMENTATIONS.value)
    known: list[xla_flags.Candidate] = []
    unknown: list[xla_flags.Candidate] = []
    for candidate in xla_flags.candidates(target):
        (known if xla_flags.is_known(target, candidate.flags) else unknown).append(candidate)
    program = lower_step(config, target, step, _IMAGES.value, chosen)

    def read(flags: Mapping[str, xla_flags.Value]) -> Reading:
        return read_step(
            config,
            name,
            target,
            step,
            cache=output / "programs",
            implementations=chosen,
            xla=flags,
            program=program,
        )

    goal = _SEARCH_FLAGS.value
    found = flag_search.search(read, xla_flags.parse(_XLA.value), known, goal, say)
    title = f"{name}, {step} step on {target.name}: flags of the compiler"
    best = found.best.reading
    assert best is not None
    tables = flag_search.sections(found, target, goal, unknown)
    stem = output / file_name(name, step, f"{target.name}-flags")
    data = {"schema": SCHEMA, "goal": goal, "tried": flag_search.as_data(found)}
    writing.write_study(stem, data, title, sections.subtitle(best), tables)


def trade(
    config: Config, text: str, overrides: Sequence[str], name: str, target: Target, output: Path
) -> None:
    """Prints and writes memory against time of the train step, for --pareto."""

    def read(fields: pareto.Fields, images: int) -> Reading:
        return read_step(
            options.replace(config, fields),
            name,
            target,
            "train",
            images,
            output / "programs",
            implementations=implementations.parse(_IMPLEMENTATIONS.value),
            xla=xla_flags.parse(_XLA.value),
        )

    combinations = pareto.settings(config, target.size // num_slices(target.devices))
    points = pareto.study(read, combinations, pareto.parse_batches(_PARETO.value), say)
    command = pareto.command_of(text, overrides, target.size)
    title = f"{name}, train step on {target.name}: memory against time"
    readings = [point.reading for point in points if point.reading is not None]
    if not readings:
        raise UserError(f"--pareto: no combination can be compiled: {points[0].trouble}")
    data = {"schema": SCHEMA, "points": pareto.as_data(points, command)}
    stem = output / file_name(name, "train", f"{target.name}-pareto")
    table = pareto.section(points, command)
    subtitle = sections.subtitle(readings[0])
    writing.write_study(stem, data, title, subtitle, [table], [pareto.chart(points)])


def compile_elsewhere(text: str, overrides: Sequence[str], name: str, output: Path) -> Reading:
    """Returns the reading of the step from the environment that --with_python names."""
    python = Path(_WITH_PYTHON.value)
    found = versions.versions_of(python)
    told = ", ".join(f"{key} {value}" for key, value in found.items())
    say(f"compiling with {python}: {told}")
    folder = output / f"with-jax-{found['jax']}-libtpu-{found.get('libtpu', 'none')}"
    values = {
        "config": text,
        "name": name,
        "topology": _TOPOLOGY.value,
        "step": _STEP.value,
        "images_per_device": _IMAGES.value,
        "implementations": _IMPLEMENTATIONS.value,
        "output": folder,
        "record": "true",
    }
    arguments = [f"--{key}={value}" for key, value in values.items() if value != ""]
    arguments += [f"--xla={given}" for given in _XLA.value]
    report = folder / f"{file_name(name, _STEP.value, _TOPOLOGY.value)}.json"
    return versions.compile_with(python, [*arguments, *overrides], report)


def sweep(config: Config, name: str, output: Path) -> None:
    shapes = scaling.topologies(_SWEEP.value)
    found = scaling.study(
        config,
        name,
        shapes,
        _STEP.value,
        images_per_device=_IMAGES.value or config.batch_size,
        images_in_all=_STRONG.value,
        cache=output / "programs",
        progress=say,
        xla=xla_flags.parse(_XLA.value),
    )
    chip = shapes[0].partition(":")[0]
    title = f"{name}, {_STEP.value} step from {shapes[0]} to {shapes[-1]}"
    subtitle = sections.subtitle(found["weak"][-1])
    parts = [
        page.charts(f"{kind.capitalize()} scaling", scaling.curves(found[kind], _TRAINING.value))
        for kind in scaling.KINDS
        if any(r["fits"] for r in found[kind])
    ]
    tables = scaling.sections(found, _TRAINING.value)
    stem = output / file_name(name, _STEP.value, f"{chip}-sweep")
    writing.write_study(stem, {"schema": SCHEMA, **found}, title, subtitle, tables, parts)


def every(overrides: Sequence[str], output: Path) -> None:
    """Compiles methods for training, scoring and prediction; prints and writes the table."""
    shapes = scaling.topologies(_TOPOLOGY.value)
    rows = every_method.study(
        every_method.chosen(_METHODS.value),
        shapes,
        overrides,
        cache=output / "programs",
        largest=_SEARCH.value,
        progress=say,
        xla=xla_flags.parse(_XLA.value),
    )
    title = f"{_METHODS.value if _METHODS.value != 'all' else 'every method'} on {','.join(shapes)}"
    versions = ", ".join(f"{name} {value}" for name, value in compiler_versions().items())
    subtitle = f"{' '.join(overrides) or 'each config as it is'}; {versions}"
    stem = output / file_name("methods", "all", "-".join(shapes))
    data = {"schema": SCHEMA, "rows": every_method.as_data(rows)}
    writing.write_study(stem, data, title, subtitle, every_method.sections(rows))


def file_name(name: str, step: str, topology: str) -> str:
    return f"{name}-{step}-{topology}".replace(":", "-").replace("*", "x")


def load_reading(path: Path) -> Reading:
    """Reads a report's JSON. Raises UserError for other files and for reports of other versions."""
    try:
        reading = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"--against {path} can't be read ({e}): give a report's JSON") from e
    if not isinstance(reading, dict) or reading.get("schema") != SCHEMA or "fits" not in reading:
        raise UserError(f"--against {path} is not a report of this version: make it again")
    return reading


def load_config(text: str, overrides: Sequence[str] = ()) -> tuple[Config, str]:
    """Returns the config of 'configs/mvtec.py:screw' and its name; unknown channels become RGB."""
    config, name = experiment.load(text, overrides)
    return experiment.assume_color(config), name


def run(text: str, overrides: Sequence[str]) -> int:
    """Compiles the step that the command line names; returns 1 if it does not fit, else 0."""
    if _METHODS.value:
        if text:
            raise UserError("--methods takes the configs of the methods: leave out --config")
        return run_methods(overrides)
    if not text:
        raise UserError("no config: give --config FILE, for example --config configs/mvtec.py")
    config, name = load_config(text, overrides)
    name = _NAME.value or name
    if _STEP.value not in (known := step_names(config)):
        raise UserError(f"--step {_STEP.value}: use {', '.join(known)}")
    other = load_other(_AGAINST.value) if _AGAINST.value else None  # fails before the compilation
    xla = xla_flags.parse(_XLA.value)
    if _PARETO.value:
        pareto.parse_batches(_PARETO.value)
    trace = None
    if _MEASURED.value:
        trace = measured.read_trace(measured.find_trace(Path(_MEASURED.value)))
    without_tpu(_SWEEP.value or _TOPOLOGY.value)
    output = make_output()
    if _SWEEP.value:
        sweep(config, name, output)
        return 0
    # The TPU's compiler serves one process at a time: the other environment comes first.
    before = compile_elsewhere(text, overrides, name, output) if _WITH_PYTHON.value else None
    target = find_target(_TOPOLOGY.value)
    xla_flags.check(target, xla)
    if _PARETO.value:
        trade(config, text, overrides, name, target, output)
        return 0
    if _SEARCH_FLAGS.value:
        search_flags(config, name, target, output)
        return 0
    reading = report(config, name, target, output, trace)
    if before is not None:
        stem = file_name(name, _STEP.value, target.name)
        write_comparison(output / f"{stem}-against-jax-{_version(before)}", before, reading)
    if other is not None:
        compare(reading, other, target, output)
    return 0 if reading["fits"] else 1


def _version(reading: Reading) -> str:
    versions_there = reading["program"]["versions"]
    libtpu = versions_there.get("libtpu")
    return versions_there["jax"] + (f"-libtpu-{libtpu}" if libtpu else "")


def run_methods(overrides: Sequence[str]) -> int:
    """Compiles the methods that --methods names."""
    without_tpu(_TOPOLOGY.value)
    every_method.chosen(_METHODS.value)  # fails before anything is written
    every(overrides, make_output())
    return 0


def without_tpu(topology: str) -> None:
    """Keeps JAX from looking for a TPU on this machine where only its compiler is needed."""
    if topology != LOCAL and not jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", "cpu")


def make_output() -> Path:
    output = Path(_OUTPUT.value)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output {output}: {e.strerror}: give another folder") from e
    return output


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(
        FLAGS, argv, __doc__, run, "programs that were read are kept in --output"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
