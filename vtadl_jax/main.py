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
from vtadl_jax.checkpoint import Checkpoints, disk_trouble
from vtadl_jax.commands import quiet_libraries
from vtadl_jax.distributed import agree, is_main, meet
from vtadl_jax.errors import Preempted, TrainingDiverged, UserError
from vtadl_jax.fit import fit_state
from vtadl_jax.keeper import Keeper
from vtadl_jax.plan import Plan, make_plan
from vtadl_jax.preemption import StopRequest
from vtadl_jax.profiling import Profiler
from vtadl_jax.scoring import Evaluator
from vtadl_jax.startup import Stopwatch, watching_cache
from vtadl_jax.sweep import ALL, run_all
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


def open_workdir(workdir: Path, config: ConfigDict) -> None:
    """Make the folder of a run."""
    stored = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        config_lib.save(config, stored)
    except OSError as e:
        raise UserError(f"workdir {workdir}: {e.strerror}: give another --workdir") from e


def run(config: ConfigDict, workdir: Path, serialize: bool = False) -> dict:
    """Train, then evaluate; returns the results.

    serialize: keep the compiled step for later runs, or take the one that is kept.
    Raises UserError, TrainingDiverged, and Preempted when told to stop.
    """
    watch = Stopwatch()
    watch.lap("imports")
    keep_freed_memory()
    plan = make_plan(config, workdir)
    config = plan.config
    if is_main():
        open_workdir(workdir, config)
    agree(None)
    announce(plan)
    watch.lap("data")
    stop = StopRequest()
    with contextlib.ExitStack() as open_things:
        cache_use = open_things.enter_context(watching_cache())
        open_things.enter_context(stop.listening())
        checkpoints = Checkpoints(workdir, config.keep_checkpoints, plan.best)
        open_things.callback(checkpoints.close)
        writer = MetricWriter(workdir) if is_main() else NoWriter()
        open_things.callback(writer.close)
        evaluator = Evaluator(config, plan.detector, plan.geometry, plan.mesh)
        keeper = Keeper(plan, evaluator, checkpoints, writer, stop)
        state, step_fn = prepare_training(plan, checkpoints, serialize, watch)
        if step_fn is not None:
            profiler = Profiler(workdir, config.profile)
            open_things.callback(profiler.close)

            def on_first_step() -> None:
                watch.lap("first batch and step")
                say(f"{watch}; {cache_use}")

            with stop.at_steps():
                state = train.fit(
                    state,
                    step_fn,
                    plan.feed,
                    num_steps=plan.num_steps,
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
        elif not checkpoints.steps:
            keeper.save(state, int(state.step))  # fitted, and no step to train
            checkpoints.wait()
        results = keeper.evaluate(state, int(state.step), report=True)
    names = ("report.html", "overview.png", "results.json", "scores.csv")
    written = [str(workdir / name) for name in names if (workdir / name).is_file()]
    if written:
        say(f"see {', '.join(written)}")
    else:  # no test images
        say(f"score images with python -m vtadl_jax.predict --workdir {workdir} --input DIR")
    return results


def announce(plan: Plan) -> None:
    """Say what is about to happen."""
    anomalous = sum(record.label for record in plan.records)
    if anomalous:
        say(f"note: {anomalous} of the training images are anomalous; VT-ADL takes them for good")
    count = jax.process_count()
    processes = f" in {count} processes" if count > 1 else ""
    say(
        f"{plan.category}: {len(plan.records)} images to train, {len(plan.holdout)} to calibrate, "
        f"{len(plan.test)} to test; {plan.num_steps} steps on {plan.mesh.size} "
        f"{jax.default_backend()} device(s){processes}; workdir {plan.workdir}"
    )


def prepare_training(
    plan: Plan, checkpoints: Checkpoints, serialize: bool, watch: Stopwatch
) -> tuple[train.TrainState, Callable | None]:
    """The state to go on from and the compiled step, None if no step is left; the compiler works
    while the state and the first batch are made or read."""
    with ThreadPoolExecutor(1) as pool:
        compiling = None
        if max(checkpoints.steps, default=0) < plan.num_steps:
            compiling = pool.submit(compile_step, plan, serialize, watch)
        state = plan.make_state()
        if not checkpoints.steps:
            state = fit_state(
                plan.detector, plan.tx, state, plan.records, plan.geometry, plan.config
            )
        state = sharding.put_state(plan.mesh, state, plan.share_update)
        watch.lap("state")
        if checkpoints.steps:
            state = checkpoints.restore(state, plan.feed.iterator).state
            say(f"continuing from step {int(state.step)}")
            watch.lap("checkpoint")
        if int(state.step) >= plan.num_steps:
            return state, None
        plan.feed.start()
        # A damaged newest checkpoint can leave steps to do that were thought done.
        step_fn = compiling.result() if compiling else compile_step(plan, serialize, watch)
    meet("compiled")
    watch.lap("waiting for the compiler")
    return state, step_fn


def compile_step(plan: Plan, serialize: bool, watch: Stopwatch) -> Callable:
    """The train step, compiled for shapes alone, or taken from where it is kept."""
    with watch.aside("compile"):
        shapes = sharding.state_shapes(
            plan.mesh, jax.eval_shape(plan.make_state), plan.share_update
        )
        make_step = functools.partial(plan.make_step, shapes)
        if not serialize:
            return train.compile_train_step(make_step(), shapes, plan.feed.shapes)
        return executables.kept_step(
            plan.config,
            plan.workdir,
            plan.mesh,
            make_step,
            shapes,
            plan.feed.shapes,
            plan.num_steps,
        )


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
