"""The benchmark of forgetting: its tasks, its rows, and one small run of every way."""

import json

import numpy as np
import pytest

from vtadl_jax.benchmarks import forgetting
from vtadl_jax.benchmarks.forgetting import Sizes, Task

SIZES = Sizes(side=32, images=8, steps=2, batch=4, rate=1e-3, seed=0)


def task(name, level):
    images = np.full((8, 32, 32, 3), level, np.uint8)
    return Task(name, images, images[:4], np.array([0, 0, 1, 1]))


def test_what_was_lost_is_the_difference_to_when_it_was_learned():
    table = [[(0.9, 0.1), (0.5, 9.0)], [(0.6, 0.4), (0.8, 0.2)]]
    row = forgetting.row_of(forgetting.TRAINED, "naive", [task("a", 1), task("b", 2)], table)
    assert row["learned"] == [0.9, 0.8]
    assert row["last"] == [0.6, 0.8]
    assert row["forgotten"] == pytest.approx(0.3)
    assert row["error_factor"] == pytest.approx(4)
    line = forgetting.line_of(row)
    assert "| 0.900 → 0.600 | 0.800 → 0.800 | 0.300 | 0.700 | × 4.00 |" in line


def test_darker_images_are_darker():
    dark = forgetting.darkened(task("a", 100))
    assert (dark.train == 60).all()
    assert dark.name == "a, darker"


def test_ways_are_read():
    ways = forgetting.ways_of("naive,ewc", "10,1e4")
    assert ways == [("naive", "naive", 0.0), ("ewc 10", "ewc", 10.0), ("ewc 10000", "ewc", 1e4)]
    with pytest.raises(SystemExit, match="--way none: use naive, replay, ewc"):
        forgetting.ways_of("none", "")


@pytest.mark.slow
def test_replay_draws_half_of_a_batch_from_old_images():
    learner = forgetting.Learner("replay", SIZES)
    seen = []

    def step(state, batch):
        seen.append(sorted(batch["image"][:, 0, 0, 0].tolist()))
        return state, {}

    learner.step = step
    learner.learn(task("a", 10))
    learner.learn(task("b", 20))
    assert seen == [[10] * 4, [10] * 4, [10, 10, 20, 20], [10, 10, 20, 20]]


@pytest.mark.slow
def test_every_way_is_measured(dataset, tmp_path, capsys):
    out = tmp_path / "out.json"
    sizes = ("--side=32", "--images=8", "--steps=2", "--batch=4", "--strength=100")
    arguments = [f"--root={dataset}", "--products=gear,gear", f"--json={out}", *sizes]
    assert forgetting.main(arguments) == 0
    rows = json.loads(out.read_text())["rows"]
    ways = ["naive", "replay", "ewc 100", "all images", "newest alone"]
    assert [row["way"] for row in rows] == ways * 2
    for row in rows:
        assert all(0 <= value <= 1 for value in (*row["learned"], *row["last"]))
    assert capsys.readouterr().out.count("| autoencoder |") == 6
