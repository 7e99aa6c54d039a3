"""Prints what a run would do and take, before it runs: images, steps, time, memory, folder.

Sets the run up as `run` does, with the same checks and errors, and writes nothing.
"""

from pathlib import Path

import jax

from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.estimates import Estimate, Measured, estimate
from vtadl_jax.runtime.console import format_duration, say
from vtadl_jax.runtime.distributed import is_main
from vtadl_jax.runtime.text_table import paragraph, plural, table
from vtadl_jax.sweep import each_category
from vtadl_jax.training.large_images import crops_to_train
from vtadl_jax.training.setup import TrainSetup
from vtadl_jax.training.stored import CONFIG

NOT_INCLUDED = "metrics, the range of the training images, pictures, saving of checkpoints"


def dry_run(config: Config, workdir: Path) -> Estimate:
    """Prints what a run would do and take; returns it. Raises UserError as the run would."""
    say("dry run: nothing is trained and nothing is written")
    found = estimate(config, workdir)
    if is_main():
        print("\n".join(lines_of(found)), flush=True)
    return found


def dry_run_all(config: Config, workdir: Path) -> list[Estimate]:
    """Prints a line for every category that a run of all would train, and their total.

    Measures once for all categories whose images have the same number of channels.
    """
    say("dry run: nothing is trained and nothing is written")
    measured: dict[int, Measured] = {}
    found = []
    for one, folder in each_category(config, workdir):
        try:
            found.append(estimate(one, folder, measured))
        except UserError as error:
            raise UserError(f"{folder.name}: {error}") from error
    if is_main():
        print("\n".join(lines_of_all(found)), flush=True)
    return found


def lines_of(found: Estimate) -> list[str]:
    """Returns what a run would take, in lines."""
    setup = found.setup
    rows = [
        ("images", images_line(setup)),
        ("parameters", parameters_line(setup)),
        ("training", training_line(found)),
        *fit_rows(found),
        *step_rows(found),
        ("evaluation", evaluation_line(found)),
        ("compiling", f"{seconds(found.compiling)}, less where the compilation cache has it"),
        ("in all", f"{about(found)}; not included: {not_included(found)}"),
        ("memory", memory_line(found)),
        ("results", workdir_line(found)),
    ]
    return table(("", ""), rows, wrap=1)


def images_line(setup: TrainSetup) -> str:
    (height, width), channels = setup.config.image_size, setup.config.data.channels
    return f"{height}×{width} px, {'grey' if channels == 1 else 'colour'}"


def parameters_line(setup: TrainSetup) -> str:
    """Returns the numbers of parameters by kind."""
    shapes = setup.assembly.shapes

    def count(tree) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    trained = "trained by steps" if setup.num_steps else "fitted"
    kinds = {
        trained: count(shapes.params) + (0 if setup.num_steps else count(shapes.stats)),
        "frozen": count(shapes.frozen),
        "statistics": count(shapes.stats) if setup.num_steps else 0,
    }
    return ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)


def training_line(found: Estimate) -> str:
    setup, size = found.setup, found.setup.config.batch_size
    if not setup.num_steps:
        return "fitted in one pass over the images, no steps"
    epochs = setup.num_steps * size / len(crops_to_train(setup.config, setup.records))
    left = f"; {plural(found.steps_left, 'step is', 'steps are')} left" if found.done else ""
    return (
        f"{plural(setup.num_steps, 'step')} of {plural(size, 'image')}, {epochs:.1f} epochs{left}"
    )


def fit_rows(found: Estimate) -> list[tuple[str, str]]:
    cost = found.measured.fit
    if cost is None:
        return []
    folds = found.setup.division.num_folds
    if found.done is not None:
        again = f"; to calibrate, fitted again in {folds} folds" if folds > 1 else ""
        return [("fit", f"done{again}")]
    again = f", once and for each of {folds} folds," if folds > 1 else ""
    windows = f" of about {found.windows_each} windows" if found.windows_each else ""
    return [
        (
            "fit",
            f"about {seconds(found.fitting)} to gather features of "
            f"{plural(len(found.setup.fitted), 'image')}{windows} (mean of "
            f"{plural(cost.count, 'batch', 'batches')}: {seconds(cost.seconds)}); solving on the "
            f"host comes after it{again} and is not included",
        )
    ]


def step_rows(found: Estimate) -> list[tuple[str, str]]:
    cost, mesh = found.measured.steps, found.setup.mesh
    if cost is None:
        return []
    return [
        (
            "time of steps",
            f"about {seconds(found.training)} on "
            f"{plural(mesh.size, f'{jax.default_backend()} device')} ({seconds(cost.seconds)} a "
            f"step, mean of {cost.count} after one to warm up, reading of images included)",
        )
    ]


def evaluation_line(found: Estimate) -> str:
    cost = found.measured.scoring
    return (
        f"about {seconds(found.scoring)} to score "
        f"{plural(found.scored_batches, 'batch', 'batches')} of "
        f"{plural(found.setup.config.eval.batch_size, 'image')} ({seconds(cost.seconds)} for one)"
    )


def about(found: Estimate) -> str:
    return f"{'at least' if solves(found) else 'about'} {seconds(found.total)}"


def solves(found: Estimate) -> bool:
    """Whether the run would solve a fit on the host, which is not measured."""
    return found.measured.fit is not None and found.done is None


def not_included(found: Estimate) -> str:
    return f"solving the fit, {NOT_INCLUDED}" if solves(found) else NOT_INCLUDED


def memory_line(found: Estimate) -> str:
    """Returns what the compiler plans for the largest program, and what was used."""
    costs = [cost for cost in (found.measured.fit, found.measured.steps) if cost and cost.memory]
    told = []
    if costs:
        memory = max((cost.memory for cost in costs), key=lambda memory: sum(memory.values()))
        what = "step" if found.measured.steps else "pass"
        told.append(
            f"per device {mib(memory['state'])} of state and images and "
            f"{mib(memory['temporary'])} of temporary buffers in the {what}, as compiled"
        )
    stats = [device.memory_stats() or {} for device in found.setup.mesh.local_devices]
    if peak := max(s.get("peak_bytes_in_use", 0) for s in stats):
        told.append(f"{mib(peak)} on a device at its peak, measured")
    told.append(f"this process had {mib(found.measured.peak)} of host memory at its peak, measured")
    return "; ".join(told)


def workdir_line(found: Estimate) -> str:
    """Returns where the results would be, and what is there."""
    workdir, done, last = found.setup.workdir, found.done, found.setup.num_steps
    if done is None:
        there = "holds a run without a checkpoint" if (workdir / CONFIG).is_file() else "is new"
        return f"in {workdir}, which {there}"
    if done < last:
        return f"in {workdir}, which holds a run: continues from step {done}"
    return f"in {workdir}, which holds a run that is complete at step {done}: is evaluated again"


def lines_of_all(found: list[Estimate]) -> list[str]:
    """Returns a table with a row for each category, and the total."""
    if not found:
        return ["every category is complete"]
    header = ("category", "train", "holdout", "test", "steps left", "about", "folder")
    rows = []
    for one in found:
        setup = one.setup
        counts = (len(setup.records), len(setup.holdout), len(setup.test), one.steps_left)
        state = "new" if one.done is None else f"from step {one.done}"
        rows.append(
            (
                setup.workdir.name,
                *map(str, counts),
                format_duration(one.total),
                f"{setup.workdir}, {state}",
            )
        )
    total = format_duration(sum(one.total for one in found))
    steps = str(sum(one.steps_left for one in found))
    rows.append(("all", "", "", "", steps, total, ""))
    right = (False, True, True, True, True, True, False)
    return [
        *table(header, rows, right=right),
        *paragraph(
            "times are measured on the first category and include reading, compiling and scoring; "
            f"not included: {not_included(found[0])}",
            "  ",
        ),
        *table(("", ""), [("memory", memory_line(found[0]))], wrap=1),
    ]


def seconds(value: float) -> str:
    """Returns '0.12s', or as `format_duration` from ten seconds."""
    return f"{value:.2g}s" if value < 10 else format_duration(value)


def mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
