"""The schema of a config: every field that experiments share, with meaning, unit, range and role.

`Config` and its groups are frozen dataclasses; the program reads nothing else. A detector's own
options (`Config.model`) are a dataclass beside the detector. What can be done with options is in
`options.py`; what needs to know the detectors is in `experiment.py`.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from vtadl_jax.config_data import LARGEST_SIDE, DataOptions
from vtadl_jax.errors import UserError
from vtadl_jax.options import fields_of, option

LARGEST_BATCH = 2**20  # images
MOST_SCALES = 8  # of windows


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
    start_from: str = option(
        "",
        "workdir of a run of the same method and sizes whose weights and statistics this one "
        "starts from, in place of a fit; empty: none",
        compiled=False,
    )
    start_penalty: float = option(
        0.0,
        "elastic weight consolidation: strength of the penalty on leaving the weights of "
        "start_from, by the Fisher information of its images; 0: none",
        at_least=0,
    )
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
FOUND = {
    "data.channels": 0,
    "data.orientations": "auto",
    "data.trimmed": (),
    "eval.cross_fit": "auto",
}


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


def check_windows(config: Config) -> None:
    """Raises UserError for windows that do not fit the other fields; without windows, never."""
    windows, data, size = config.data.windows, config.data, config.image_size
    if not windows.side:
        return
    side, where = windows.side, f"data.windows.side {windows.side}"
    if size[0] != size[1]:
        raise UserError(
            f"{where}: windows are square and image_size {size} is not: use "
            f"--config.image_size={min(size)},{min(size)}"
        )
    if side < size[0]:
        raise UserError(
            f"{where}: windows are smaller than image_size {size} and would be enlarged: use "
            f"{size[0]} or more, or a smaller image_size"
        )
    if data.regions:
        raise UserError(
            f"data.regions {data.regions}: is of whole images, and {where} cuts them into windows: "
            f"leave one of them out"
        )
    if side % windows.map_stride:
        raise UserError(
            f"data.windows.map_stride {windows.map_stride} does not divide {where}: use a divisor, "
            f"as {math.gcd(side, windows.map_stride)}"
        )
    if windows.map_stride > side // 8:
        raise UserError(
            f"data.windows.map_stride {windows.map_stride}: a window of {side} pixels has fewer "
            f"than 8 values a side: use {side // 8} or less"
        )
    if len(set(windows.scales)) != len(windows.scales) or len(windows.scales) > MOST_SCALES:
        raise UserError(
            f"data.windows.scales {windows.scales}: give up to {MOST_SCALES} different factors"
        )
    if data.resize or data.fit != "stretch":
        name = "data.resize" if data.resize else "data.fit"
        raise UserError(
            f"{name} scales whole images, and {where} cuts them into windows: leave it at its "
            f"default, or use data.windows.scales"
        )


def schedule_of(config: Config) -> dict[str, int]:
    """Returns the length of training that results.json stores."""
    return {name: getattr(config, name) for name in ("num_train_steps", "num_epochs")}
