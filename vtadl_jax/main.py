"""Train and evaluate: python -m vtadl_jax.main --config configs/mvtec.py --config.data.root=DIR

Exit codes: 0 done, 2 a mistake the user can mend (one line says which), 3 the loss diverged,
75 told to stop (SIGTERM) and saved, 76 another process of the run was lost, 130 interrupted.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from vtadl_jax import config as config_lib
from vtadl_jax import distributed, executables, preemption, sharding, startup, train
from vtadl_jax.allocator import keep_freed_memory
from vtadl_jax.calibration import check_weights
from vtadl_jax.checkpoint import Checkpoints, disk_trouble
from vtadl_jax.commands import quiet_libraries
from vtadl_jax.data.records import split_holdout
from vtadl_jax.data.sources import load_splits
from vtadl_jax.distributed import agree, is_main
from vtadl_jax.errors import Preempted, TrainingDiverged, UserError
from vtadl_jax.feed import make_feed
from vtadl_jax.keeper import Keeper, best_by
from vtadl_jax.models import make_detector
from vtadl_jax.ops.augment import Augmentation
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.preemption import StopRequest
from vtadl_jax.profiling import Profiler
from vtadl_jax.scoring import Evaluator
from vtadl_jax.startup import Stopwatch, watching_cache
from vtadl_jax.sweep import ALL, run_all
from vtadl_jax.weights.pretrained import start_from
from vtadl_jax.workdir import has_checkpoint, make_geometry
from vtadl_jax.writers import MetricWriter, NoWriter, say, silence

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where the run lives; rerunning continues it. Default: runs/<config>-<category>."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, to train with several processes."
)
_SERIALIZE = flags.DEFINE_bool(
    "serialize",
    False,
    "Keep the compiled step beside JAX's cache, and start from it if the same one is kept.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which this is, from 0.")


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Raise UserError if the folder of a run is taken by something else."""
    stored = workdir / "config.json"
    if stored.exists():
        config_lib.check_same_run(config, stored)
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"workdir {workdir} exists and is not a run: give another --workdir")


def open_workdir(workdir: Path, config: ConfigDict) -> None:
    """Make the folder of a run."""
    stored = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        config_lib.save(config, stored)
    except OSError as e:
        raise UserError(f"workdir {workdir}: {e.strerror}: give another --workdir") from e


def run(config: ConfigDict, workdir: Path, serialize: bool = False) -> dict:
    """Train, then evaluate; returns the results. Inputs are checked before anything is written.

    serialize: keep the compiled step for later runs, or take the one that is kept.
    Raises UserError, TrainingDiverged, and Preempted when told to stop.
    """
    watch = Stopwatch()
    watch.lap("imports")
    config_lib.check_values(config)
    keep_freed_memory()
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_parallel(config.train.parallel, mesh)
    sharding.check_batch("batch_size", config.batch_size, mesh, config.train.accumulate)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    check_workdir(workdir, config)
    geometry = make_geometry(config)
    augmentation = Augmentation(**config.data.augment)
    detector = make_detector(config)
    if config.init_from and not has_checkpoint(workdir):
        detector = start_from(detector, config)
    check_weights(config.eval.term_weights, detector.score_terms)
    best = best_by(config.keep_best, detector.score_terms)
    splits = load_splits(config)
    records, holdout = split_holdout(splits.train, config.data.holdout_fraction, config.seed)
    num_steps = config.num_train_steps or config.num_epochs * len(records) // config.batch_size
    tx = make_optimizer(config.optimizer, num_steps)
    feed = make_feed(config, records, geometry, mesh)
    if is_main():
        open_workdir(workdir, config)
    agree(None)
    anomalous = sum(record.label for record in records)
    if anomalous:
        say(f"note: {anomalous} of the training images are anomalous; VT-ADL takes them for good")
    say(
        f"{splits.category}: {len(records)} images to train, {len(holdout)} to calibrate, "
        f"{len(splits.test)} to test; {num_steps} steps on {mesh.size} {jax.default_backend()} "
        f"device(s){_in_processes()}; workdir {workdir}"
    )
    watch.lap("data")
    make_state = functools.partial(
        train.create_state, detector, tx, config.seed, config.optimizer.ema_decay
    )
    stop = StopRequest()
    with contextlib.ExitStack() as open_things:
        cache_use = open_things.enter_context(watching_cache())
        open_things.enter_context(stop.listening())
        checkpoints = Checkpoints(workdir, config.keep_checkpoints, best)
        open_things.callback(checkpoints.close)
        writer = MetricWriter(workdir) if is_main() else NoWriter()
        open_things.callback(writer.close)
        evaluator = Evaluator(config, detector, geometry, mesh)
        keeper = Keeper(workdir, evaluator, holdout, splits.test, checkpoints, writer, feed, stop)
        compile_step = functools.partial(
            _compile_step, config, workdir, detector, tx, mesh, make_state, feed, num_steps,
            augmentation, serialize, watch,
        )  # fmt: skip
        # Beside making or reading the state and the first batch.
        pool = open_things.enter_context(ThreadPoolExecutor(1))
        compiling = None
        if max(checkpoints.steps, default=0) < num_steps:
            compiling = pool.submit(compile_step)
        state = sharding.put_state(mesh, make_state())
        watch.lap("state")
        if checkpoints.steps:
            state = checkpoints.restore(state, feed.iterator).state
            say(f"continuing from step {int(state.step)}")
            watch.lap("checkpoint")
        if int(state.step) < num_steps:
            feed.start()
            step_fn = compile_step() if compiling is None else compiling.result()
            watch.lap("waiting for the compiler")
            profiler = Profiler(workdir, config.profile)
            open_things.callback(profiler.close)

            def on_first_step() -> None:
                watch.lap("first batch and step")
                say(f"{watch}; {cache_use}")

            with stop.at_steps():
                state = train.fit(
                    state,
                    step_fn,
                    feed,
                    num_steps=num_steps,
                    batch_size=config.batch_size,
                    log_every=config.log_every_steps,
                    eval_every=config.eval_every_steps,
                    checkpoint_every=config.checkpoint_every_steps,
                    writer=writer,
                    checkpoints=checkpoints,
                    save=keeper.save,
                    on_eval=keeper.evaluate,
                    stop=stop,
                    profiler=profiler,
                    on_first_step=on_first_step,
                )
        results = keeper.evaluate(state, int(state.step), report=True)
    names = ("report.html", "overview.png", "results.json", "scores.csv")
    say(f"see {', '.join(str(workdir / n) for n in names if (workdir / n).is_file())}")
    return results


def _compile_step(
    config, workdir, detector, tx, mesh, make_state, feed, num_steps, augmentation, serialize, watch
) -> Callable:
    """The train step, compiled for shapes alone, or taken from where it is kept."""
    with watch.aside("compile"):
        shapes = sharding.state_shapes(mesh, jax.eval_shape(make_state))
        make_step = functools.partial(
            train.make_train_step,
            detector,
            tx,
            mesh,
            shapes,
            ema_decay=config.optimizer.ema_decay,
            augmentation=augmentation,
            parallel=config.train.parallel,
        )
        if serialize:
            return executables.kept_step(
                config, workdir, mesh, make_step, shapes, feed.shapes, num_steps
            )
        return train.compile_train_step(make_step(), shapes, feed.shapes)


def _in_processes() -> str:
    count = jax.process_count()
    return f" in {count} processes" if count > 1 else ""


def main(argv: list[str]) -> int:
    quiet_libraries()
    try:
        config, name = config_lib.parse_flags(argv)
        category = config.data.category or Path(config.data.root).name
        default = f"runs/{name}-{category}" if category else f"runs/{name}"
        workdir = Path(_WORKDIR.value or default)
        distributed.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        if not is_main():
            silence()
        startup.use_compilation_cache(workdir.parent)
        if category == ALL:
            run_all(config, workdir, functools.partial(run, serialize=_SERIALIZE.value))
        else:
            run(config, workdir, _SERIALIZE.value)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except TrainingDiverged as e:
        print(f"diverged: {e}", file=sys.stderr)
        return 3
    except Preempted as e:
        print(f"stopped: {e}: rerun the same command to continue", file=sys.stderr)
        return preemption.EXIT_CODE
    except KeyboardInterrupt:
        print(
            "interrupted: rerun the same command to continue from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    except OSError as e:
        if (reason := disk_trouble(e)) is None:
            raise
        print(
            f"error: {e.filename or workdir}: {reason}: make room and rerun the same command to "
            f"continue from the last checkpoint",
            file=sys.stderr,
        )
        return 2
    except jax.errors.JaxRuntimeError as e:
        if not distributed.lost_peer(e):
            raise
        distributed.leave_after_loss(e)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
