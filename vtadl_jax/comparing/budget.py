"""Fits the length of a training into minutes, by a measured step. Trains nothing else."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import quietly
from vtadl_jax.runtime.files import read_json, write_json
from vtadl_jax.training.measuring import measure_steps
from vtadl_jax.training.setup import make_setup

BUDGET = "budget.json"  # beside the runs of a cell
SAVE_SECONDS = 300  # between checkpoints


@dataclasses.dataclass(frozen=True)
class Budget:
    """The length of a training.

    steps, full_steps: to take, and of the method's config; 0 for a method that is fitted.
    batch_size, images: of a step and of an epoch. step_seconds: mean of `measured` steps, None
    without steps; memory: bytes of the train step by kind, {} if unknown. minutes: of the steps.
    """

    steps: int = 0
    full_steps: int = 0
    batch_size: int = 0
    images: int = 0
    step_seconds: float | None = None
    measured: int = 0
    compile_seconds: float | None = None
    memory: Mapping[str, int] = dataclasses.field(default_factory=dict)
    minutes: float = 0.0

    @property
    def steps_per_epoch(self) -> float:
        return self.images / self.batch_size if self.batch_size else 0.0

    def epochs(self, steps: int) -> float | None:
        """Returns a number of steps in passes over the training images."""
        return steps / self.steps_per_epoch if self.steps_per_epoch else None

    def seconds_of(self, epochs: float) -> float | None:
        """Returns the time of the steps of some epochs, extrapolated from the measured ones."""
        if self.step_seconds is None:
            return None
        return self.step_seconds * self.steps_per_epoch * epochs


def choose_budget(config: Config, folder: Path, minutes: float) -> Budget:
    """Returns the stored budget of a cell, or measures a step and stores it.

    Measured once: a continued run must have the length that it had. Raises UserError as a run, and
    for a cell that was begun with other minutes.
    """
    stored = load_budget(folder)
    if stored is not None and stored.minutes == minutes:
        return stored
    if stored is not None and any(path.is_dir() for path in folder.iterdir()):
        raise UserError(
            f"{folder} holds runs of {stored.minutes:g} minutes of steps each, not {minutes:g}: "
            f"give another --workdir, or remove that folder"
        )
    with quietly():
        found = measure(config, folder / "run", minutes)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / BUDGET, dataclasses.asdict(found))
    return found


def load_budget(folder: Path) -> Budget | None:
    """Returns the stored budget of a cell, None if there is none."""
    path = folder / BUDGET
    try:
        return Budget(**read_json(path))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}): remove {folder} to run again") from error


def measure(config: Config, workdir: Path, minutes: float) -> Budget:
    """Takes a few steps of a run that is not there yet, and writes nothing."""
    setup = make_setup(config, workdir)
    images = len(setup.records)
    if not setup.num_steps:
        return Budget(images=images, minutes=minutes)
    cost, _ = measure_steps(setup, setup.assembly.make_state())
    return Budget(
        steps=min(max(int(minutes * 60 / cost.seconds), 1), setup.num_steps),
        full_steps=setup.num_steps,
        batch_size=config.batch_size,
        images=images,
        step_seconds=cost.seconds,
        measured=cost.count,
        compile_seconds=cost.compiling,
        memory=cost.memory,
        minutes=minutes,
    )


def within(config: Config, budget: Budget) -> Config:
    """Returns the config with the budget's steps; the warm-up is at most a tenth of them."""
    fields: dict[str, Any] = {
        "eval.num_pictures": 0,
        "eval.num_bootstrap": 0,
        "keep_best": "none",
        "keep_checkpoints": 1,
    }
    if budget.steps:
        every = max(int(SAVE_SECONDS / (budget.step_seconds or 1.0)), 1)
        warmup = min(config.optimizer.warmup_steps, budget.steps // 10)
        fields |= {
            "num_train_steps": budget.steps,
            "checkpoint_every_steps": every,
            "optimizer.warmup_steps": warmup,
        }
    return options_lib.replace(config, fields)
