"""The HTTP server on a real socket: slow, broken and impatient clients, and its end."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from tests.serving.fakes import FakeModel, make_service, png
from vtadl_jax.serving.http import Server
from vtadl_jax.serving.measured import Measured

POST = "POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{}\r\n"


@contextlib.contextmanager
def served(model=None, **options):
    """Yields the service and a function that opens a connection."""
    service = make_service(model or FakeModel(), **options)
    server = Server(service, Measured(), "127.0.0.1", 0)
    server.start()
    port = int(server.address.rpartition(":")[2])
    try:
        yield service, lambda: socket.create_connection(("127.0.0.1", port), timeout=10)
    finally:
        service.stop()
        assert server.stop()
        assert service.batcher.close(5)


def answer(connection):
    """Reads one response: (status, JSON)."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, json.loads(file.read(length))


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def send(connection, content, headers=""):
    connection.sendall(POST.format(len(content), headers).encode() + content)


def test_a_connection_serves_one_request_after_another_also_after_errors():
    with served(max_bytes=5000) as (_, connect), connect() as connection:
        for content, status in ((png(), 200), (b"x", 400), (bytes(6000), 413), (png(), 200)):
            send(connection, content)
            assert answer(connection)[0] == status


def test_a_body_that_does_not_arrive_is_given_up():
    with served(timeout_s=0.2) as (service, connect), connect() as connection:
        connection.sendall(POST.format(1000, "").encode() + b"part")
        status, body = answer(connection)
        assert status == 408
        assert "did not arrive within 0.2 seconds" in body["error"]
        until(lambda: service.queued == 0)


def test_a_client_that_goes_away_leaves_no_place_taken(capfd):
    with served() as (service, connect):
        with connect() as connection:
            connection.sendall(POST.format(1000, "").encode() + b"part")
            until(lambda: service.queued == 1)
        until(lambda: service.queued == 0)
        with connect() as connection:
            send(connection, png())
            assert answer(connection)[0] == 200
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


def test_a_client_that_asks_before_it_sends_is_refused_before():
    with served(max_bytes=1000) as (_, connect), connect() as connection:
        connection.sendall(POST.format(10**9, "expect: 100-continue\r\n").encode())
        assert answer(connection)[0] == 413
    with served(key="sesame") as (_, connect), connect() as connection:
        connection.sendall(POST.format(100, "expect: 100-continue\r\n").encode())
        assert answer(connection)[0] == 401


def test_what_is_not_http_is_refused(capfd):
    with served() as (_, connect), connect() as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b"400" in connection.recv(100)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_stopping_answers_what_was_accepted_and_no_more():
    model = FakeModel(batch_size=1)
    service = make_service(model)
    server = Server(service, Measured(), "127.0.0.1", 0)
    server.start()
    port = int(server.address.rpartition(":")[2])
    model.gate.clear()

    def ask(_):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            send(connection, png())
            return answer(connection)[0]

    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(ask, number) for number in range(5)]
        until(lambda: service.queued == 5)
        service.stop()
        threading.Timer(0.2, model.gate.set).start()
        assert server.stop()
        assert [job.result() for job in jobs] == [200] * 5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert service.batcher.close(5)
