"""Experiments: the schema and the detectors together.

`base` returns the defaults that a config file changes, `load` reads a config file and the command
line's overrides into a `Config`, `parse` reads stored values, and `make_detector` builds the
detector of a config.
"""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vtadl_jax import configs, legacy
from vtadl_jax import options as schema
from vtadl_jax.config import Config, check_windows
from vtadl_jax.detectors import find_method
from vtadl_jax.detectors.consolidation import consolidated
from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import CONFIG_HELP, run_command, split_config
from vtadl_jax.runtime.console import say

PACKAGED = Path(configs.__path__[0])  # experiment files of the checkout or the installed package


def base(detector: str) -> ConfigDict:
    """Returns all fields of an experiment with this detector, at their defaults."""
    config = Config(detector=detector, model=find_method(detector).options())
    return schema.to_config_dict(config).lock()


def parse(values: Mapping[str, Any]) -> Config:
    """Returns nested values as a checked Config. Raises UserError for fields or values that the
    schema does not allow."""
    name = values.get("detector", "")
    if not isinstance(name, str):
        raise UserError(f"detector {name!r}: give the name of a detector")
    method = find_method(name)
    config = schema.read(Config, values, model=method.options)
    check_windows(config)
    return config


def inputs_of(config: Config) -> Inputs:
    """Returns the inputs of an experiment that every detector's `make` receives."""
    return Inputs(
        image_size=config.image_size,
        channels=config.data.channels or 3,  # 0 (not detected yet) becomes RGB
        dtype=config.dtype,
        map_sigma=config.eval.map_sigma,
        microbatches=config.train.accumulate,
        parallel=config.train.parallel,
    )


def make_detector(config: Config) -> Detector:
    """Returns the detector of a config. Raises UserError for options that do not fit together."""
    detector = find_method(config.detector).make(config.model, inputs_of(config))
    if not config.start_penalty:
        return detector
    trained = detector.loss is not None and (config.num_train_steps or config.num_epochs)
    if not trained or not config.start_from:
        why = "start_from is empty" if trained else f"{config.detector!r} takes no steps"
        raise UserError(
            f"start_penalty {config.start_penalty:g} keeps a trained method near the weights of "
            f"start_from, and {why}: leave it at 0"
        )
    return consolidated(detector, config.start_penalty)


def term_weights(config: Config, detector: Detector) -> tuple[float, ...]:
    """Returns the weights of the score terms: the config's, else the detector's own.

    Raises UserError if their number is not the number of terms.
    """
    weights, terms = config.eval.term_weights or detector.term_weights, detector.score_terms
    if len(weights) != len(terms):
        raise UserError(
            f"eval.term_weights {weights}: give {len(terms)} numbers, for {', '.join(terms)}"
        )
    if not any(weights):
        raise UserError(
            f"eval.term_weights {weights}: give one that is not 0: all scores are equal"
        )
    return weights


def assume_color(config: Config) -> Config:
    """Returns the config with `data.channels` 0 (detect from the images) replaced by 3."""
    return schema.replace(config, {"data.channels": config.data.channels or 3})


def load(text: str, overrides: Sequence[str] = ()) -> tuple[Config, str]:
    """Returns the config of 'path.py[:argument]' and its name (`name_of`).

    overrides: flags of fields, as '--config.model.mdn.num_components=40'. Raises UserError for a
    missing or faulty file, an unknown field (the nearest is named) and a value of the wrong type.
    """
    path, _, argument = text.partition(":")
    file = find_file(path)
    config = _from_file(file, [argument] if argument else [])
    category = config.data.get("category", "") if isinstance(config.get("data"), ConfigDict) else ""
    name = name_of(file.stem, argument, str(category))  # what the file makes of its argument
    config = _with_detector(config, overrides)
    config = _overridden(config, _renamed(config, overrides))
    try:
        return parse(config), name
    except UserError as e:
        raise UserError(f"--config {path}: {e}") from e


def name_of(stem: str, argument: str, category: str) -> str:
    """Returns the name of an experiment: the file's stem, and its argument without the category.

    'demo-vtadl' for demo.py:vtadl and demo.py:vtadl-gear, 'mvtec' for mvtec.py:screw.
    """
    rest = re.sub(r"[\\/]+", "-", argument.removesuffix(category).strip("-"))
    return f"{stem}-{rest}" if rest else stem


def find_file(path: str) -> Path:
    """Returns a config file: as given, else of that name among the packaged ones.

    Raises UserError if there is none, naming the nearest.
    """
    name = legacy.FILES.get(Path(path).name, Path(path).name)
    for found in (Path(path), Path(path).with_name(name), PACKAGED / name):
        if found.is_file():
            if found.name != Path(path).name:
                say(f"note: {path} is called {found.name} now")
            return found
    folder = Path(path).parent
    known = [*folder.glob("*.py"), *(Path("configs", p.name) for p in PACKAGED.glob("*.py"))]
    names = {p.as_posix() for p in known if p.stem not in ("__init__", "default")}
    wanted = path if "/" in path else f"configs/{path.removesuffix('.py')}.py"
    hint = schema.nearest(wanted, sorted(names))
    raise UserError(f"--config {path}: no such file{hint or ': give the path of a config file'}")


def _from_file(file: Path, arguments: list[str]) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("vtadl_jax_experiment", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*arguments)
    except UserError:
        raise
    except Exception as e:  # whatever a user's file raises is a mistake in that file
        raise UserError(f"--config {file}: {_one_line(e)}") from e
    if not isinstance(config, ConfigDict) or "detector" not in config:
        raise UserError(f"--config {file}: get_config() must return a ConfigDict made by base()")
    return config


def _with_detector(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Returns the config with the detector that the flags name and its default options."""
    wanted = [o.partition("=")[2] for o in overrides if o.startswith("--config.detector=")]
    name = legacy.DETECTORS.get(wanted[-1], wanted[-1]) if wanted else config.detector
    if name == config.detector:
        return config
    options = find_method(name).options()
    say(f"note: detector {name!r} in place of {config.detector!r}: its options are its defaults")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.detector, config.model = name, schema.to_config_dict(options)
        config.eval.term_weights = ()
    return config


def _renamed(config: ConfigDict, overrides: Iterable[str]) -> list[str]:
    """Returns the flags under today's names. Raises UserError for unknown fields."""
    known = {name for name, _ in schema.flatten(config)}
    found = []
    for flag in overrides:
        name, equals, value = flag.removeprefix("--config.").partition("=")
        name = re.sub(r"\[\d+\]$", "", name)
        if name == "detector":
            continue
        if name not in known:
            new = legacy.renamed(name, config.detector)
            if new not in known:
                detector = f" of detector {config.detector!r}" if name.startswith("model.") else ""
                raise UserError(
                    f"--config.{name}: unknown field{detector}{schema.nearest(name, known)}"
                )
            say(f"note: field {name} is called {new} now")
            name = new
        found.append(f"--config.{name}{equals}{value}")
    return found


def _overridden(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    arguments = ["", *overrides]
    try:
        defined = config_flags.DEFINE_config_dict(
            "config", config.copy_and_resolve_references(), flag_values=values, sys_argv=arguments
        )
        rest = values(arguments)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(_one_line(e)) from e
    if rest:
        raise UserError(f"argument {rest[0]!r} is not understood: flags start with --")
    return defined.value


def run_experiment_command(
    values: flags.FlagValues,
    argv: Sequence[str],
    usage: str,
    run: Callable[[str, list[str]], int | None],
    interrupted: str,
    default: str = "",
) -> int:
    """Runs a command that takes --config and returns its exit code, as `run_command`.

    run: (value of --config, flags of fields) → exit code. default: value of --config if it is not
    given. With a config, --help lists its fields.
    """
    try:
        own, text, overrides = split_config(argv, default)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2

    def fields() -> list[str]:
        if not text:
            return [CONFIG_HELP]
        return [f"fields of {text}:", *schema.describe(load(text, overrides)[0], "config.")]

    return run_command(values, own, usage, lambda: run(text, overrides), interrupted, fields)


def _one_line(error: BaseException) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    # ml_collections nests quoted messages: unescape them.
    text = " ".join(text.replace("\\n", " ").replace("\\'", "'").split())
    return f"{type(error).__name__}: {text}" if isinstance(error, ImportError) else text
