"""Train and evaluate: python -m vtadl_jax.main --config configs/mvtec.py --config.data.root=DIR

Exit codes: 0 done, 2 a mistake the user can mend (one line says which), 3 the loss diverged,
130 interrupted.
"""

import functools
import logging
import sys
from pathlib import Path

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from vtadl_jax import config as config_lib
from vtadl_jax import sharding, train
from vtadl_jax.calibration import check_weights
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.data.pipeline import train_iterator
from vtadl_jax.data.sources import Splits, check_images, mvtec_layout, split_holdout
from vtadl_jax.data.synthetic import make_dataset
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import TrainingDiverged, UserError
from vtadl_jax.evaluate import Evaluator, evaluate, say_results
from vtadl_jax.models import make_detector
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.writers import MetricWriter, say, track

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where the run lives; rerunning continues it. Default: runs/<config>-<category>."
)


def load_splits(config: ConfigDict) -> Splits:
    """The images of a config, every header read and every mask's size checked."""
    data = config.data
    if data.source == "synthetic":
        make_dataset(Path(data.root), progress=functools.partial(track, what="draw parts"))
    elif data.source != "mvtec_layout":
        raise UserError(f"data.source {data.source!r}: use 'mvtec_layout' or 'synthetic'")
    splits = mvtec_layout(data.root, data.category)
    check_images(splits)
    return splits


def open_workdir(workdir: Path, config: ConfigDict) -> None:
    """Make the folder of a run, or make sure that it is this config's."""
    stored = workdir / "config.json"
    if stored.exists():
        config_lib.check_same_run(config, stored)
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"workdir {workdir} exists and is not a run: give another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        config_lib.save(config, stored)
    except OSError as e:
        raise UserError(f"workdir {workdir}: {e.strerror}: give another --workdir") from e


def run(config: ConfigDict, workdir: Path) -> dict:
    """Train, then evaluate; returns the results. Inputs are checked before anything is written."""
    config_lib.check_values(config)
    mesh = sharding.make_mesh(config.mesh.data)
    sharding.check_batch("batch_size", config.batch_size, mesh)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    geometry = Geometry(tuple(config.image_size), tuple(config.data.resize) or None)
    detector = make_detector(config)
    check_weights(config.eval.term_weights, detector.score_terms)
    splits = load_splits(config)
    records, holdout = split_holdout(splits.train, config.data.holdout_fraction, config.seed)
    num_steps = config.num_train_steps or config.num_epochs * len(records) // config.batch_size
    tx = make_optimizer(config.optimizer, num_steps)
    data = train_iterator(
        records,
        geometry,
        config.data.channels,
        config.batch_size,
        config.seed,
        config.data.num_threads,
        config.data.prefetch,
    )
    open_workdir(workdir, config)
    say(
        f"{splits.category}: {len(records)} good images to train, {len(holdout)} to calibrate, "
        f"{len(splits.test)} to test; {num_steps} steps on {mesh.size} {jax.default_backend()} "
        f"device(s); workdir {workdir}"
    )
    ema_decay = config.optimizer.ema_decay
    state = train.create_state(detector, tx, config.seed, ema_decay)
    state = jax.device_put(state, sharding.replicated(mesh))
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    writer = MetricWriter(workdir)
    evaluator = Evaluator(config, detector, geometry, mesh)

    def on_eval(state: train.TrainState, step: int) -> None:
        results = evaluate(evaluator, state.variables, holdout, splits.test, step)
        say_results(results)
        numbers = {k: v for k, v in results.items() if isinstance(v, float)}
        writer.write(step, numbers, "eval")

    try:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state, data)
            say(f"continuing from step {int(state.step)}")
        if int(state.step) < num_steps:
            image_shape = (config.batch_size, *config.image_size, config.data.channels)
            state = train.fit(
                state,
                train.compile_train_step(detector, tx, ema_decay, mesh, state, image_shape),
                data,
                mesh,
                num_steps=num_steps,
                batch_size=config.batch_size,
                log_every=config.log_every_steps,
                eval_every=config.eval_every_steps,
                checkpoint_every=config.checkpoint_every_steps,
                checkpoints=checkpoints,
                writer=writer,
                on_eval=on_eval,
            )
        results = evaluate(
            evaluator, state.variables, holdout, splits.test, int(state.step), workdir
        )
        writer.write(
            results["step"], {k: v for k, v in results.items() if isinstance(v, float)}, "eval"
        )
    finally:
        checkpoints.close()
        writer.close()
    say_results(results)
    say(f"see {workdir / 'overview.png'}, {workdir / 'results.json'}, {workdir / 'scores.csv'}")
    return results


def main(argv: list[str]) -> int:
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("orbax").setLevel(logging.ERROR)
    try:
        config, name = config_lib.parse_flags(argv)
        category = config.data.category or Path(config.data.root).name
        workdir = Path(_WORKDIR.value or f"runs/{name}-{category}")
        run(config, workdir)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except TrainingDiverged as e:
        print(f"diverged: {e}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(
            "interrupted: rerun the same command to continue from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
