"""Compiles a step ahead of time and reports what XLA makes of it: memory, FLOPs, collectives.

python -m vtadl_jax.compile --config configs/mvtec.py --topology v5e:2x2

Lowers and compiles the same functions that training, evaluation and prediction use, from shapes
alone: no data, no state and no device of the target. The TPU's compiler comes with the extra `tpu`
and runs on any Linux machine. Writes a table to the terminal, and JSON, Markdown and HTML to
--output. The config's batch size is for all devices on 'local', and per device on a topology.

  --against other.json | configs/other.py   differences from that report, or from that config
  --sweep v5e:1x1,2x2,4x4,8x8,16x16         the same step on growing slices
  --search_flags cycles                     documented flags of the compiler, alone and together
  --pareto 8,16,32                          memory against time: recomputation, batch, sharding
  --with_python OTHER/bin/python            the step compiled by another environment
  --measured RUN/profile                    measured times beside the estimates
  --methods all                             every method, without --config

Exit codes: 0 done, 1 the program does not fit, 2 a mistake the user can fix, 130 interrupted.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from absl import flags

from vtadl_jax import experiment
from vtadl_jax.compiling import (
    every_method,
    flag_search,
    implementations,
    measured,
    pareto,
    scaling,
    studies,
    xla_flags,
)
from vtadl_jax.compiling.program import step_names
from vtadl_jax.compiling.topology import LOCAL, find_target
from vtadl_jax.compiling.versions import name_of, older_first
from vtadl_jax.errors import UserError

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


# Studies of several programs, and what is of one program only.
_STUDIES = (_SWEEP, _PARETO, _SEARCH_FLAGS, _METHODS)
_OF_ONE = (_AGAINST, _WITH_PYTHON, _MEASURED, _DUMP, _RECORD)


def run(text: str, overrides: Sequence[str]) -> int:
    """Compiles the step that the command line names; returns 1 if it does not fit, else 0."""
    _check_flags(text)
    xla = xla_flags.parse(_XLA.value)
    if _METHODS.value:
        return _run_methods(overrides, xla)
    config, name = studies.load_config(text, overrides)
    if _STEP.value not in (known := step_names(config)):
        raise UserError(f"--step {_STEP.value}: use {', '.join(known)}")
    # All of these may fail, and do before the compilation.
    other = studies.load_other(_AGAINST.value) if _AGAINST.value else None
    batches = pareto.parse_batches(_PARETO.value) if _PARETO.value else []
    trace = None
    if _MEASURED.value:
        trace = measured.read_trace(measured.find_trace(Path(_MEASURED.value)))
    _without_tpu(_SWEEP.value or _TOPOLOGY.value)
    request = studies.Request(
        text=text,
        overrides=overrides,
        config=config,
        name=_NAME.value or name,
        step=_STEP.value,
        images=_IMAGES.value,
        implementations=implementations.parse(_IMPLEMENTATIONS.value),
        xla=xla,
        training_images=_TRAINING.value,
        output=_make_output(),
    )
    if _SWEEP.value:
        studies.sweep(request, _SWEEP.value, _STRONG.value)
        return 0
    elsewhere = None
    if _WITH_PYTHON.value:  # first: the TPU's compiler serves one process at a time
        python = Path(_WITH_PYTHON.value)
        elsewhere = studies.compile_elsewhere(request, python, _TOPOLOGY.value)
    target = find_target(_TOPOLOGY.value)
    xla_flags.check(target, xla)
    if batches:
        studies.trade(request, target, batches)
        return 0
    if _SEARCH_FLAGS.value:
        studies.search_flags(request, target, _SEARCH_FLAGS.value)
        return 0
    record = _RECORD.value or elsewhere is not None
    reading = studies.report(
        request, target, dump=_DUMP.value, record=record, largest=_SEARCH.value, trace=trace
    )
    if elsewhere is not None:
        name = name_of(elsewhere["program"]["versions"])
        studies.write_comparison(request, target, *older_first(elsewhere, reading), name)
    if other is not None:
        studies.compare(request, target, reading, other, _AGAINST.value)
    return 0 if reading["fits"] else 1


def _check_flags(text: str) -> None:
    """Raises UserError for flags that would be ignored."""
    chosen = [flag.name for flag in _STUDIES if flag.value]
    if len(chosen) > 1:
        raise UserError(f"--{chosen[0]} and --{chosen[1]} are two studies: give one")
    given = [flag.name for flag in _OF_ONE if flag.value]
    if chosen and given:
        raise UserError(f"--{given[0]} is of one program: leave it out with --{chosen[0]}")
    if _PARETO.value and _STEP.value != "train":
        raise UserError(f"--step {_STEP.value}: --pareto is of the train step")
    if _METHODS.value and text:
        raise UserError("--methods takes the configs of the methods: leave out --config")
    if not _METHODS.value and not text:
        raise UserError("no config: give --config FILE, for example --config configs/mvtec.py")


def _run_methods(overrides: Sequence[str], xla: Mapping[str, xla_flags.Value]) -> int:
    """Compiles the methods that --methods names, for all steps or for --step."""
    every_method.chosen(_METHODS.value)  # fails before anything is written
    shapes = scaling.topologies(_TOPOLOGY.value)
    steps = (_STEP.value,) if _STEP.present else every_method.SHOWN
    if steps[0] not in every_method.SHOWN:
        raise UserError(f"--step {steps[0]}: use {', '.join(every_method.SHOWN)} with --methods")
    _without_tpu(_TOPOLOGY.value)
    output, largest = _make_output(), _SEARCH.value
    studies.every(_METHODS.value, steps, shapes, overrides, output, largest=largest, xla=xla)
    return 0


def _without_tpu(topology: str) -> None:
    """Keeps JAX from looking for a TPU on this machine where only its compiler is needed."""
    if topology != LOCAL and not jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", "cpu")


def _make_output() -> Path:
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
