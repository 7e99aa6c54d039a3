"""The authors' other networks beside PyTorch's: equal numbers, and mistakes in one line."""

import sys

import jax
import numpy as np
import pytest

from vtadl_jax.benchmarks import networks
from vtadl_jax.benchmarks.timing import relative_difference
from vtadl_jax.options import replace


def test_without_torch_it_names_the_extra_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert networks.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: torch can't be imported")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--only", "capsnet,unet3"], "--only unet3: known are capsnet,"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        networks.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_last_table_has_the_faster_form_of_torch():
    rows = [
        {"name": "ours", "seconds": 0.5},
        {"name": "torch", "seconds": 1.5},
        {"name": "torch, compiled", "seconds": 1.0},
    ]
    groups = [{"title": "some work", "rows": rows}, {"title": "failed", "rows": rows[:1]}]
    lines = networks.summary(groups).splitlines()
    assert lines[2:] == ["| some work | 500.0 | 1,000.0 | 2.00 |"]


# Small images: the layers are the published ones. The command checks all networks, in every run.
SMALL = {"capsnet": 28, "pyramid_ae": 28, "unet_tiny": 32, "segnet": 32}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_sides_compute_the_same(name):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra bench)")
    from vtadl_jax.benchmarks.measures import networks as measures

    changes = {"batch_size": 4, "image_size": (SMALL[name],) * 2}
    config = replace(measures.config_of(name), changes)
    subject = measures.Subject(name, config)
    checked = measures.differences(subject)
    assert {"loss", "gradient norm"} < set(checked)
    norm = checked.pop("gradient norm")  # of float32, through ties of SegNet's maxima
    assert norm < 1e-2
    assert max(checked.values()) < 1e-3, checked
    images = subject.images(2)
    ours = jax.jit(subject.assembly.detector.score)(subject.variables, images)
    with torch.no_grad():
        theirs = subject.peer.eval().score(measures.to_torch(images))
    for got, want in zip((ours.terms, ours.anomaly_map), theirs, strict=True):
        assert relative_difference(want.numpy(), np.asarray(got)) < 1e-3
