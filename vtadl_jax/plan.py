"""What a config comes to on this machine: everything of a run that can be wrong is found here,
before anything is written."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import config as config_lib
from vtadl_jax import sharding, train
from vtadl_jax.calibration import check_weights
from vtadl_jax.checkpoint import Best
from vtadl_jax.data.decode import is_grey
from vtadl_jax.data.records import Record, split_holdout
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.feed import Feed, make_feed
from vtadl_jax.fit import check_steps
from vtadl_jax.models import make_detector
from vtadl_jax.models.detector import Detector
from vtadl_jax.ops.augment import Augmentation
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.weights.pretrained import start_from
from vtadl_jax.workdir import CONFIG, has_checkpoint, make_geometry

LOOKED_AT = 16  # images, to tell grey sets from coloured ones
RESULTS = ("image_auroc", "pixel_auroc", "aupro")  # by which a checkpoint can be the best


@dataclasses.dataclass(frozen=True)
class Plan:
    """records: the images to train on; holdout: good ones to calibrate on; test: to evaluate on;
    best: by which number one more checkpoint is kept."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    geometry: Geometry
    augmentation: Augmentation
    detector: Detector
    tx: optax.GradientTransformation
    best: Best | None
    category: str
    records: Sequence[Record]
    holdout: Sequence[Record]
    test: Sequence[Record]
    num_steps: int
    feed: Feed

    def make_state(self) -> train.TrainState:
        """The state that training starts from, in this process's memory."""
        config = self.config
        return train.create_state(self.detector, self.tx, config.seed, config.optimizer.ema_decay)

    def make_step(self, state):
        """`train.make_train_step` for a state, or its shapes."""
        return train.make_train_step(
            self.detector,
            self.tx,
            self.mesh,
            state,
            ema_decay=self.config.optimizer.ema_decay,
            augmentation=self.augmentation,
            parallel=self.config.train.parallel,
            share_update=self.share_update,
        )

    @property
    def share_update(self) -> bool:
        """Whether the optimiser's states are shared out, see `sharding.state_sharding`."""
        return sharding.shares_update(self.config.train)


def make_plan(config: ConfigDict, workdir: Path) -> Plan:
    """Check a config against itself, the devices, the data and the workdir. Raises UserError."""
    config_lib.check_values(config)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_parallel(config.train.parallel, mesh)
    sharding.check_batch("batch_size", config.batch_size, mesh, config.train.accumulate)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    splits = None
    if config.data.channels == 0:  # otherwise a config's mistakes are told before its data's
        splits = load_splits(config)
        config = with_channels(config, splits.train)
    check_workdir(workdir, config)
    geometry = make_geometry(config)
    augmentation = Augmentation(**config.data.augment)
    detector = make_detector(config)
    if not has_checkpoint(workdir):
        detector = start_from(detector, config)
    check_weights(config.eval.term_weights, detector.score_terms)
    best = best_by(config.keep_best, detector.score_terms)
    splits = splits or load_splits(config)
    records, holdout = split_holdout(splits.train, config.data.holdout_fraction, config.seed)
    num_steps = config.num_train_steps or config.num_epochs * len(records) // config.batch_size
    check_steps(detector, num_steps)
    return Plan(
        config=config,
        workdir=workdir,
        mesh=mesh,
        geometry=geometry,
        augmentation=augmentation,
        detector=detector,
        tx=make_optimizer(config.optimizer, num_steps),
        best=best,
        category=splits.category,
        records=records,
        holdout=holdout,
        test=splits.test,
        num_steps=num_steps,
        feed=make_feed(config, records, geometry, mesh),
    )


def with_channels(config: ConfigDict, records: Sequence[Record]) -> ConfigDict:
    """The config with `data.channels` 0 settled: 1 if a few images, spread over all, are grey."""
    few = np.linspace(0, len(records) - 1, min(LOOKED_AT, len(records))).astype(int)
    config = config.copy_and_resolve_references()
    config.data.channels = 1 if all(is_grey(records[i].image) for i in few) else 3
    return config


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Raise UserError if the folder of a run is taken by something else."""
    stored = workdir / CONFIG
    if stored.exists():
        config_lib.check_same_run(config, stored)
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"workdir {workdir} exists and is not a run: give another --workdir")


def best_by(name: str, terms: Sequence[str]) -> Best | None:
    """What `keep_best` asks for. Raises UserError for a name that no run has."""
    name = name or terms[0]
    if name == "none":
        return None
    if name not in (*terms, *RESULTS):
        known = ", ".join((*terms, *RESULTS))
        raise UserError(f"keep_best {name!r}: use one of {known}, or 'none'")
    return Best(name, largest=name in RESULTS)
