"""Write a trained run for another program.

python -m vtadl_jax.export --format torch --workdir W --autoencoder VT_AE.pt --mixture G_estimate.pt

'torch' gives a run of the detector 'official' back to the authors' PyTorch code, as two state
dicts of the newest checkpoint. Names ending in .safetensors are written without PyTorch, all
others by it, in the zip format that torch.load(weights_only=True) reads.
Exit codes: 0 done, 2 a mistake the user can fix, 130 interrupted.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from vtadl_jax.errors import UserError
from vtadl_jax.export import torch
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_FORMAT = flags.DEFINE_enum("format", "torch", ["torch"], "What to write.", flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Of the run.")
_AUTOENCODER = _define("autoencoder", "", "Where the auto-encoder's state dict goes.")
_MIXTURE = _define("mixture", "", "Where the mixture network's state dict goes.")


def run() -> int:
    for flag in (_WORKDIR, _AUTOENCODER, _MIXTURE):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    paths = [Path(flag.value).expanduser() for flag in (_WORKDIR, _AUTOENCODER, _MIXTURE)]
    step = torch.export_run(*paths)
    say(f"step {step}: {paths[1]}, {paths[2]}")
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "the file under way was not written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
