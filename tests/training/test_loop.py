"""The loop around the step: resume, divergence, one compile, and what it logs."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config, with_fields
from tests.training.steps import QUICK
from vtadl_jax import run
from vtadl_jax.errors import TrainingDiverged
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.training import assembly
from vtadl_jax.training import setup as setups
from vtadl_jax.training.loop import check_params
from vtadl_jax.training.step import make_train_step, train_step

LOOP = {**QUICK, "mesh__data": 1, "eval__num_pictures": 1}


def final_state(config, workdir, *lengths):
    """Every leaf of the newest state, after runs to each of `lengths` steps."""
    for steps in lengths:
        run.run(with_fields(config, num_train_steps=steps), workdir)
    setup = setups.make_setup(with_fields(config, num_train_steps=lengths[-1]), workdir)
    checkpoints = run.Checkpoints(workdir, writable=False)
    state = checkpoints.restore(setup.assembly.make_state()).state
    checkpoints.close()
    assert int(state.step) == lengths[-1]
    return jax.tree.leaves(state)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(dataset, tmp_path):
    """Of every detector: tests/test_contract.py."""
    config = tiny_config(dataset, **LOOP, optimizer__ema_decay=0.5)
    whole = final_state(config, tmp_path / "whole", 6)
    parts = final_state(config, tmp_path / "parts", 3, 6)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_nan_stops_the_run_and_names_step_term_and_checkpoint(dataset, tmp_path, monkeypatch):
    real = setups.make_detector

    def broken(config):
        detector = real(config)

        def loss(variables, batch, keys, parallel):
            total, (terms, stats) = detector.loss(variables, batch, keys, parallel)
            # The sixth step's noise key, so the NaN comes in the middle of the run.
            sixth = jax.random.fold_in(jax.random.split(jax.random.key(0))[1], 5)
            bad = keys[0] == jax.random.fold_in(sixth, 0)
            return total, ({**terms, "nll": jnp.where(bad, jnp.nan, terms["nll"])}, stats)

        return dataclasses.replace(detector, loss=loss)

    monkeypatch.setattr(setups, "make_detector", broken)
    config = tiny_config(dataset, **LOOP, num_train_steps=20)
    with pytest.raises(
        TrainingDiverged, match=r"step 6: nll is nan: .* is step 4 in .*checkpoints"
    ):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def test_what_the_last_update_spoils_is_not_saved(dataset, tmp_path):
    config = tiny_config(dataset, **LOOP, num_train_steps=1, optimizer__learning_rate=3e38)
    with pytest.raises(
        TrainingDiverged, match=r"step 1: .*: no checkpoint had been written: use a"
    ):
        run.run(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_is_not_finite_is_named(tmp_path, bad):
    checkpoints = run.Checkpoints(tmp_path)
    state = assembly.assemble(tiny_config(**LOOP), 1).make_state()
    check_params(3, state, checkpoints)
    spoilt = jax.tree.map(lambda x: x.at[..., -1].set(bad), state.params)
    with pytest.raises(TrainingDiverged, match=r"step 3: \['params'\].* is not finite"):
        check_params(3, state.replace(params=spoilt), checkpoints)
    checkpoints.close()


def test_one_run_compiles_one_train_step(dataset, tmp_path, monkeypatch):
    traces = []

    @functools.wraps(train_step)
    def counted(*args, **kwargs):
        traces.append(1)
        return train_step(*args, **kwargs)

    monkeypatch.setattr("vtadl_jax.training.step.train_step", counted)
    monkeypatch.setattr(assembly, "make_train_step", make_train_step)
    run.run(tiny_config(dataset, **LOOP, eval_every_steps=2), tmp_path / "run")
    assert len(traces) == 1


@pytest.mark.slow
def test_what_is_logged_is_the_mean_since_the_last_report(dataset, tmp_path):
    def logged(every):
        workdir = tmp_path / str(every)
        config = tiny_config(
            dataset, **LOOP, num_train_steps=4, log_every_steps=every, checkpoint_every_steps=0
        )
        run.run(config, workdir)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["train/nll"] for line in lines if "train/nll" in line}

    each, rarely = logged(1), logged(2)
    # A report reads the steps before the newest; at the end, all.
    assert each.keys() == {1, 2, 4}
    assert rarely.keys() == {1, 4}
    assert rarely[1] == each[1]
    assert rarely[4] == pytest.approx((each[2] + 2 * each[4]) / 3)


@pytest.mark.slow
def test_the_best_checkpoint_by_a_metric_is_kept(dataset, tmp_path):
    config = tiny_config(
        dataset, **LOOP, num_train_steps=4, checkpoint_every_steps=1, eval_every_steps=1,
        keep_checkpoints=1, keep_best="nll", optimizer__learning_rate=0.05,
    )  # fmt: skip
    run.run(config, tmp_path / "run")
    kept = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    means = {}
    for step in kept:
        found = load_run(tmp_path / "run", step=step)
        means[step] = found.calibration["mean"][0]
    assert kept[-1] == 4
    assert min(means, key=means.get) == kept[0]
