"""Preemption: when a signal waits for the step, when it does not, and what is saved."""

import os
import signal

import jax
import numpy as np
import pytest

from tests.factory import tiny_config
from tests.training.steps import QUICK
from vtadl_jax import run
from vtadl_jax.errors import Preempted
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.preemption import StopRequest


def tell():
    os.kill(os.getpid(), signal.SIGTERM)


def test_between_steps_it_is_noted_and_elsewhere_it_ends_the_work_at_once():
    stop = StopRequest()
    before = signal.getsignal(signal.SIGTERM)
    with stop.listening():
        with stop.at_steps():
            assert not stop.at_step(1)
            tell()
            assert stop.requested
            assert stop.at_step(2)
            with pytest.raises(Preempted), stop.at_once():
                tell()
        with pytest.raises(Preempted):
            tell()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("moment", ["train", pytest.param("eval", marks=pytest.mark.slow)])
def test_a_run_told_to_stop_saves_and_ends_where_another_does(
    dataset, tmp_path, monkeypatch, moment
):
    config = tiny_config(
        dataset, **QUICK, num_train_steps=6, mesh__data=1, checkpoint_every_steps=0,
        eval_every_steps=3, log_every_steps=1, eval__num_pictures=1,
    )  # fmt: skip
    whole = run.run(config, tmp_path / "whole")
    real = run.MetricWriter.write

    def write(self, step, scalars, prefix):
        real(self, step, scalars, prefix)
        if prefix == moment and step >= 2:
            tell()

    with monkeypatch.context() as patch:
        patch.setattr(run.MetricWriter, "write", write)
        with pytest.raises(Preempted, match="saved step 3" if moment == "eval" else "saved step"):
            run.run(config, tmp_path / "parts")
    assert not (tmp_path / "parts" / "results.json").exists()
    results = run.run(config, tmp_path / "parts")
    assert results["pixel_auroc"] == whole["pixel_auroc"]
    runs = (load_run(tmp_path / name, sharding.make_mesh(1)) for name in ("whole", "parts"))
    for a, b in zip(*(jax.tree.leaves(one.variables) for one in runs), strict=True):
        np.testing.assert_array_equal(a, b)
