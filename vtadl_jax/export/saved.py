"""Saves a run as one file that `Predictor.from_file` opens without the workdir.

A zip with the weights as .safetensors, calibration, config, licences and a page to look at. The
detector is built again from the config: the scores equal those of the workdir bit for bit.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vtadl_jax.data.regions.region import Regions
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.experiment import make_detector
from vtadl_jax.export.about import about_run, preview
from vtadl_jax.export.bundle import WEIGHTS, Bundle, to_safetensors, write_bundle
from vtadl_jax.training.stored import make_geometry, place_of, read_config, stamp

if TYPE_CHECKING:  # it imports what an opened file does not need
    from vtadl_jax.evaluation.trained_run import Run

CONFIG, CALIBRATION, PAGE, LICENCES = (
    *("config.json", "calibration.json"),
    *("page.html", "licences.txt"),
)


def save_run(run: "Run", calibration: Calibration, path: Path) -> dict[str, Any]:
    """Writes a run with its calibration to a file; returns what its manifest says of the run.

    Raises UserError if the file can't be written.
    """
    about = about_run(run, calibration)
    members = {
        CONFIG: to_json({**stamp(), **run.config.to_dict()}),
        CALIBRATION: to_json(calibration.to_dict()),
        WEIGHTS: to_safetensors(named(jax.device_get(run.variables))),
        LICENCES: "\n".join(about["licences"]).encode() + b"\n",
        PAGE: preview(run.workdir, about).encode(),
    }
    write_bundle(path, "saved", about, members)
    return about


def open_saved(bundle: Bundle, batch_size: int = 0, threshold: float | None = None) -> Predictor:
    """Returns the predictor of a saved run. Raises UserError if its members do not fit together."""
    config = read_config(bundle.json(CONFIG), bundle.path)
    detector = make_detector(config)
    variables = _restore(bundle, jax.eval_shape(detector.init, jax.random.key(0)))
    return Predictor(
        detector,
        variables,
        make_geometry(config, Regions.from_dict(bundle.manifest.get("regions"), bundle.path)),
        calibration_of(bundle),
        channels=config.data.channels,
        batch_size=batch_size or config.eval.batch_size,
        num_threads=config.data.num_threads,
        threshold=config.eval.image_threshold if threshold is None else threshold,
    )


def calibration_of(bundle: Bundle) -> Calibration:
    """Returns the calibration in a file of an export. Raises UserError if it has no usable one."""
    try:
        return Calibration.from_dict(bundle.json(CALIBRATION))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{bundle.path} has no usable calibration ({error})") from error


def named(tree: Any) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree by their places, as 'params/vit/kernel'."""
    return {place_of(keys): np.asarray(leaf) for keys, leaf in jax.tree.leaves_with_path(tree)}


def _restore(bundle: Bundle, like: Any) -> Any:
    arrays = bundle.arrays()
    wanted = {place_of(keys): leaf for keys, leaf in jax.tree.leaves_with_path(like)}
    for name in sorted(wanted.keys() ^ arrays.keys()):
        raise UserError(f"{bundle.path}: weights and config differ: {name} is in one of them only")
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape:
            raise UserError(
                f"{bundle.path}: {name} is {arrays[name].shape}, not {leaf.shape}: export again"
            )
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: arrays[place_of(keys)].astype(leaf.dtype), like
    )


def to_json(value: Any) -> bytes:
    """Returns the content of a JSON member."""
    return json.dumps(value, indent=2).encode() + b"\n"
