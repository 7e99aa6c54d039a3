"""The schema of a config: every field that experiments share, with meaning, unit, range and role.

`Config` and its groups are frozen dataclasses; the program reads nothing else. A detector's own
options (`Config.model`) are a dataclass beside the detector. What can be done with options is in
`options.py`; what needs to know the detectors is in `experiment.py`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from vtadl_jax.errors import UserError
from vtadl_jax.options import fields_of, option

LARGEST_SIDE = 16384  # px
LARGEST_BATCH = 2**20  # images


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Random augmentation of training images, in the compiled step."""

    flip_horizontal: bool = option(False, "mirror every second image left and right")
    flip_vertical: bool = option(False, "mirror every second image top and bottom")
    rotation_degrees: float = option(
        0.0, "largest rotation, either way", unit="degrees", at_least=0, at_most=180
    )
    brightness: float = option(
        0.0, "largest sum, as a part of the range, either way", at_least=0, at_most=1
    )
    contrast: float = option(
        0.0, "factor 1 ± up to this, about the image's mean", at_least=0, at_most=1
    )
    saturation: float = option(0.0, "factor 1 ± up to this, about the grey", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Source of the images and how they are resized to the network's size."""

    source: str = option("mvtec_layout", "kind of data set: a name of vtadl_jax.data.sources")
    root: str = option(
        "", "folder of the data, as the source has it", resumable=True, compiled=False
    )
    category: str = option(
        "", "sub-folder, product or normal class; empty: root itself", compiled=False
    )
    defects: tuple[str, ...] = option((), "kinds of defect to test on; empty: all", compiled=False)
    bad: str = option(
        "",
        "source 'folder': folder of defective images, if root holds only good ones",
        resumable=True,
        compiled=False,
    )
    masks: str = option(
        "",
        "source 'folder': folder of their masks, all in it or in the same sub-folders",
        resumable=True,
        compiled=False,
    )
    test_fraction: float = option(
        0.2,
        "share of the good images to test on, for data sets without a split",
        at_least=0,
        below=1,
        compiled=False,
    )
    anomaly_fraction: float = option(
        0.0,
        "anomalous training images per good one, moved from the test images; for detectors that "
        "learn from labels or masks",
        at_least=0,
        compiled=False,
    )
    repeat_anomalies: bool = option(
        False, "repeat anomalous training images to about the number of good ones", compiled=False
    )
    balanced_batches: bool = option(
        False, "every second image of a batch is an anomalous one", compiled=False
    )
    folds: int = option(
        0,
        "cross-validation for detectors that learn from defects: test on one fold of the test "
        "images, train on the defects of the others; 0: none",
        at_least=0,
        limit=1000,
        compiled=False,
    )
    fold: int = option(0, "which of the folds to test on, from 0", at_least=0, compiled=False)
    group_gap: int = option(
        0,
        "folds: images whose numbers, the last in a file's name, are closer than this are of one "
        "part and stay together; 0: every image by itself",
        at_least=0,
        compiled=False,
    )
    balanced_test: bool = option(
        False, "one-class sets: only as many anomalies as normal test images", compiled=False
    )
    test_limit: int = option(
        0,
        "one-class sets: at most that many normal and as many anomalous test images, drawn by "
        "seed, in place of data.balanced_test; 0: no limit",
        at_least=0,
        compiled=False,
    )
    resize: tuple[int, ...] = option(
        (), "(height, width) before the centre crop to image_size; empty: no crop", at_least=1,
        limit=LARGEST_SIDE, counts=(0, 2), unit="px", compiled=False,
    )  # fmt: skip
    fit: str = option(
        "stretch",
        "how an image is scaled to that size; 'pad' and 'crop' keep the aspect",
        choices=("stretch", "pad", "crop"),
        compiled=False,
    )
    channels: int = option(3, "3: RGB, 1: grey, 0: from the training images", choices=(0, 1, 3))
    bits: int = option(
        0,
        "bits per value that the camera gives, in files of 16 or 32 bits; 0: all 16",
        choices=(0, 8, 10, 12, 14, 16),
        compiled=False,
    )
    shots: int = option(
        0,
        "good training images to take, chosen by the seed, for experiments with few; 0: all",
        at_least=0,
        compiled=False,
    )
    orientations: str = option(
        "auto",
        "mirror images and rotations of good images that count as good, for fitted detectors: "
        "'none', some of mirror, flip, rot180, rot90, any (as 'mirror,rot90'), or 'auto': those "
        "that up to 16 good images show to be normal",
        compiled=False,
    )
    holdout_fraction: float = option(
        0.1,
        "share of the good training images held out for calibration; at least 8 images where that "
        "is at most a fifth of them",
        above=0,
        below=1,
        compiled=False,
    )
    cache: str = option(
        "none",
        "where decoded training images are kept: 'host' or 'device' memory",
        choices=("none", "host", "device"),
        resumable=True,
    )
    num_threads: int = option(
        4, "threads that decode images", at_least=0, limit=1024, resumable=True, compiled=False
    )
    prefetch: int = option(
        16, "batches decoded ahead", at_least=0, limit=4096, resumable=True, compiled=False
    )
    augment: AugmentOptions = AugmentOptions()


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Adam, its schedule, clipping and weight average."""

    learning_rate: float = option(1e-4, "peak of the schedule", at_least=0)
    weight_decay: float = option(
        1e-4, "L2, added to the gradient before Adam as torch.optim.Adam does", at_least=0
    )
    schedule: str = option(
        "constant", "learning rate schedule; 'cosine' ends at zero", choices=("constant", "cosine")
    )
    warmup_steps: int = option(0, "linear warm-up from zero", unit="steps", at_least=0)
    clip_norm: float = option(0.0, "largest global gradient norm; 0: no clipping", at_least=0)
    ema_decay: float = option(
        0.0, "decay of the averaged weights for evaluation; 0: no average", at_least=0, below=1
    )


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """Mesh of data × fsdp devices; a batch is sharded over all of them."""

    data: int = option(
        -1, "groups of devices, each with a full copy of the parameters; -1: all devices",
        resumable=True,
    )  # fmt: skip
    fsdp: int = option(
        1, "devices of a group; its parameters and optimizer state are sharded", resumable=True
    )


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a step is split over devices and microbatches; its results do not depend on it."""

    parallel: str = option(
        "jit",
        "'jit': one program, partitioned by the compiler; 'pmap': one program per device",
        choices=("jit", "pmap"),
        resumable=True,
    )
    shard_optimizer: bool = option(
        True, "shard moments and update over all devices (ZeRO-1); 'pmap' keeps them replicated",
        resumable=True,
    )  # fmt: skip
    accumulate: int = option(
        1,
        "number of microbatches that a batch is split into",
        at_least=1,
        limit=LARGEST_BATCH,
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """Trace of some steps, written to profile/ in the workdir."""

    first_step: int = option(
        10, "first traced step, from 0 in this process", at_least=0, resumable=True, compiled=False
    )
    num_steps: int = option(
        0, "traced steps; 0: no trace", at_least=0, resumable=True, compiled=False
    )
    memory: bool = option(
        False, "also write a device memory profile for pprof", resumable=True, compiled=False
    )


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Scores, thresholds, metrics and pictures."""

    batch_size: int = option(
        8, "images", at_least=1, limit=LARGEST_BATCH, resumable=True, compiled=False
    )
    map_sigma: float = option(
        4.0, "Gaussian smoothing of the map; 0: none", unit="px", at_least=0,
        limit=LARGEST_SIDE, resumable=True, compiled=False,
    )  # fmt: skip
    term_weights: tuple[float, ...] = option(
        (), "weights of the standardised score terms; empty: the detector's own", resumable=True,
        compiled=False,
    )  # fmt: skip
    original_size: bool = option(
        False, "pixel metrics at each image's original size, without padding", resumable=True,
        compiled=False,
    )  # fmt: skip
    fpr_limit: float = option(
        0.3, "largest false-positive rate of AU-PRO", above=0, at_most=1, resumable=True,
        compiled=False,
    )  # fmt: skip
    image_false_alarm_rate: float = option(
        0.05, "share of good images above the calibrated threshold", above=0, below=1,
        resumable=True, compiled=False,
    )  # fmt: skip
    pixel_false_alarm_rate: float = option(
        0.01, "share of good images' pixels above the calibrated threshold", above=0, below=1,
        resumable=True, compiled=False,
    )  # fmt: skip
    image_threshold: float | None = option(
        None, "fixed threshold of image scores; None: calibrated", resumable=True, compiled=False
    )
    pixel_threshold: float | None = option(
        None, "fixed threshold of map values; None: calibrated", resumable=True, compiled=False
    )
    cross_fit: str = option(
        "auto",
        "calibrate on all good images, each scored by a detector that was fitted without it: 'on', "
        "'off', or 'auto': for fitted detectors with too few images to hold out",
        choices=("auto", "on", "off"),
        compiled=False,
    )
    num_bootstrap: int = option(
        0, "bootstrap resamples for 95 % intervals, for example 1000; 0: none", at_least=0,
        limit=10**6, resumable=True, compiled=False,
    )  # fmt: skip
    num_pictures: int = option(
        200, "number of overlays, spread over the defects; -1: all", at_least=-1, resumable=True,
        compiled=False,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment. model: the options of `detector`, a dataclass of its own."""

    detector: str = option("", "detector: a name of vtadl_jax.detectors")
    seed: int = option(
        0, "seed of parameters, shuffling, noise and the held-out split", at_least=0,
        at_most=2**63 - 1, compiled=False,
    )  # fmt: skip
    image_size: tuple[int, int] = option(
        (512, 512),
        "(height, width) of the network's input",
        unit="px",
        at_least=1,
        limit=LARGEST_SIDE,
    )
    dtype: str = option(
        "float32",
        "dtype of matrix products; 'bfloat16' on accelerators. Densities stay float32",
        choices=("float32", "bfloat16"),
    )
    batch_size: int = option(
        8, "images per step, over all devices", at_least=1, limit=LARGEST_BATCH
    )
    num_train_steps: int = option(
        0, "number of steps; 0: num_epochs decides", at_least=0, resumable=True
    )
    num_epochs: int = option(
        400, "epochs where num_train_steps is 0; both 0: fitted detectors", at_least=0,
        resumable=True,
    )  # fmt: skip
    init_from: str = option(
        "",
        "file of pretrained weights to start from: .npz, .safetensors, .pt; FILE,FILE: of several "
        "networks of a method; empty: random",
        compiled=False,
    )  # fmt: skip
    data: DataOptions = DataOptions()
    model: Any = None
    optimizer: OptimizerOptions = OptimizerOptions()
    mesh: MeshOptions = MeshOptions()
    train: TrainOptions = TrainOptions()
    log_every_steps: int = option(10, "", unit="steps", at_least=1, resumable=True, compiled=False)
    eval_every_steps: int = option(
        0, "0: at the end only", unit="steps", at_least=0, resumable=True, compiled=False
    )
    checkpoint_every_steps: int = option(
        200, "0: at the end only", unit="steps", at_least=0, resumable=True, compiled=False
    )
    keep_checkpoints: int = option(
        2, "number of newest checkpoints to keep", at_least=1, resumable=True, compiled=False
    )
    keep_best: str = option(
        "",
        "also keep the best checkpoint by this: a score term's mean over held-out images (lowest), "
        "or image_auroc, pixel_auroc, aupro (highest); '': the first term, 'none': no best one",
        resumable=True,
        compiled=False,
    )
    profile: ProfileOptions = ProfileOptions()
    eval: EvalOptions = EvalOptions()

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dicts of plain values."""
        return dataclasses.asdict(self)


# Field → the value by which a run decides from its images; it stores its decision, if it has the
# field: runs of earlier versions have not.
FOUND = {"data.channels": 0, "data.orientations": "auto", "eval.cross_fit": "auto"}


def check_same_run(config: Config, stored: Config, workdir: Path) -> None:
    """Raises UserError unless both configs are of one experiment: only resumable fields differ.

    Fields in `FOUND` may have a value that stands for what the stored run found in its images.
    """
    if differing := differences(config, stored):
        name, here, there = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"workdir {workdir} holds the run of another config: {name} is {there!r} there and "
            f"{here!r} here{more}: give another --workdir, or remove that one"
        )


def differences(config: Config, stored: Config) -> list[tuple[str, Any, Any]]:
    """Returns (field, value, stored value) of the fields in which two configs are of two runs."""
    there = {name: value for name, value, _ in fields_of(stored)}
    return [
        (name, value, there.get(name))
        for name, value, role in fields_of(config)
        if not role.resumable
        and FOUND.get(name, ...) not in (value, there.get(name))
        and (name not in there or there[name] != value)
    ]


def schedule_of(config: Config) -> dict[str, int]:
    """Returns the length of training that results.json stores."""
    return {name: getattr(config, name) for name in ("num_train_steps", "num_epochs")}
