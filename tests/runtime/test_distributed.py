"""Several processes: how they connect, that they train as one, and how they end."""

import json
import os
import signal
import sys
import time

import jax
import numpy as np
import pytest

from tests import cli
from vtadl_jax.benchmarks.measures import started
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.runtime import distributed, sharding


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}, "slurm"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, "tpu"),
        ({"VTADL_DISTRIBUTED": "1"}, "tpu"),
    ],
)
def test_clusters_are_known_by_their_environment(environment, kind):
    assert distributed.cluster_of(environment) == kind


def test_processes_are_numbered_by_flags_or_variables():
    variables = {
        "VTADL_COORDINATOR": "a:1",
        "VTADL_NUM_PROCESSES": "4",
        "VTADL_PROCESS_ID": "2",
    }
    assert distributed.explicit_cluster({}) is None
    assert distributed.explicit_cluster(variables) == ("a:1", 4, 2)
    assert distributed.explicit_cluster(variables, "b:2", 3, 0) == ("b:2", 3, 0)


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({}, ("a:1",), "--coordinator a:1 needs --num_processes N .*, got 0 and -1"),
        ({}, ("a:1", 2, 2), "needs .*, got 2 and 2"),
        ({}, ("a", 2, 0), "--coordinator a: give HOST:PORT"),
        ({"VTADL_COORDINATOR": "a:1", "VTADL_NUM_PROCESSES": "two"}, (), "'two'.*: give numbers"),
    ],
)
def test_what_is_missing_to_start_is_said(environment, flags, message):
    with pytest.raises(UserError, match=message):
        distributed.explicit_cluster(environment, *flags)


class Place(started.Place):
    """Its programs compile as quickly as the tests do."""

    def program(self, command):
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("*.log")))
        variables = cli.environment(self.devices) | {"PYTHON": sys.executable}
        return started.Program(command, self.folder / f"{number}.log", variables)


def scalars(workdir, prefix):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if any(name.startswith(prefix) for name in line)]
    return {row["step"]: row for row in rows}


# Few steps, each of them kept, with noise, so that the parameters can be compared after the first.
BRIEF = {
    "num_train_steps": 3,
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 3,
    "model.mdn.noise_std": 0.2,
}


@pytest.fixture(scope="session")
def two_processes(dataset, shared):
    """A run of two processes with two devices each: its folders and its output."""
    if sys.platform == "win32":
        pytest.skip("launch/local.sh needs bash")

    def place_in(folder):
        return Place(folder, dataset, processes=2, devices=2, settings=BRIEF)

    def train(folder):
        program = place_in(folder).start()
        assert program.wait() == 0, program.text
        return folder, program.text

    folder, text = shared("two processes", train)
    return place_in(folder), text


def stored(place, step=None):
    return load_run(place.workdir, sharding.make_mesh(1), step)


def difference(one, two):
    """The norm of what differs between two trees, as a part of the norm of the second."""
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))
    apart = sum(np.square(a - b).sum() for a, b in pairs)
    return np.sqrt(apart / sum(np.square(b).sum() for _, b in pairs))


@pytest.mark.multiprocess
def test_two_processes_train_as_one_process_does(dataset, two_processes, tmp_path):
    place, text = two_processes
    assert "on 4 cpu devices in 2 processes" in text
    alone = Place(tmp_path, dataset, settings=BRIEF)
    program = alone.start()
    assert program.wait() == 0, program.text
    one, two = (scalars(p.workdir, "train/") for p in (alone, place))
    assert one.keys() == two.keys()
    assert two[1]["train/loss"] == pytest.approx(one[1]["train/loss"], rel=1e-5)
    assert difference(*(stored(p, step=1).variables for p in (place, alone))) < 1e-4
    last = max(one)
    assert two[last]["train/loss"] == pytest.approx(one[last]["train/loss"], rel=1e-2)
    results = [json.loads((p.workdir / "results.json").read_text()) for p in (alone, place)]
    assert results[0]["num_test_images"] == results[1]["num_test_images"]
    assert results[1]["pixel_auroc"] == pytest.approx(results[0]["pixel_auroc"], abs=0.02)


@pytest.mark.multiprocess
def test_one_process_writes(two_processes):
    place, text = two_processes
    assert text.count("images to train") == 1
    rows = (place.workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert steps[-1] == BRIEF["num_train_steps"]


@pytest.mark.multiprocess
def test_a_checkpoint_of_two_processes_is_read_by_one(two_processes):
    place, _ = two_processes
    run = stored(place)
    assert run.step == BRIEF["num_train_steps"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.variables))


@pytest.mark.multiprocess
def test_a_lost_process_ends_the_other_in_bounded_time_and_term_saves(dataset, tmp_path):
    place = Place(tmp_path, dataset, processes=2)
    program = place.start()
    program.until_said("step 3/")
    children = started.children(program.process.pid)
    os.kill(children[-1], signal.SIGKILL)
    struck = time.monotonic()
    assert program.wait() in (distributed.PEER_LOST, 137)
    assert time.monotonic() - struck < distributed.HEARTBEAT_SECONDS + 30
    assert "lost the others" in program.text or "killed" in program.text
    again = place.start()
    again.until_said("step 12/")
    again.process.send_signal(signal.SIGTERM)
    assert again.wait() == 75, again.text
    assert "preempted, saved step" in again.text


@pytest.mark.slow
def test_processes_that_cannot_meet_are_told():
    run = cli.run_cli("vtadl_jax.main", "--config=configs/demo.py", "--coordinator=a")
    assert run.returncode == 2
    assert run.stderr == "error: --coordinator a: give HOST:PORT of process 0\n"
