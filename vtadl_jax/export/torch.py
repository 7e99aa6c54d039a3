"""Exports runs of the detector 'official' as state dicts of the authors' PyTorch code."""

from pathlib import Path

import jax

from vtadl_jax.detectors import official_names as names
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.runtime import sharding
from vtadl_jax.training.stored import load_config
from vtadl_jax.weights.files import check_writable, write_arrays


def export_run(workdir: Path, autoencoder: Path, mixture: Path) -> int:
    """Writes both files and returns the step of the checkpoint.

    Raises UserError for a run of another detector, and for files that exist or cannot be written.
    """
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
    arrays = names.to_arrays(names.autoencoder_entries(config.model), variables)
    write_arrays(autoencoder, arrays | names.counters(found.step))
    write_arrays(mixture, names.to_arrays(names.mixture_entries(config.model), variables))
    return found.step
