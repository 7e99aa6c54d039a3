"""The history of a run's updates: which images each added and removed, when, from which run.

`updates.json` in the workdir of an updated run holds the entries of all updates before it, and its
own as the last. Runs that were never updated have none.
"""

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtadl_jax.config import Config
from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json, write_json
from vtadl_jax.training.known_images import Difference, Marks, load_marks
from vtadl_jax.training.stored import checkpoint_steps, load_config

UPDATES = "updates.json"


@dataclasses.dataclass(frozen=True)
class Update:
    """One update.

    when: UTC, ISO 8601, to the second. source, workdir: absolute folders of the run before and of
    the new one. added, removed: training images, name → mark of the content as in images.json.
    num_images: training images after it. steps: of training; 0 for a fit. first_steps: of the run
    that was trained from the start. how: the method's ways against forgetting, in words.
    """

    when: str
    source: str
    workdir: str
    added: Mapping[str, str] = dataclasses.field(default_factory=dict)
    removed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    num_images: int = 0
    steps: int = 0
    first_steps: int = 0
    how: str = ""


def load_updates(workdir: Path) -> list[Update]:
    """Returns the updates of a run, oldest first; none for a run that was not updated.

    Raises UserError for a file that can't be read.
    """
    path = workdir / UPDATES
    try:
        stored = read_json(path)["updates"]
        known = {field.name for field in dataclasses.fields(Update)}
        found = [Update(**{k: v for k, v in entry.items() if k in known}) for entry in stored]
        for entry in found:
            if not all(isinstance(each, dict) for each in (entry.added, entry.removed)):
                raise ValueError("images without names")
        return found
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} can't be read as the updates of a run ({error}): take it from a copy of the "
            f"run, or remove it to forget the history"
        ) from error


def record_update(
    source: Path, workdir: Path, now: Marks, steps: int, first_steps: int, how: str = ""
) -> None:
    """Writes the history of a new run, unless it has one: an interrupted update that continues.

    source: folder of the run before. now: the marks of the new run's images.
    """
    if (workdir / UPDATES).is_file():
        return
    before = (load_marks(source) or {"train": {}})["train"]
    found = Difference.between(before, now["train"])
    changed = (*found.added, *found.changed)
    entry = Update(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=str(source.resolve()),
        workdir=str(workdir.resolve()),
        added={name: now["train"][name] for name in changed},
        removed={name: before[name] for name in (*found.removed, *found.changed)},
        num_images=len(now["train"]),
        steps=steps,
        first_steps=first_steps,
        how=how,
    )
    entries: list[dict[str, Any]] = [
        dataclasses.asdict(each) for each in (*load_updates(source), entry)
    ]
    write_json(workdir / UPDATES, {"format": 1, "updates": entries})


def rows_of(updates: list[Update]) -> list[list[str]]:
    """Returns a row of text for each update: number, time, images, steps, folders' names."""
    return [
        [
            str(number),
            each.when.replace("T", " ").replace("+00:00", " UTC"),
            str(len(each.added)),
            str(len(each.removed)),
            str(each.num_images),
            ", ".join(filter(None, (f"{each.steps} steps" if each.steps else "fit", each.how))),
            Path(each.source).name,
            Path(each.workdir).name,
        ]
        for number, each in enumerate(updates, 1)
    ]


HEADER = ["update", "when", "added", "removed", "images", "training", "from", "run"]


def first_steps_of(workdir: Path, config: Config, step: int) -> int:
    """Returns the training steps of the run that was trained from the start.

    step: those of this run's checkpoint. Runs that were updated before there was a history name the
    run before in `start_from`; where that is gone, the steps of the oldest one that is there.
    """
    if updates := load_updates(workdir):
        return updates[0].first_steps
    seen = {workdir.resolve()}
    while config.start_from:
        before = Path(config.start_from).expanduser()
        if before.resolve() in seen or not (steps := checkpoint_steps(before)):
            say(f"note: {printable(before)} is gone, which {workdir} started from: its steps count")
            break
        seen.add(before.resolve())
        workdir, config, step = before, load_config(before), max(steps)
    return step
