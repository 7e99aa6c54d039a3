"""The benchmark of the service: its figures, with a model without a network."""

import contextlib
import json
import os
from types import SimpleNamespace

import pytest

from tests.serving.fakes import FakeModel, make_service
from vtadl_jax.benchmarks import service
from vtadl_jax.errors import UserError


class Callable(FakeModel):
    """Also scores alone, as a Predictor does."""

    def __call__(self, content):
        return next(self.predict_batch([self.take_in(content)[0]]))


@pytest.fixture
def here(monkeypatch):
    """Serves in this process in place of one of its own."""
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    from vtadl_jax.serving.http import Server
    from vtadl_jax.serving.measured import Measured

    @contextlib.contextmanager
    def served(workdir, *more):
        running = make_service(FakeModel())
        server = Server(running, Measured(), "127.0.0.1", 0)
        server.start()
        process = SimpleNamespace(pid=os.getpid(), send_signal=print, wait=lambda seconds: 0)
        yield process, int(server.address.rpartition(":")[2])
        server.stop()
        running.batcher.close(5)

    monkeypatch.setattr(service, "served", served)
    monkeypatch.setattr(service, "open_model", lambda path, size: Callable(size or 1))


def test_figures_of_a_short_load(here, tmp_path, capsys):
    path = tmp_path / "s.json"
    flags = ["--workdir=x", "--seconds=0.2", "--clients=3", "--turns=4", "--size=16"]
    assert service.main(["", *flags, f"--json={path}"]) == 0
    found = json.loads(path.read_text())
    assert found["errors"] == {}
    assert found["images"] > 0
    assert found["exit_code"] == 0
    assert found["request_p50_ms"] > 0
    assert found["overhead_p50_ms"] == found["request_p50_ms"] - found["predictor_p50_ms"]
    assert found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert "overhead_p50_ms" in capsys.readouterr().out


def test_a_service_that_does_not_start_is_told(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho loading >&2\necho error: no such run >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(service.sys, "executable", str(program))
    with pytest.raises(UserError, match="the service did not start: error: no such run"):
        service.served(tmp_path).__enter__()


def test_a_benchmark_of_nothing_is_refused(capsys):
    assert service.main([""]) == 2
    assert "no --workdir" in capsys.readouterr().err
