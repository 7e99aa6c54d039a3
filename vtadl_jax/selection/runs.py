"""Trains the variants of a plan on a set's good images, and keeps their figures.

A variant is trained on the images that are not held out. The held-out ones, and defects drawn on
them, tell how well it does; with part 'test', the same trained variant scores the test images.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vtadl_jax.config import Config
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.data.sources import load_splits
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.evaluation.selection import DRAWN, NAMES, TEST, Part, measure_part
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.plans import Experiment
from vtadl_jax.run import run
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json, write_json
from vtadl_jax.selection.sets import ImageSet, Prepared, Protocol


def measure(
    variant: Experiment,
    image_set: ImageSet,
    config: Config,
    prepared: Prepared,
    protocol: Protocol,
    wanted: Collection[str],
) -> dict[str, Part]:
    """Trains a variant, unless it is trained, and returns its figures on the wanted parts.

    wanted: of DRAWN and TEST. Parts that are stored are not scored again.
    """
    folder = protocol.workdir / image_set.name / variant.name
    found = {part: load_part(folder, part, variant, protocol) for part in wanted}
    missing = [part for part, value in found.items() if value is None]
    if missing:
        _train(config, folder, prepared)
    for part in missing:
        records = (*prepared.held, *prepared.drawn)
        if part == TEST:
            records = load_splits(config).test
        if not records:
            say(f"note: {image_set.name} has no test images")
            found[part] = Part(dict.fromkeys(NAMES), {}, 0, 0)
        else:
            resamples = protocol.num_resamples if part == DRAWN else 0
            found[part] = _score(config, folder, records, resamples)
        _save_part(folder, part, variant, protocol, found[part])
    if missing:
        jax.clear_caches()  # the programs of this variant; the next has its own
    return {part: value for part, value in found.items() if value is not None}


def _train(config: Config, folder: Path, prepared: Prepared) -> None:
    """Trains a variant, or continues; returns soon if it is trained."""

    def read(config: Config, needs: Collection[str]) -> Splits:
        del needs
        return Splits(prepared.train, (), config.data.category or folder.parent.name)

    run(config, folder, read, report=False)


def _score(config: Config, folder: Path, records: Sequence[Record], num_resamples: int) -> Part:
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    trained = load_run(folder, mesh)
    evaluator = Evaluator(trained.config, trained.detector, trained.geometry, mesh)
    return measure_part(
        evaluator, trained.variables, load_calibration(trained), records, num_resamples
    )


def _about(variant: Experiment, protocol: Protocol) -> dict[str, Any]:
    names = ("held_out", "num_drawn", "num_resamples", "seed")
    return {
        "arguments": list(variant.arguments),
        "protocol": {name: getattr(protocol, name) for name in names},
    }


def load_part(folder: Path, part: str, variant: Experiment, protocol: Protocol) -> Part | None:
    """Returns stored figures, None if there are none.

    Raises UserError if they are those of other arguments or of another protocol.
    """
    path = folder / f"{part}.json"
    try:
        stored: Mapping[str, Any] = read_json(path)
        about = {name: stored[name] for name in ("arguments", "protocol")}
        part_fields = {field.name: stored[field.name] for field in dataclasses.fields(Part)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} can't be read ({error}): remove it to score again") from error
    if about != _about(variant, protocol):
        raise UserError(
            f"{path} holds figures of other arguments or numbers than {variant.command}: give "
            f"another --workdir, or remove {folder}"
        )
    return Part(**part_fields)


def _save_part(
    folder: Path, part: str, variant: Experiment, protocol: Protocol, figures: Part | None
) -> None:
    assert figures is not None
    write_json(
        folder / f"{part}.json", {**_about(variant, protocol), **dataclasses.asdict(figures)}
    )
