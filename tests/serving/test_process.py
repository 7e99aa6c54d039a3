"""The service with a real run: the same bits as the program, signals, the command line."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cli import ROOT, environment, run_main
from tests.factory import tiny_config
from tests.serving.fakes import make_service
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.serving.models import open_model, parse_models

BATCH = 2


@pytest.fixture(scope="module")
def workdir(shared, dataset):
    """A fitted run; not to be changed."""

    def train(folder):
        from vtadl_jax.run import run

        run(tiny_config(dataset, "position_gaussian", mesh__data=1), folder)
        return folder

    return shared("serving", train)


@pytest.fixture(scope="module")
def images(dataset):
    return sorted((dataset / "gear" / "test").rglob("*.png"))[:9]


@pytest.mark.slow
def test_scores_and_maps_are_those_of_the_program_bit_for_bit(workdir, images, tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from fastapi.testclient import TestClient

    from tests.serving.test_app import decoded_map
    from vtadl_jax.data.decode import load_image
    from vtadl_jax.serving.app import make_app
    from vtadl_jax.serving.measured import Measured

    predictor = Predictor.from_workdir(workdir, batch_size=BATCH)
    expected = predictor(images)
    arrays = predictor([load_image(path, 3) for path in images])
    service = make_service(open_model(workdir, BATCH))
    client = TestClient(make_app(service, Measured()))
    with ThreadPoolExecutor(4) as pool:  # in batches as they come
        answers = list(
            pool.map(lambda path: client.post("/score?map=npy", content=path.read_bytes()), images)
        )
    files = [("file", (path.name, path.read_bytes())) for path in images]
    together = client.post("/score", files=files).json()["images"]
    for prediction, array, answer, part in zip(expected, arrays, answers, together, strict=True):
        (found,) = answer.json()["images"]
        assert found["score"] == part["score"] == array.score == prediction.score
        assert found["terms"] == part["terms"] == prediction.terms
        assert found["p_value"] == prediction.p_value
        assert found["threshold"] == prediction.threshold
        assert (found["decision"] == "defective") == prediction.is_defective
        np.testing.assert_array_equal(decoded_map(found), prediction.anomaly_map)
    service.batcher.close(10)


@pytest.mark.slow
def test_an_exported_file_is_served_as_its_run(workdir, images, tmp_path, capsys):
    path = tmp_path / "gear.vtadl"
    flags = (f"--workdir={workdir}", "--format=saved", f"--output={path}")
    assert run_main(capsys, "vtadl_jax.export.__main__", *flags).returncode == 0
    assert list(parse_models([str(path)])) == ["gear"]
    service = make_service(open_model(path, BATCH))
    model = service.models["plate"]
    jobs = [
        service.batcher.submit("plate", lambda p=p: model.take_in(p.read_bytes())[0])
        for p in images
    ]
    expected = Predictor.from_workdir(workdir, batch_size=BATCH)(images)
    assert [job.result().prediction.score for job in jobs] == [p.score for p in expected]
    service.batcher.close(10)


@contextlib.contextmanager
def served(
    tmp_path, *arguments, until_event="ready", program=("-m", "vtadl_jax.serve"), **variables
):
    """Starts the program; yields its process, port and lines once it is ready, or says an event."""
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *program, "--port=0", *map(str, arguments)],
            cwd=ROOT,
            env={**environment(), **variables},
            stdout=stdout,
            stderr=stderr,
        )

    def events():
        return [json.loads(line) for line in out.read_text().splitlines()]

    try:
        until(
            lambda: process.poll() is not None or until_event in [e["event"] for e in events()], 90
        )
        assert process.poll() is None, err.read_text()
        addresses = [e["address"] for e in events() if e["event"] == "listening"]
        port = int(addresses[0].rpartition(":")[2]) if addresses else 0
        yield SimpleNamespace(process=process, port=port, events=events, err=err.read_text)
    finally:
        process.kill()
        process.wait()


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def ask(port, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.slow
def test_sigterm_finishes_what_was_accepted(workdir, images, tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    watch, results = tmp_path / "in", tmp_path / "results"
    watch.mkdir()
    for path in images:
        (watch / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    flags = [f"--model=gear={workdir}", f"--watch={watch}", f"--results={results}", "--poll_s=0.05"]
    key = {"x-api-key": "sesame"}
    with served(tmp_path, *flags, VTADL_API_KEY="sesame") as running:
        content = images[0].read_bytes()
        assert ask(running.port, "GET", "/ready")[0] == 200
        assert ask(running.port, "POST", "/score", content)[0] == 401
        status, body = ask(running.port, "POST", "/models/gear/score", content, key.items())
        assert (status, json.loads(body)["model"]) == (200, "gear")
        until(lambda: len(list(results.glob("*.json"))) == len(images), 30)
        with ThreadPoolExecutor(16) as pool:
            jobs = [
                pool.submit(ask, running.port, "POST", "/score", content, key.items())
                for _ in range(32)
            ]
            until(lambda: sum(job.done() for job in jobs) > 4)
            running.process.send_signal(signal.SIGTERM)
            answers = [(job.exception(), job.done() and not job.exception() and job.result()[0])
                       for job in jobs]  # fmt: skip
        assert running.process.wait(30) == 0, running.err()
        refused = (ConnectionError, http.client.HTTPException)
        assert all(status in (200, 503) or isinstance(e, refused) for e, status in answers)
        logged = [e for e in running.events() if e["event"] == "request" and e["status"] == 200]
        assert len(logged) == 1 + sum(status == 200 for _, status in answers)  # none was cut off
        assert running.events()[-1] == running.events()[-1] | {"event": "stopped", "finished": True}
        assert "sesame" not in json.dumps(running.events()) + running.err()


SLOW_TO_LOAD = """
import sys, time
from vtadl_jax import serve
from vtadl_jax.serving import models
models.open_model = lambda path, size: time.sleep(60)
sys.exit(serve.main(["serve", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_sigterm_while_models_are_loaded_ends_at_once(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    program = ("-c", SLOW_TO_LOAD)
    with served(tmp_path, "--model=x", until_event="listening", program=program) as running:
        assert ask(running.port, "GET", "/ready")[0] == 503
        assert ask(running.port, "POST", "/score", b"x")[0] == 503
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        assert running.events()[-1]["event"] == "stopped"
        assert "Traceback" not in running.err()


@pytest.mark.slow
def test_a_folder_is_served_without_http(workdir, images, tmp_path):
    watch = tmp_path / "in"
    watch.mkdir()
    (watch / "a.png").write_bytes(images[0].read_bytes())
    flags = [f"--model={workdir}", "--nohttp", f"--watch={watch}", "--watch_map=png"]
    with served(tmp_path, *flags, f"--results={tmp_path / 'results'}", "--poll_s=0.05") as running:
        until(lambda: list((tmp_path / "results").glob("*.json")))
        (place,) = (tmp_path / "results").glob("*.json")
        assert (
            json.loads(place.read_text())["score"]
            == Predictor.from_workdir(workdir, batch_size=1)(images[0]).score
        )
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --model: give --model [NAME=]PATH"),
        (["--model=a b=x"], "'a b' is no name for an address"),
        (["--model=x=1", "--model=x=2"], "x is also 1: give --model NAME=PATH with another NAME"),
        (["--model=nowhere"], "--model nowhere: "),
        (["--model=x", "--max_queue=0"], "--max_queue 0: give 1 or more"),
        (["--model=x", "--timeout_s=nan"], "--timeout_s nan: give seconds above 0"),
        (["--model=x", "--max_wait_ms=-1"], "--max_wait_ms -1.0: give 0 to 60000"),
        (["--model=x", "--max_pixels=999999999"], "--max_pixels 999999999: give at most"),
        (["--model=x", "--watch=d"], "no --results"),
        (["--model=x", "--results=d"], "no --watch"),
        (["--model=x", "--nohttp"], "--nohttp without --watch serves nothing"),
        (["--model=x", "--watch=d", "--results=e", "--watch_model=y"], "the models are x"),
        (["--model=x", "--model=y", "--watch=d", "--results=e"], "no --watch_model: give one of"),
        (["--model=x", "--watch=nowhere", "--results=e"], "--watch nowhere is no folder"),
        (["--model=x", "--port=70000"], "--port=70000"),
        (["--model=x", "--host=no.such.host.invalid"], "can't be taken"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys, monkeypatch, tmp_path):
    if message in ("--model nowhere: ", "can't be taken"):
        pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    monkeypatch.chdir(tmp_path)
    done = run_main(capsys, "vtadl_jax.serve", "--port=0", *arguments)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "a\n"])
def test_a_key_that_no_header_holds_is_refused(key, capsys, monkeypatch):
    monkeypatch.setenv("VTADL_API_KEY", key)
    done = run_main(capsys, "vtadl_jax.serve", "--model=x")
    assert (done.returncode, "VTADL_API_KEY is set to" in done.stderr) == (2, True)


def test_a_taken_port_is_told(capsys):
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_main(capsys, "vtadl_jax.serve", "--model=x", f"--port={port}")
    assert done.returncode == 2
    assert f"--port {port} can't be taken" in done.stderr


def test_without_the_extra_http_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "vtadl_jax.serving.http", raising=False)
    done = run_main(capsys, "vtadl_jax.serve", "--model=x")
    assert done.returncode == 2
    assert "pip install 'vtadl_jax[serve]'" in done.stderr


def test_the_help_names_the_flags(capsys):
    done = run_main(capsys, "vtadl_jax.serve", "--help")
    assert done.returncode == 0
    assert "--watch_map" in done.stdout
    assert "VTADL_API_KEY" in done.stdout
