"""Give a run of the detector 'official' back to the authors' PyTorch code, as two state dicts.

python -m vtadl_jax.export_torch --workdir W --autoencoder VT_AE.pt --mixture G_estimate.pt

Of the newest checkpoint. Names ending in .safetensors are written without PyTorch, all others by
it, in the zip format that torch.load(weights_only=True) reads.
Exit codes: 0 done, 2 a mistake the user can mend, 130 interrupted.
"""

import functools
import sys
from pathlib import Path

import jax
from absl import flags

from vtadl_jax import sharding
from vtadl_jax.commands import run_command
from vtadl_jax.errors import UserError
from vtadl_jax.weights import names
from vtadl_jax.weights.files import check_writable, write_arrays
from vtadl_jax.workdir import load_config, load_run
from vtadl_jax.writers import say

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Of the run.")
_AUTOENCODER = _define("autoencoder", "", "Where the auto-encoder's state dict goes.")
_MIXTURE = _define("mixture", "", "Where the mixture network's state dict goes.")
flags.DEFINE_bool("help", False, "Show this.", flag_values=FLAGS)


def export_run(workdir: Path, autoencoder: Path, mixture: Path) -> int:
    """Write both files; returns the step of the checkpoint. Raises UserError for a run of another
    detector, and for files that exist or can't be written."""
    config = load_config(workdir)
    if config.detector != "official":
        raise UserError(
            f"{workdir} is of detector {config.detector!r}, for which there is no PyTorch code: "
            f"only runs of 'official' are exported"
        )
    for path in (autoencoder, mixture):
        if path.exists():
            raise UserError(f"{path} exists: give another path, or remove it")
        check_writable(path)
    found = load_run(workdir, sharding.make_mesh(1))
    variables = jax.device_get(found.variables)
    arrays = names.to_arrays(names.autoencoder_entries(config), variables)
    write_arrays(autoencoder, arrays | names.counters(found.step))
    write_arrays(mixture, names.to_arrays(names.mixture_entries(config), variables))
    return found.step


def run() -> int:
    for flag in (_WORKDIR, _AUTOENCODER, _MIXTURE):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    paths = [Path(flag.value).expanduser() for flag in (_WORKDIR, _AUTOENCODER, _MIXTURE)]
    step = export_run(*paths)
    say(f"step {step}: {paths[1]}, {paths[2]}")
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "the file under way was not written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
