"""The published network beside ours: equal numbers, and mistakes in one line."""

import json
import sys

import pytest

from vtadl_jax.benchmarks import peer


def test_without_torch_it_names_the_extra_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert peer.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: torch can't be imported")
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--batch", "--repeats"])
def test_mistakes_on_the_command_line(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        peer.main([flag, "0"])
    assert ended.value.code == 2
    assert f"{flag} must be at least 1, got 0" in capsys.readouterr().err


def test_memory_is_told_side_by_side():
    rows = [
        {"name": "ours", "peak_mib": 1234.6, "imports_mib": 250.4},
        {"name": "torch", "peak_mib": 2000.0, "imports_mib": 300.0},
    ]
    lines = peer.memory_table({"title": "peak memory, batch 2", "rows": rows}).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["ours", "1235", "250"],
        ["torch", "2000", "300"],
    ]


@pytest.mark.slow
def test_sides_compute_the_same_and_are_timed(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch", reason="torch is not installed (extra bench)")
    from vtadl_jax.benchmarks.measures import official

    # Processes of their own, and the paper's network, would take minutes.
    sizes = {"peak_mib": 2.0, "imports_mib": 1.0}
    monkeypatch.setattr(official, "_in_own_process", lambda side, batch: sizes)
    found = peer.configs()
    monkeypatch.setattr(peer, "configs", lambda: found | {"paper": None})
    out = tmp_path / "peer.json"
    assert peer.main(["--batch", "1", "--repeats", "1", "--no-compile", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    step, image, memory = results["groups"]
    checked = step["differences"]
    assert {"tokens", "recon", "patch nll", "training loss", "training mse", "gradient"} <= set(
        checked
    )
    assert max(value for name, value in checked.items() if name != "training ssim") < 1e-3
    assert [row["name"] for row in step["rows"]] == [official.OURS, official.OFFICIAL]
    assert all(row["seconds"] > 0 for row in (*step["rows"], *image["rows"]))
    assert image["rows"][1]["difference"] < 1e-3
    assert [row["peak_mib"] for row in memory["rows"]] == [2.0] * 3
    assert "same parameters and batch, noise off" in capsys.readouterr().out
