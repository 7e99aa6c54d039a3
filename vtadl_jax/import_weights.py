"""Imports weights of other programs: of the authors' PyTorch code, as a run; `fetch`: encoders.

python -m vtadl_jax.import_weights --autoencoder VT_AE.pt --mixture G_estimate.pt --workdir W
python -m vtadl_jax.import_weights fetch NAME [--to=DIR]

Reads two state dicts (PyTorch files of both formats, or .safetensors) without executing code in
them, checks every name and shape and writes W as a run at step 0, which evaluate and predict read
and main trains further. --config, by default configs/official.py, and --config.field=value say
where the images are and how they are resized, as in training: --config configs/official.py:cable.
Exit codes: 0 done, 2 a mistake the user can fix, 130 interrupted.
"""

import dataclasses
import functools
import shutil
import sys
from pathlib import Path

from absl import flags

from vtadl_jax import experiment
from vtadl_jax.config import Config
from vtadl_jax.data import pipeline
from vtadl_jax.detectors import official_names as names
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import not_written, writing
from vtadl_jax.runtime.lock import is_empty, locked
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.checkpoint import Checkpoints
from vtadl_jax.training.state import TrainState, create_state
from vtadl_jax.training.stored import CONFIG, save_config
from vtadl_jax.weights import hub
from vtadl_jax.weights.files import read_arrays

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_AUTOENCODER = _define("autoencoder", "", "State dict of the auto-encoder.")
_MIXTURE = _define("mixture", "", "State dict of the mixture density network.")
_WORKDIR = _define("workdir", "", "Folder of the new run; must be new or empty.")
DEFAULT_CONFIG = "configs/official.py"
FETCH = "fetch"
FETCH_HELP = """Downloads a pretrained encoder from the Hugging Face hub (extra `hub`).

python -m vtadl_jax.import_weights fetch                       lists names, licences and sizes
python -m vtadl_jax.import_weights fetch NAME [--to=DIR]       downloads one

NAME is one of `model.features`. The file goes to the hub's cache, or to DIR/NAME.safetensors; its
source, revision and licence are printed, and its size and SHA-256 are compared with those that the
hub states. Nothing is downloaded otherwise: runs read the file that --config.init_from names.
Exit codes: 0 done, 2 a mistake the user can fix or no connection, 130 interrupted.
"""
FETCH_FLAGS = flags.FlagValues()
_TO = flags.DEFINE_string(
    "to", "", "Folder of the file; empty: the hub's cache.", flag_values=FETCH_FLAGS
)
_REVISION = flags.DEFINE_string(
    "revision", "main", "Branch or commit of the repository.", flag_values=FETCH_FLAGS
)


def import_run(config: Config, autoencoder: Path, mixture: Path, workdir: Path) -> int:
    """Writes the run and returns the number of imported values.

    Writes nothing until both files are fully checked. Raises UserError for files that do not fit.
    """
    if config.detector != "official":
        raise UserError(f"detector {config.detector!r}: start from {DEFAULT_CONFIG}")
    if workdir.exists() and (not workdir.is_dir() or not is_empty(workdir)):
        raise UserError(f"workdir {workdir} exists and is not an empty folder: give another")
    detector = experiment.make_detector(config)
    entries: list[names.Entry] = []
    arrays: names.Arrays = {}
    for path, part in (
        (autoencoder, names.autoencoder_entries(config.model)),
        (mixture, names.mixture_entries(config.model)),
    ):
        found = read_arrays(path)
        names.check_arrays(part, found, str(path))
        entries += part
        arrays |= found
    variables = names.to_variables(entries, arrays)
    detector = dataclasses.replace(detector, init=lambda _: variables)
    tx = assemble(config, 1, detector).tx
    _write_run(workdir, config, create_state(detector, tx, config.seed, config.optimizer.ema_decay))
    return sum(arrays[entry.name].size for entry in entries)


def _write_run(workdir: Path, config: Config, state: TrainState) -> None:
    """Writes a checkpoint of step 0, before the first batch; the config last, as it marks a run."""
    size = config.batch_size
    # The iterator's state is a number of batches and does not depend on the data.
    start = pipeline.train_iterator(pipeline.index_loader, size, size, config.seed, prefetch=0)
    existed = workdir.exists()
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir):
        try:
            checkpoints = Checkpoints(workdir, config.keep_checkpoints)
            try:
                checkpoints.save(0, state, start, config=config.to_dict())
                checkpoints.wait()
            finally:
                checkpoints.close()
            save_config(config, workdir / CONFIG)
        except BaseException as error:
            shutil.rmtree(workdir / "checkpoints" if existed else workdir, ignore_errors=True)
            if isinstance(error, OSError):
                raise not_written(workdir, error) from error
            raise


def run(text: str, overrides: list[str]) -> None:
    """Imports the files that the command line names."""
    for flag in (_AUTOENCODER, _MIXTURE, _WORKDIR):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    config = experiment.assume_color(experiment.load(text, overrides)[0])
    workdir = Path(_WORKDIR.value).expanduser()
    autoencoder, mixture = (Path(f.value).expanduser() for f in (_AUTOENCODER, _MIXTURE))
    count = import_run(config, autoencoder, mixture, workdir)
    data = "" if config.data.root else " --data_root DIR"
    say(
        f"{count:,} numbers, every name and shape as expected; next: "
        f"python -m vtadl_jax.evaluate --workdir {workdir}{data}"
    )


def run_fetch(name: str) -> None:
    """Lists the encoders on stdout, or downloads one and prints its path there."""
    if not name:
        print(hub.listing())
        return
    folder = Path(_TO.value).expanduser() if _TO.value else None
    path = hub.fetch(name, folder, _REVISION.value)
    print(path)
    say(f"next: --config.model.features={name} --config.init_from={path}")


def main(argv: list[str]) -> int:
    if argv[1:2] == [FETCH]:
        name = "".join(argument for argument in argv[2:3] if not argument.startswith("-"))
        rest = argv[3:] if name else argv[2:]
        return run_command(
            FETCH_FLAGS,
            [argv[0], *rest],
            FETCH_HELP,
            lambda: run_fetch(name),
            "nothing was kept outside the hub's cache",
        )
    return experiment.run_experiment_command(
        FLAGS, argv, __doc__, run, "nothing was written", DEFAULT_CONFIG
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
