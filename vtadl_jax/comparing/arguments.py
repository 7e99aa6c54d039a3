"""The command line of a method on a category, and the pretrained weights that it names.

A method that needs a frozen encoder takes its own weights if the user gives them; otherwise another
encoder may stand in, which its cells say. This file reads no images and trains nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from vtadl_jax import experiment
from vtadl_jax import options as options_lib
from vtadl_jax.comparing.methods import METHODS, Method
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import EXTRACTORS
from vtadl_jax.selection.sets import ImageSet


@dataclasses.dataclass(frozen=True)
class Weights:
    """Files of pretrained weights that the user gave.

    own: method → files, of the networks that it was published with. encoder, file: what stands in
    for a frozen encoder whose own weights were not given; '' for nothing.
    """

    own: Mapping[str, str] = dataclasses.field(default_factory=dict)
    encoder: str = ""
    file: str = ""


def parse_weights(own: Iterable[str], encoder: str) -> Weights:
    """Returns the weights of METHOD=FILE and of NAME=FILE.

    Raises UserError for unknown methods and encoders, and for absent files.
    """
    files: dict[str, str] = {}
    for text in own:
        name, equals, file = text.partition("=")
        if not equals or name not in METHODS:
            raise UserError(f"--weights {text!r}: give METHOD=FILE, with a name of --methods")
        for one in file.split(","):
            _check_file("--weights", one)
        files[name] = file
    name, equals, file = encoder.partition("=")
    if encoder:
        if not equals or name not in EXTRACTORS:
            hint = options_lib.nearest(name, EXTRACTORS)
            raise UserError(f"--encoder {encoder!r}: give NAME=FILE, with an encoder's name{hint}")
        _check_file("--encoder", file)
    return Weights(files, name, file)


def _check_file(flag: str, file: str) -> None:
    if not Path(file).expanduser().is_file():
        raise UserError(f"{flag}: no file {file!r}: see docs/weights.md")


def weights_of(method: Method, weights: Weights) -> tuple[tuple[str, ...], str, str]:
    """Returns flags of config fields, 'yes', 'no' or 'stand-in', and a line about the weights.

    Raises UserError if the method can't do without a file that was not given.
    """
    if method.name in weights.own:
        what = method.encoder or method.optional or "its network"
        init = f"--config.init_from={weights.own[method.name]}"
        return (init,), "yes", f"pretrained weights of {what}"
    if method.encoder:
        if not weights.file:
            raise UserError(
                f"{method.name} needs the pretrained weights of {method.encoder}: give "
                f"--weights={method.name}=FILE, or --encoder=NAME=FILE for another that stands in "
                f"(docs/weights.md)"
            )
        init = f"--config.init_from={weights.file}"
        if weights.encoder == method.encoder:
            return (init,), "yes", f"pretrained weights of {method.encoder}"
        features = f"--config.model.features={weights.encoder}"
        line = f"{weights.encoder} stands in for {method.encoder}, whose weights were not given"
        return (features, init), "stand-in", line
    if method.optional:
        line = f"{method.optional} start from random values: their weights were not given"
        return (), "no", line
    return (), "no", ""


def arguments_of(method: Method, image_set: ImageSet, weights: Weights, gap: int) -> list[str]:
    """Returns the arguments of `python -m vtadl_jax.main` that train a method on a set."""
    fields = [flag.replace("{gap}", str(gap)) for flag in method.fields]
    more, _, _ = weights_of(method, weights)
    names = {flag.partition("=")[0] for flag in more}
    kept = [flag for flag in fields if flag.partition("=")[0] not in names]
    config = method.config.replace("{category}", image_set.category)
    return ["--config", config.rstrip(":"), *kept, *more, *image_set.flags]


def config_of(arguments: list[str]) -> Config:
    """Returns the config of `arguments_of`. Raises UserError for what can't be read."""
    return experiment.load(arguments[1], arguments[2:])[0]
