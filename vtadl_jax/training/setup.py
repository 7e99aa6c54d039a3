"""Builds a run from a config and checks all of it, before anything is written."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from vtadl_jax import config as config_lib
from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.changes import leave_out_trimmed
from vtadl_jax.data.decode import is_grey
from vtadl_jax.data.depth import bits_warning
from vtadl_jax.data.records import Record, Splits, repeat_anomalies
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector, term_weights
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.lock import is_empty
from vtadl_jax.training.assembly import Assembly, assemble, load_pretrained
from vtadl_jax.training.checkpoint import Best
from vtadl_jax.training.division import Division, decide, divide
from vtadl_jax.training.feed import TrainFeed, make_feed
from vtadl_jax.training.fitting import check_steps
from vtadl_jax.training.known_images import Marks, check_images_of_run, marks_of
from vtadl_jax.training.large_images import (
    check_detector,
    crops_to_train,
    describe_windows,
    make_feed_geometry,
    needs_of,
    say_crops,
)
from vtadl_jax.training.regions import check_regions, read_regions
from vtadl_jax.training.stored import CONFIG, has_checkpoint, load_config, make_geometry
from vtadl_jax.training.trimming import check_trim, trim
from vtadl_jax.weights.files import read_files

LOOKED_AT = 16  # number of images that decide between grey and colour
Read = Callable[[Config, Collection[str]], Splits]  # (config, what the detector needs) → images
RESULTS = ("image_auroc", "pixel_auroc", "aupro")  # metrics that keep_best may name


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """Everything that a run needs.

    records: training images; holdout: good images for calibration; division: what these are used
    for; test: test images; marks: of all images, to know them again; best: the metric that selects
    one more checkpoint to keep.
    """

    config: Config
    workdir: Path
    mesh: Mesh
    geometry: Geometry
    assembly: Assembly
    best: Best | None
    category: str
    records: Sequence[Record]
    holdout: Sequence[Record]
    division: Division
    test: Sequence[Record]
    marks: Marks
    num_steps: int
    feed: TrainFeed

    @property
    def fitted(self) -> Sequence[Record]:
        """The images that a fit takes: the training images, with copies of them if these count as
        good."""
        return self.division.with_copies(self.records)


def make_setup(config: Config, workdir: Path, read: Read = load_splits) -> TrainSetup:
    """Checks a config, the devices, the data and the workdir, and returns the set-up of the run.

    read: returns the images. Raises UserError; for mistakes in the config before any data are read
    or drawn.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_parallel(config.train.parallel, mesh)
    sharding.check_batch("batch_size", config.batch_size, mesh, config.train.accumulate)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    geometry = make_geometry(config)
    check_workdir(workdir, config)
    detector = make_detector(config)
    window_lines = check_detector(config, detector)
    term_weights(config, detector)
    best = best_by(config.keep_best, detector.score_terms)
    if config.num_train_steps or not config.num_epochs:
        check_steps(detector, config.num_train_steps)
    if config.data.balanced_batches and config.data.repeat_anomalies:
        raise UserError(
            "data.repeat_anomalies adds nothing to data.balanced_batches, which draws as many "
            "anomalous images as good ones: switch one of them off"
        )
    check_regions(config, workdir)
    pretrained = None if has_checkpoint(workdir) else read_pretrained(config, detector)
    config = with_trimmed(config, workdir)
    splits = read(config, detector.needs)
    if config.data.trimmed:
        splits = leave_out_trimmed(splits, config.data.trimmed)
    elif config.data.trim:
        config, splits, lines = trim(config, splits, pretrained)
        for line in lines:
            say(line)
    warning = bits_warning([record.image for record in splits.train], config.data.bits)
    if warning is not None:
        say(f"warning: {warning}")
    if config.data.channels == 0:
        config = with_channels(config, splits.train)
        detector = make_detector(config)
    check_workdir(workdir, config)
    marks = marks_of(splits)
    if has_checkpoint(workdir):
        stored = load_config(workdir)
        for line in check_images_of_run(workdir, config, stored, marks):
            say(line)
        config = as_decided(config, stored)
    check_supervision(detector, config, splits.train)
    regions, lines = read_regions(config, splits, workdir)
    geometry = make_geometry(config, regions)
    config, decided = decide(config, detector, splits.train)
    of_windows = describe_windows(config, splits.train + splits.test)
    for line in (*lines, *decided, *window_lines, *of_windows):
        say(line)
    division = divide(config, splits.train)
    records: Sequence[Record] = division.records
    if config.data.repeat_anomalies:
        records = repeat_anomalies(records)
    takes_steps = bool(config.num_train_steps or config.num_epochs)
    crops = crops_to_train(config, records) if takes_steps else records
    num_steps = config.num_train_steps or config.num_epochs * len(crops) // config.batch_size
    check_steps(detector, num_steps)
    for line in say_crops(config, crops) if num_steps else ():
        say(line)
    return TrainSetup(
        config=config,
        workdir=workdir,
        mesh=mesh,
        geometry=geometry,
        assembly=assemble(config, num_steps, detector, pretrained),
        best=best,
        category=splits.category,
        records=records,
        holdout=division.holdout,
        division=division,
        test=splits.test,
        marks=marks,
        num_steps=num_steps,
        feed=make_feed(
            config,
            crops,
            make_feed_geometry(config, regions),
            mesh,
            needs_of(config, detector),
            num_steps > 0,
        ),
    )


def as_decided(config: Config, stored: Config) -> Config:
    """Returns the config with what the stored run decided about its images where it says 'auto'.

    Runs of earlier versions held images out and added no copies.
    """
    fields: dict[str, str] = {}
    for name, value in (("data.orientations", "none"), ("eval.cross_fit", "off")):
        group, field = name.split(".")
        if getattr(getattr(config, group), field) == "auto":
            before = getattr(getattr(stored, group), field)
            fields[name] = value if before == "auto" else before
    return options_lib.replace(config, fields)


def with_trimmed(config: Config, workdir: Path) -> Config:
    """Returns the config with the images that the run of the workdir, if it has one, left out.

    Raises UserError for names without `data.trim`.
    """
    if config.data.trim and not config.data.trimmed and (workdir / CONFIG).exists():
        stored = load_config(workdir)
        return options_lib.replace(config, {"data.trimmed": stored.data.trimmed})
    check_trim(config)
    return config


def read_pretrained(config: Config, detector: Detector) -> Mapping[str, np.ndarray] | None:
    """Returns the arrays of `init_from`, None if it is empty; says what starts from random values.

    Raises UserError for a file that can't be read or does not fit the detector, for a detector that
    takes no weights, and if the detector needs weights and `init_from` is empty.
    """
    if not config.init_from:
        if detector.pretrained_required:
            raise UserError(
                f"init_from is empty: detector {config.detector!r} with these options needs "
                f"pretrained weights: give --config.init_from=FILE (docs/weights.md)"
            )
        say_random(detector, ())
        return None
    if detector.load_pretrained is None:
        raise UserError(
            f"init_from: detector {config.detector!r} takes no pretrained weights: leave it empty"
        )
    arrays = read_files(config.init_from)
    # From shapes alone, so that a wrong file fails before data are read.
    check_pretrained(detector, arrays, config.init_from)
    say_random(detector, arrays)
    return arrays


def say_random(detector: Detector, arrays: Collection[str]) -> None:
    """Says which pretrained parts of a detector are not among the arrays."""
    for line in detector.pretrained_notes(arrays) if detector.pretrained_notes else ():
        say(f"warning: {line}")


def check_pretrained(detector: Detector, arrays: Mapping[str, np.ndarray], path: str) -> None:
    """Raises UserError for arrays that do not fit the detector; computes nothing."""
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    load_pretrained(detector, shapes, arrays, path)


def check_supervision(detector: Detector, config: Config, records: Sequence[Record]) -> None:
    """Raises UserError if a detector learns from defects and the training images have none."""
    if detector.needs and not any(record.label for record in records):
        needed = " and ".join(f"{name}s" for name in sorted(detector.needs))
        raise UserError(
            f"detector {config.detector!r} learns from {needed} of defects, and all training "
            f"images are good: use --config.data.anomaly_fraction=0.1, which moves that many of "
            f"the defective test images per good image to training"
        )


def with_channels(config: Config, records: Sequence[Record]) -> Config:
    """Returns the config with `data.channels` 0 replaced: by 1 if all of a few images, spread over
    the data set, are grey, else by 3."""
    few = np.linspace(0, len(records) - 1, min(LOOKED_AT, len(records))).astype(int)
    grey = all(is_grey(records[i].image, config.data.bits) for i in few)
    return options_lib.replace(config, {"data.channels": 1 if grey else 3})


def check_workdir(workdir: Path, config: Config) -> None:
    """Raises UserError if the workdir holds another run or other files."""
    if (workdir / CONFIG).exists():
        config_lib.check_same_run(config, load_config(workdir), workdir)
    elif workdir.exists() and (not workdir.is_dir() or not is_empty(workdir)):
        raise UserError(f"workdir {workdir} exists and is not a run: give another --workdir")


def best_by(name: str, terms: Sequence[str]) -> Best | None:
    """Returns the metric that `keep_best` names. Raises UserError for an unknown name."""
    name = name or terms[0]
    if name == "none":
        return None
    if name not in (*terms, *RESULTS):
        known = ", ".join((*terms, *RESULTS))
        raise UserError(f"keep_best {name!r}: use one of {known}, or 'none'")
    return Best(name, largest=name in RESULTS)
