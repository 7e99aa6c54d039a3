"""Reading the experiment: the config file, its overrides and what can be wrong with them.

Every mistake becomes a `UserError`. Meaning is checked where the values are used.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vtadl_jax.errors import UserError

# A run may be continued with other values of these; anything else makes it another experiment.
MAY_CHANGE = (
    "num_train_steps",
    "num_epochs",
    "log_every_steps",
    "eval_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_best",
    "data.root",
    "data.cache",
    "data.num_threads",
    "data.prefetch",
    "eval",
    "mesh",
    "train",
    "profile",
)

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="path.py[:argument]; fields are overridden as --config.field=value"
)


def parse_flags(argv: Sequence[str]) -> tuple[ConfigDict, str]:
    """Parse the command line; returns the config, locked, and the config file's stem.

    Raises UserError for an unknown flag or field (the nearest is suggested), a value of the wrong
    type, a missing or faulty config file.
    """
    try:
        rest = flags.FLAGS(list(argv))[1:]
        if not flags.FLAGS["config"].present:
            raise UserError("no config: give --config FILE, for example --config configs/demo.py")
        path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
        if not Path(path).is_file():
            raise UserError(f"--config {path}: {_missing(path)}")
        config = _CONFIG.value
    except flags.Error as e:
        raise UserError(_one_line(e)) from e
    except (AttributeError, KeyError, TypeError, ValueError, ImportError, SyntaxError) as e:
        raise UserError(f"--config: {_one_line(e)}") from e
    if rest:
        raise UserError(f"argument {rest[0]!r} is not understood: flags start with --")
    _check_fields(config, path)
    return config, Path(path).stem


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    # ml_collections nests quoted messages, and only quotes the name of a field it does not have.
    text = " ".join(text.replace("\\n", " ").replace("\\'", "'").split())
    if text.startswith("'"):
        return "unknown field '" + text.strip("'")
    return text


def _missing(path: str) -> str:
    folder = Path(path).parent
    known = [p.as_posix() for p in sorted(folder.glob("*.py")) if p.stem != "__init__"]
    near = difflib.get_close_matches(path, known, 1)
    hint = f"did you mean {near[0]}?" if near else "give the path of a config file"
    return f"no such file: {hint}"


def _check_fields(config: ConfigDict, path: str) -> None:
    """A config must have the fields of configs/default.py, no more and no fewer."""
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config {path}: get_config() must return a ConfigDict")
    try:
        from configs import default
    except ImportError as e:
        raise UserError(
            "configs/default.py can't be imported: run from the folder that holds configs/"
        ) from e
    have, want = (dict(flatten(c)) for c in (config, default.get_config()))
    for name in sorted(have.keys() - want.keys()):
        near = difflib.get_close_matches(name, list(want), 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UserError(f"--config {path}: unknown field {name}{hint}")
    for name in sorted(want.keys() - have.keys()):
        raise UserError(f"--config {path}: field {name} is missing: start from configs/default.py")


_AT_LEAST = {
    "batch_size": 1,
    "num_train_steps": 0,
    "num_epochs": 0,
    "data.anomaly_fraction": 0,
    "data.num_threads": 0,
    "data.prefetch": 0,
    "model.patch_size": 1,
    "model.width": 1,
    "model.depth": 1,
    "model.num_heads": 1,
    "model.mlp_dim": 1,
    "model.decoder.vector_dim": 1,
    "model.norm_epsilon": 0,
    "model.mdn.noise_std": 0,
    "train.accumulate": 1,
    "profile.first_step": 0,
    "profile.num_steps": 0,
    "optimizer.learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.warmup_steps": 0,
    "optimizer.clip_norm": 0,
    "optimizer.ema_decay": 0,
    "log_every_steps": 1,
    "eval_every_steps": 0,
    "checkpoint_every_steps": 0,
    "keep_checkpoints": 1,
    "eval.batch_size": 1,
    "eval.map_sigma": 0,
    "eval.num_bootstrap": 0,
    "eval.num_pictures": -1,
}


def check_values(config: ConfigDict) -> None:
    """Raise UserError for values that no experiment can have; what belongs together is checked
    where it is used."""
    values: dict[str, Any] = dict(flatten(config))
    for name, least in _AT_LEAST.items():
        if not values[name] >= least:
            raise UserError(f"{name} {values[name]}: use {least} or more")
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype {config.dtype!r}: use 'float32' or 'bfloat16'")
    if config.init_pixels not in ("unit", "imagenet"):
        raise UserError(f"init_pixels {config.init_pixels!r}: use 'unit' or 'imagenet'")
    if len(config.image_size) != 2 or min(config.image_size) < 1:
        raise UserError(f"image_size {tuple(config.image_size)}: give height and width, as 512,512")
    if config.data.channels not in (0, 1, 3):
        raise UserError(
            f"data.channels {config.data.channels}: use 3 (RGB), 1 (grey) or 0 (as the images are)"
        )
    if not 0 < config.data.holdout_fraction < 1:
        raise UserError(
            f"data.holdout_fraction {config.data.holdout_fraction}: use more than 0 and less than "
            f"1, for example 0.1: scores are calibrated on the images held out"
        )
    if not 0 <= config.data.test_fraction < 1:
        raise UserError(f"data.test_fraction {config.data.test_fraction}: use 0 to less than 1")
    if not 0 < config.eval.fpr_limit <= 1:
        raise UserError(f"eval.fpr_limit {config.eval.fpr_limit}: use more than 0, at most 1")
    for name in ("image", "pixel"):
        rate = config.eval[f"{name}_false_alarm_rate"]
        if not 0 < rate < 1:
            raise UserError(
                f"eval.{name}_false_alarm_rate {rate}: use more than 0 and less than 1, as 0.05"
            )
    if not config.optimizer.ema_decay < 1:
        raise UserError(f"optimizer.ema_decay {config.optimizer.ema_decay}: use less than 1")


def assume_color(config: ConfigDict) -> None:
    """Where no images tell what `data.channels` 0 is, take the larger."""
    config.data.channels = config.data.channels or 3


def flatten(config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of every leaf, in the config's order; lists come out as tuples."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{name}.")
        else:
            yield name, tuple(value) if isinstance(value, list) else value


def save(config: ConfigDict, path: Path) -> None:
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def check_same_run(config: ConfigDict, path: Path) -> None:
    """Raise UserError unless the config stored at `path` is of the same experiment."""
    stored = dict(flatten(json.loads(path.read_text(encoding="utf-8"))))
    here = dict(flatten(json.loads(json.dumps(config.to_dict()))))
    differing = [
        f"{name} is {stored.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted(stored.keys() | here.keys())
        if stored.get(name) != here.get(name)
        and not any(name == m or name.startswith(f"{m}.") for m in MAY_CHANGE)
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"workdir {path.parent} holds the run of another config: {differing[0]}{more}: "
            f"give another --workdir, or remove that one"
        )
