"""Says in words what a run trains on, before it starts."""

from collections.abc import Sequence

import jax

from vtadl_jax.data.records import Record
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.text_table import plural
from vtadl_jax.training.division import Division
from vtadl_jax.training.setup import TrainSetup


def announce(setup: TrainSetup) -> None:
    """Prints the numbers of images, masks, steps and devices before training."""
    trained = list({record.name: record for record in setup.records}.values())  # without repeats
    anomalous = sum(record.label for record in trained)
    if anomalous and not setup.assembly.detector.needs:
        say(
            f"note: {anomalous} of the training images are anomalous; detector "
            f"{setup.config.detector!r} trains on them as good images"
        )
    count = jax.process_count()
    processes = f" in {count} processes" if count > 1 else ""
    devices = plural(setup.mesh.size, f"{jax.default_backend()} device")
    repeated = len(setup.records) - len(trained)
    told = [f"{anomalous} of them defective"] if anomalous else []
    if "mask" in setup.assembly.detector.needs:
        told.append(f"{sum(r.mask is not None for r in trained)} with a mask")
    told += [f"defective ones repeated, {len(setup.records)} an epoch"] if repeated else []
    told += ["defective ones half of each batch"] if setup.config.data.balanced_batches else []
    test = f" ({counts_of(setup.test)})" if setup.test else ""
    steps = f"{setup.num_steps} steps" if setup.num_steps else "fitted in one pass, no steps,"
    more = f" ({', '.join(told)})" if told else ""
    say(
        f"{setup.category}: {plural(len(trained), 'image')} to train{more}, "
        f"{calibrating(setup.division)}, {len(setup.test)} to test{test}; {steps} on "
        f"{devices}{processes}; workdir {setup.workdir}"
    )


def calibrating(division: Division) -> str:
    """Returns in words what calibrates."""
    if division.num_folds == 0:
        return f"{len(division.holdout)} to calibrate"
    if division.num_folds == 1:
        return "moved copies of it to scale the scores"
    how = f"{division.num_folds}-fold cross-fitting"
    if division.num_folds == len(division.holdout):
        how = "leave-one-out"
    return f"{len(division.holdout)} of them to calibrate by {how}"


def counts_of(test: Sequence[Record]) -> str:
    """Returns the numbers of good and of defective images and of their masks, in words."""
    defective = [record for record in test if record.label]
    masked = sum(record.mask is not None for record in defective)
    masks = f", {masked or 'none'} with a mask" if defective else ""
    return f"{len(test) - len(defective)} good, {len(defective)} defective{masks}"
