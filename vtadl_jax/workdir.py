"""A run read back from its workdir: what evaluation and prediction need of it.

Nothing here writes, and nothing is read of the images it was trained on.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import sharding, train
from vtadl_jax.calibration import Calibration
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.config import check_values
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.models.detector import Detector
from vtadl_jax.optimizer import make_optimizer

CONFIG, CALIBRATION = "config.json", "calibration.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """variables: of the checkpoint at `step`, replicated over the mesh."""

    workdir: Path
    config: ConfigDict
    detector: Detector
    geometry: Geometry
    variables: Any
    step: int
    calibration: dict | None  # as the checkpoint has it


def load_config(workdir: Path) -> ConfigDict:
    """The config that the run was started with. Raises UserError where there is no run."""
    path = workdir / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UserError(f"{workdir} is not a run, it has no {CONFIG}: train first") from e
    except (OSError, ValueError) as e:
        raise UserError(f"{path} can't be read ({e}): give the workdir of a run") from e
    config = ConfigDict(_tuples(stored)).lock()
    with _of_this_version(path):
        check_values(config)
    return config


@contextmanager
def _of_this_version(path: Path) -> Iterator[None]:
    """A field that the config at `path` lacks is told as what it means."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as e:
        raise UserError(
            f"{path} is not of this version ({' '.join(str(e).split())}): train again"
        ) from e


def _tuples(value):
    """JSON's lists as the tuples that configs are written with."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run would continue there, without touching anything."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def make_geometry(config: ConfigDict) -> Geometry:
    """How images reach the network's size."""
    return Geometry(tuple(config.image_size), tuple(config.data.resize) or None, config.data.fit)


def load_run(workdir: Path, mesh: Mesh, step: int | None = None) -> Run:
    """The checkpoint of `step`, or the newest whole one.

    Raises UserError where the workdir holds none.
    """
    config = load_config(workdir)
    with _of_this_version(workdir / CONFIG):
        detector = make_detector(config)
    make_state = functools.partial(
        train.create_state,
        detector,
        make_optimizer(config.optimizer, 1),
        config.seed,
        config.optimizer.ema_decay,
    )
    everywhere = sharding.replicated(mesh)
    state_like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(make_state),
    )
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint: train first")
    checkpoints = Checkpoints(workdir, writable=False)
    try:
        found = checkpoints.restore(state_like, step=step)
    finally:
        checkpoints.close()
    geometry, calibration = make_geometry(config), found.about["calibration"]
    return Run(workdir, config, detector, geometry, found.state.variables, found.step, calibration)


def load_calibration(run: Run) -> Calibration:
    """That of the last evaluation, if it is of this checkpoint; otherwise the checkpoint's own.

    Raises UserError where there is neither.
    """
    path = run.workdir / CALIBRATION
    if path.is_file() and (calibration := Calibration.load(path)).step == run.step:
        return calibration
    if run.calibration is None:
        raise UserError(
            f"checkpoint {run.step} of {run.workdir} is not calibrated: run python -m "
            f"vtadl_jax.evaluate --workdir {run.workdir}"
        )
    return Calibration.from_dict(run.calibration)
