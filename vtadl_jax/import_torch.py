"""Make a run of what the authors' PyTorch code has trained.

python -m vtadl_jax.import_torch --autoencoder VT_AE.pt --mixture G_estimate.pt --workdir W

Reads two state dicts (PyTorch files of both formats, or .safetensors) without running what is in
them, checks every name and shape and writes W as training would have left it, for evaluate,
predict, or main to train on. --config, by default configs/official.py, and --config.field=value say
how images are prepared and where they are, as in training: --config configs/official.py:cable.
Exit codes: 0 done, 2 a mistake the user can mend, 130 interrupted.
"""

import dataclasses
import functools
import shutil
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from vtadl_jax import config as config_lib
from vtadl_jax import train
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.commands import run_command
from vtadl_jax.data import pipeline
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.weights import names
from vtadl_jax.weights.files import read_arrays
from vtadl_jax.workdir import CONFIG
from vtadl_jax.writers import say

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_AUTOENCODER = _define("autoencoder", "", "State dict of the auto-encoder.")
_MIXTURE = _define("mixture", "", "State dict of the mixture density network.")
_WORKDIR = _define("workdir", "", "Of the new run; must be new or empty.")
flags.DEFINE_bool("help", False, "Show this.", flag_values=FLAGS)
DEFAULT_CONFIG = "configs/official.py"


def import_run(config: ConfigDict, autoencoder: Path, mixture: Path, workdir: Path) -> int:
    """Write the run; returns how many numbers were imported. Nothing is written before all of both
    files has been checked. Raises UserError for whatever does not fit."""
    config_lib.check_values(config)
    config_lib.assume_color(config)
    if config.detector != "official":
        raise UserError(f"detector {config.detector!r}: start from {DEFAULT_CONFIG}")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"workdir {workdir} exists and is not an empty folder: give another")
    detector = make_detector(config)
    entries: list[names.Entry] = []
    arrays: names.Arrays = {}
    for path, part in (
        (autoencoder, names.autoencoder_entries(config)),
        (mixture, names.mixture_entries(config)),
    ):
        found = read_arrays(path)
        names.check_arrays(part, found, str(path))
        entries += part
        arrays |= found
    variables = names.to_variables(entries, arrays)
    state = train.create_state(
        dataclasses.replace(detector, init=lambda _: variables),
        make_optimizer(config.optimizer, 1),
        config.seed,
        config.optimizer.ema_decay,
    )
    _write_run(workdir, config, state)
    return sum(arrays[entry.name].size for entry in entries)


def _write_run(workdir: Path, config: ConfigDict, state: train.TrainState) -> None:
    """A checkpoint of step 0, before the first batch; the config last, which makes it a run."""
    size = config.batch_size
    # A position in the data is a number of batches, whatever the data are.
    start = pipeline.train_iterator(pipeline.index_loader, size, size, config.seed, prefetch=0)
    existed = workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        try:
            checkpoints.save(0, state, start, config=config.to_dict())
            checkpoints.wait()
        finally:
            checkpoints.close()
        config_lib.save(config, workdir / CONFIG)
    except BaseException as error:
        shutil.rmtree(workdir / "checkpoints" if existed else workdir, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"workdir {workdir}: {error.strerror}: give another") from error
        raise


def split_config(argv: list[str]) -> tuple[list[str], list[str]]:
    """(program and flags of its own, program and flags of the config, the default one added)."""
    own, chosen, fields = argv[:1], [f"--config={DEFAULT_CONFIG}"], []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, _ = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            chosen = (
                [argument] if equals else [argument, *([v] if (v := next(arguments, "")) else [])]
            )
        elif argument.startswith("-") and name.startswith("config."):
            fields.append(argument)
        else:
            own.append(argument)
    return own, [*argv[:1], *chosen, *fields]  # the file has to be named before its fields


def run(config_arguments: list[str]) -> int:
    for flag in (_AUTOENCODER, _MIXTURE, _WORKDIR):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    config, _ = config_lib.parse_flags(config_arguments)
    workdir = Path(_WORKDIR.value).expanduser()
    autoencoder, mixture = (Path(f.value).expanduser() for f in (_AUTOENCODER, _MIXTURE))
    count = import_run(config, autoencoder, mixture, workdir)
    data = "" if config.data.root else " --data_root DIR"
    say(
        f"{count:,} numbers, every name and shape as expected; next: "
        f"python -m vtadl_jax.evaluate --workdir {workdir}{data}"
    )
    return 0


def main(argv: list[str]) -> int:
    own, rest = split_config(argv)
    # ml_collections takes the fields, and their order, from sys.argv.
    before, sys.argv = sys.argv, rest
    try:
        return run_command(FLAGS, own, __doc__, lambda: run(rest), "nothing was written")
    finally:
        sys.argv = before


if __name__ == "__main__":
    sys.exit(main(sys.argv))
