"""Trains and evaluates: python -m vtadl_jax.main --config configs/mvtec.py --config.data.root=DIR

With --dry_run it only says what the run would do, how long it takes and how much memory.
Exit codes: 0 done, 2 a mistake the user can fix (one line says which), 3 the loss diverged,
75 stopped by SIGTERM after a checkpoint, 76 another process of the run was lost, 130 interrupted.
"""

import contextlib
import functools
import re
import sys
from pathlib import Path

from absl import flags

from vtadl_jax import experiment
from vtadl_jax import options as options_lib
from vtadl_jax.config import Config, differences
from vtadl_jax.data.files import product_name
from vtadl_jax.dry_run import dry_run, dry_run_all
from vtadl_jax.errors import UserError
from vtadl_jax.run import run
from vtadl_jax.runtime import compilation_cache, distributed
from vtadl_jax.runtime.console import say, silence
from vtadl_jax.sweep import ALL, resolve_all, run_all
from vtadl_jax.training.stored import CONFIG, load_config

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_WORKDIR = _string(
    "workdir",
    "",
    "Folder of the run; rerunning continues it. Default: runs/<config>-<category>, or without a "
    "category runs/<config>-<folder of the data>.",
)
_COORDINATOR = _string(
    "coordinator", "", "HOST:PORT of process 0, to train with several processes."
)
_NUM_PROCESSES = _integer("num_processes", 0, "Number of processes.")
_PROCESS_ID = _integer("process_id", -1, "Index of this process, from 0.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Say what the run would do and take: images, steps, time, memory, folder. Write nothing.",
    flag_values=FLAGS,
)
_SERIALIZE = flags.DEFINE_bool(
    "serialize",
    False,
    "Has no effect any more: JAX's compilation cache replaces it.",
    flag_values=FLAGS,
)


def train(text: str, overrides: list[str]) -> None:
    """Runs the experiment that the command line names, or one run for every category."""
    if not text:
        raise UserError("no config: give --config FILE, for example --config configs/demo.py")
    if _SERIALIZE.value:
        say("note: --serialize has no effect any more: JAX's compilation cache replaces it")
    config, name = experiment.load(text, overrides)
    stem, given = Path(text.partition(":")[0]).stem, _WORKDIR.value
    workdir = Path(given).expanduser() if given else default_workdir(config, name, stem)
    distributed.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not distributed.is_main():
        silence()
    config, every = resolve_all(config)
    if _DRY_RUN.value:
        (dry_run_all if every else dry_run)(config, workdir)
        return
    compilation_cache.use_compilation_cache(workdir.parent)
    if every:
        run_all(config, workdir, run)
    else:
        run(config, workdir)


def default_workdir(config: Config, name: str, stem: str = "") -> Path:
    """Returns runs/NAME-CATEGORY, of which the category or the data's folder names the product.

    name: of the experiment. stem: of its file, '' for the same. Continues in the folder that
    earlier versions chose, by the file's stem or by the last folder of the data alone, if it holds
    this run.
    """
    product = config.data.category or product_name(config.data.root)
    found = place_of(name, product)
    old = [place_of(stem or name, product)]
    if not config.data.category:
        old += [place_of(each, Path(config.data.root).name) for each in (name, stem or name)]
    there = (folder for folder in old if folder != found and holds_run_of(config, folder))
    return found if (found / CONFIG).is_file() else next(there, found)


def place_of(name: str, product: str) -> Path:
    """Returns runs/NAME-PRODUCT."""
    return Path("runs", "-".join(filter(None, (name, re.sub(r"[\\/]+", "-", product)))))


def holds_run_of(config: Config, folder: Path) -> bool:
    """Returns whether a folder holds the run of a config, or a sweep's folder one of its runs."""
    if config.data.category == ALL and not (folder / CONFIG).is_file():
        folder = next((path.parent for path in folder.glob(f"*/{CONFIG}")), folder)
        config = options_lib.replace(config, {"data.category": folder.name})
    with contextlib.suppress(UserError):
        stored = load_config(folder)
        return stored.data.root == config.data.root and not differences(config, stored)
    return False


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(
        FLAGS,
        argv,
        __doc__,
        train,
        "rerun the same command: it continues from the last checkpoint, if there is one",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
