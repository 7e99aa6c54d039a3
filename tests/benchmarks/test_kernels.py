"""The kernels benchmark: mistakes in one line, every measure at a small size, equal results."""

import json
import sys

import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.benchmarks import kernels, timing
from vtadl_jax.benchmarks.peers.jax_mixture import Worker
from vtadl_jax.benchmarks.timing import Candidate, compare, paired_seconds


def needs_torch():
    pytest.importorskip("torch", reason="torch is not installed (extra bench)")


def test_without_torch_it_names_the_extra_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert kernels.main(["--only", "ssim"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: torch can't be imported")
    assert err.rstrip().endswith("pip install 'vtadl_jax[bench]' for the peers")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "ssim,conv"], "--only conv: known are gemm,mixture"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        kernels.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(capsys):
    assert kernels.main(["--json", "nowhere/out.json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: --json nowhere/out.json: nowhere is not a folder: create it first\n"


def test_compare_says_who_differs_and_who_cannot():
    one, other = np.array([1.0, 2.0]), np.array([1.0, 2.1])

    def give_up():
        raise TimeoutError("timed out: no answer in 1 s")

    group = compare(
        "work",
        [
            Candidate("ours", lambda: one, lambda x: [x]),
            Candidate("peer", lambda: other, lambda x: [x], note="fast layout"),
            Candidate("slow", give_up),
            Candidate("broken", None, note="does not compile: no compiler"),
        ],
        repeats=2,
        flops=1e9,
    )
    ours, peer, slow, broken = group["rows"]
    assert ours["difference"] == 0
    assert ours["ratio"] == 1
    assert ours["gflops"] == pytest.approx(1 / ours["seconds"])
    assert ours["least_seconds"] <= ours["seconds"]
    assert peer["difference"] == pytest.approx(0.05)
    assert peer["note"] == "fast layout NOT THE SAME NUMBERS"
    assert slow["note"] == "timed out: no answer in 1 s"
    assert broken["note"] == "does not compile: no compiler"
    assert "seconds" not in slow
    text = kernels.table(group)
    assert [line.split()[0] for line in text.splitlines()[2:]] == [
        "ours",
        "peer",
        "slow",
        "broken",
    ]


def test_a_result_that_is_not_finite_is_infinitely_far_away():
    assert timing.relative_difference(np.array([np.nan]), np.array([1.0])) == float("inf")
    with pytest.raises(ValueError, match="can't be compared"):
        timing.relative_difference(np.zeros(2), np.zeros(3))


def test_turns_alternate_and_one_that_times_out_takes_no_more():
    calls = []

    def late():
        raise TimeoutError

    def slow_enough(name):
        def call():
            calls.append(name)
            timing.time.sleep(timing.LEAST_SECONDS)

        return call

    seconds = paired_seconds({"a": slow_enough("a"), "b": slow_enough("b")}, repeats=2)
    assert calls == list("aabbaabb")  # the first of each turn is not counted
    assert [len(times) for times in seconds.values()] == [2, 2]
    assert min(map(min, seconds.values())) >= timing.LEAST_SECONDS
    assert paired_seconds({"late": late}, repeats=3) == {}


def mixture_inputs():
    from vtadl_jax.benchmarks.measures.mixture import random_mixture

    needs_torch()
    return random_mixture((4,), 3, 2, 4)


def test_another_process_evaluates_or_is_given_up():
    inputs = mixture_inputs()
    worker = Worker("jax.scipy", inputs, timeout=60)
    try:
        worker.run()
        value, logits, *_ = worker.values()
        assert value.shape == (4,)
        np.testing.assert_allclose(logits.sum(-1), 0, atol=1e-6)
    finally:
        worker.close()
    worker = Worker("jax.scipy", inputs, timeout=0.01)
    with pytest.raises(TimeoutError, match="timed out"):
        worker.run()
    worker.close()


def test_a_library_that_is_missing_is_said_in_its_row():
    worker = Worker("no such library", mixture_inputs(), timeout=60)
    with pytest.raises(ImportError, match="no such library"):
        worker.run()
    worker.close()


def all_groups():
    from vtadl_jax.benchmarks.measures import (
        convolution,
        frozen_features,
        mixture,
        network,
        routing,
    )

    config = tiny_config(batch_size=2, model__vit__depth=1)
    yield from kernels.gemm(1, side=16)
    yield from mixture.conditional(1, 3, 4, 8, libraries=())
    yield from mixture.shared(1, 3, 4, 8)
    for layer in ((4, 3, 7, 5, 1), (4, 2, 6, 1, 0)):
        yield from convolution.layer_groups(1, "some", layer, side=5, batch=2)
    yield from convolution.ssim(1, batch=2, side=16)
    yield from routing.routing(1, batch=2, capsules=5, dim=3, output_dim=4)
    yield from frozen_features.search(1, levels=((8, 5), (5, 7)))
    yield from frozen_features.gaussian(1, images=6, places=3, dim=10)
    yield from network.training_step(1, config, compiled=False)
    yield from network.one_image(1, config, compiled=False)


@pytest.mark.slow
def test_every_measure_computes_the_same_on_both_sides(monkeypatch):
    needs_torch()
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    groups = list(all_groups())
    assert len(groups) == 1 + 3 + 4 + 1 + 1 + 2 + 2
    for group in groups:
        assert len(group["rows"]) > 1
        for row in group["rows"]:
            assert row["seconds"] > 0, group["title"]
            assert "NOT THE SAME" not in row["note"], group["title"]
            if "training step" not in group["title"]:
                assert row["difference"] < 1e-4, group["title"]
    (step,) = (group for group in groups if "training step" in group["title"])
    assert step["differences"].keys() == {"loss", "nll", "mse", "dissimilarity", "gradient norm"}
    assert max(step["differences"].values()) < 1e-4
    assert step["gflop"] > 0


def test_results_are_written_and_shown(monkeypatch, tmp_path, capsys):
    needs_torch()
    monkeypatch.setattr(kernels, "GEMM_SIDE", 16)
    out = tmp_path / "out.json"
    assert kernels.main(["--only", "gemm", "--repeats", "1", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert [group["title"] for group in results["groups"]] == ["matrix product 16³, float32"]
    assert results["environment"]["versions"]["torch"]
    assert "torch matmul" in capsys.readouterr().out
