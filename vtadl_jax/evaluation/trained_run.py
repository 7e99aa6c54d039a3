"""Loads a trained run from its workdir, for evaluation and prediction.

Writes nothing and reads no images.
"""

import dataclasses
from pathlib import Path

import jax
from jax.sharding import Mesh

from vtadl_jax import options
from vtadl_jax.config import Config
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.consolidation import without_start
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.experiment import make_detector
from vtadl_jax.runtime import sharding
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.checkpoint import Checkpoints
from vtadl_jax.training.regions import run_geometry
from vtadl_jax.training.stored import load_config

CALIBRATION = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run.

    workdir: its folder. config: as it was trained. detector: the functions of its method; call
    `detector.score(variables, images)` with uint8 images [B, H, W, C] of `config.image_size`.
    geometry: scales images to that size, and maps back. variables: of the checkpoint at `step`,
    replicated over the mesh. calibration: that of the checkpoint, None if it has none; that of the
    last evaluation is newer, see `load_calibration`.
    """

    workdir: Path
    config: Config
    detector: Detector
    geometry: Geometry
    variables: Variables
    step: int
    calibration: dict | None  # stored in the checkpoint


def load_run(workdir: str | Path, mesh: Mesh | None = None, step: int | None = None) -> Run:
    """Loads the checkpoint of `step`, or the newest undamaged one, with config and detector.

    mesh: the devices for its variables; by default the first. Raises UserError if the workdir holds
    no checkpoint, and for a run of a newer version.
    """
    workdir = Path(workdir)
    mesh = sharding.make_mesh(1) if mesh is None else mesh
    config = load_config(workdir)
    assembly = assemble(config, num_steps=1)
    everywhere = sharding.replicated(mesh)
    state_like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        assembly.shapes,
    )
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint: train first")
    checkpoints = Checkpoints(workdir, writable=False)
    try:
        found = checkpoints.restore(state_like, step=step, config=config)
    finally:
        checkpoints.close()
    detector = assembly.detector
    if config.start_penalty:  # it matters to training only
        detector = make_detector(options.replace(config, {"start_penalty": 0.0}))
    return Run(
        workdir=workdir,
        config=config,
        detector=detector,
        geometry=run_geometry(workdir, config),
        variables=without_start(found.state.variables),
        step=found.step,
        calibration=found.about.get("calibration"),
    )


def load_calibration(run: Run) -> Calibration:
    """Returns the calibration of the last evaluation if it used this checkpoint, else the
    checkpoint's own.

    Raises UserError if there is neither.
    """
    path = run.workdir / CALIBRATION
    if path.is_file() and (calibration := Calibration.load(path)).step == run.step:
        _check_terms(run, calibration, str(path))
        return calibration
    again = f"run python -m vtadl_jax.evaluate --workdir {run.workdir}"
    where = f"checkpoint {run.step} of {run.workdir}"
    if run.calibration is None:
        raise UserError(f"{where} is not calibrated: {again}")
    try:
        calibration = Calibration.from_dict(run.calibration)
    except (AttributeError, TypeError, ValueError) as e:
        raise UserError(f"{where} has no usable calibration ({e}): {again}") from e
    _check_terms(run, calibration, where)
    return calibration


def _check_terms(run: Run, calibration: Calibration, where: str) -> None:
    if calibration.terms != tuple(run.detector.score_terms):
        raise UserError(
            f"{where} is calibrated for another detector, with the terms "
            f"{', '.join(calibration.terms)} instead of {', '.join(run.detector.score_terms)}: run "
            f"python -m vtadl_jax.evaluate --workdir {run.workdir}"
        )
