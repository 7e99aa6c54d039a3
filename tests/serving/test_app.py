"""The HTTP interface: answers, errors, limits, key, states. No network is scored with."""

import base64
import concurrent.futures
import contextlib
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="needs the extra `test`")
from fastapi.testclient import TestClient

from tests.serving.fakes import FakeModel, make_service, png
from vtadl_jax.errors import UserError
from vtadl_jax.report import colormap
from vtadl_jax.serving import answers
from vtadl_jax.serving.app import make_app
from vtadl_jax.serving.measured import Measured
from vtadl_jax.serving.state import Service

OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture
def start(capfd):
    """A function that starts a service and returns its client; no answer may have status 500."""
    with contextlib.ExitStack() as stack:

        def open_client(*models, service=None, **options) -> TestClient:
            service = service or make_service(*(models or [FakeModel()]), **options)
            if service.batcher is not None:
                stack.callback(service.batcher.close, 5)
            app = make_app(service, Measured())
            client = TestClient(app, base_url="http://testserver", raise_server_exceptions=True)
            client.service = service
            return client

        yield open_client


def send(client, content, address="/score", **options):
    options.setdefault("headers", OCTETS)
    return client.post(address, content=content, **options)


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error", "request"}
    assert "\n" not in body["error"]
    assert "Traceback" not in answer.text
    return body["error"]


def decoded_map(found):
    """Returns the map of an answer, float32 [h, w]."""
    return np.load(io.BytesIO(base64.b64decode(found["map"]["base64"])))


def test_an_image_gets_score_decision_and_regions(start):
    body = send(start(), png(spot=240), "/score?name=part.png").json()
    assert body["model"] == "plate"
    (found,) = body["images"]
    seconds = found.pop("seconds")
    assert seconds.keys() == {"decode", "wait", "score"}
    bright = float(np.float32(240 / 255))
    assert found == {
        "name": "part.png",
        "decision": "defective",
        "score": pytest.approx(bright),
        "threshold": 0.5,
        "p_value": 0.2,
        "unlike_training": "",
        "terms": {"brightness": pytest.approx(bright)},
        "size": {"height": 6, "width": 8},
        "pixel_threshold": 0.75,
        "regions": [
            {
                "box": {"top": 1, "left": 2, "bottom": 3, "right": 5},
                "area": 6,
                "share": 6 / 48,
                "peak": pytest.approx(bright),
                "peak_at": {"row": 1, "column": 2},
                "mean": pytest.approx(bright),
            }
        ],
        "regions_found": 1,
    }


def test_several_files_of_a_form_get_an_answer_each_in_order(start):
    client = start()
    files = [("file", (f"{i}.png", png(value=i), "image/png")) for i in range(7)]
    body = client.post("/models/plate/score", files=files).json()
    assert [image["name"] for image in body["images"]] == [f"{i}.png" for i in range(7)]
    assert [round(image["score"] * 255) for image in body["images"]] == list(range(7))


def test_one_bad_file_among_good_ones_is_told_in_its_place(start):
    files = [("file", ("a.png", png())), ("file", ("b.png", b"no image")), ("x", ("c.png", png()))]
    answer = start().post("/score", files=files)
    assert answer.status_code == 207
    first, second, third = answer.json()["images"]
    assert first["decision"] == third["decision"] == "good"
    assert second.keys() == {"name", "error", "status"}
    assert (second["name"], second["status"]) == ("b.png", 400)
    assert "it is not an image of a known kind" in second["error"]


def test_a_map_comes_as_numbers_or_in_colours(start):
    client = start()
    content = png(spot=240)
    pixels = np.array(Image.open(io.BytesIO(content)))
    (found,) = send(client, content, "/score?map=npy").json()["images"]
    assert found["map"]["type"] == "application/x-npy"
    numbers = decoded_map(found)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, pixels.astype(np.float32) / 255)
    (found,) = send(client, content, "/score?map=png").json()["images"]
    assert (found["map"]["low"], found["map"]["high"]) == (0.0, 1.0)
    colours = np.array(Image.open(io.BytesIO(base64.b64decode(found["map"]["base64"]))))
    np.testing.assert_array_equal(colours, colormap.apply(numbers, 0.0, 1.0))


def test_a_map_that_is_too_large_for_an_answer_is_refused(start, monkeypatch):
    monkeypatch.setattr(answers, "MAP_LIMIT", 40)
    client = start()
    assert send(client, png()).status_code == 200
    assert "48 pixels, more than the 40" in error_of(send(client, png(), "/score?map=png"), 413)


def test_a_method_without_maps_says_so(start):
    (found,) = send(start(FakeModel(maps=False)), png(), "/score?map=png").json()["images"]
    assert found["map"] is found["regions"] is found["size"] is None


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the file is empty"),
        (b"no image", 400, "it is not an image of a known kind"),
        (png()[:40], 400, "cannot read image of 40 bytes"),
        (b"GIF89a" + bytes(40), 400, "it is not an image of a known kind"),
        (bytes(2001), 413, "more than the 2000 bytes of --max_bytes"),
        (png(41, 41), 413, "41×41 pixels, more than the 1600 of --max_pixels"),
        (png(13, 13), 422, "the score is nan, which is no decision"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(start, content, status, message):
    client = start(max_bytes=2000, max_pixels=1600)
    assert message in error_of(send(client, content), status)


def test_too_large_is_known_before_it_is_sent_and_while_it_is(start):
    client = start(max_bytes=1000)
    drawn = []

    def chunks():
        for _ in range(40):
            drawn.append(1)
            yield bytes(100)

    assert "--max_bytes" in error_of(send(client, chunks()), 413)  # without a length
    assert "--max_bytes" in error_of(client.post("/score", files={"file": bytes(1200)}), 413)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"x", "multipart/form-data", "Missing boundary"),
        (b"x", "multipart/form-data; boundary=a", "can't be read"),
        (b"--a\r\n\r\nx\r\n--a--\r\n", "multipart/form-data; boundary=a", "can't be read"),
        (
            b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n--a--\r\n',
            "multipart/form-data; boundary=a",
            "the form has no file",
        ),
    ],
)
def test_a_damaged_form_is_refused(start, body, kind, message):
    answer = send(start(), body, headers={"content-type": kind})
    assert message in error_of(answer, 400)


def test_more_files_than_the_queue_holds_are_refused(start):
    files = [("file", (f"{i}.png", png())) for i in range(4)]
    client = start(max_queue=3)
    assert "at most 3 images" in error_of(client.post("/score", files=files), 413)
    assert client.service.queued == 0
    assert client.post("/score", files=files[:3]).status_code == 200


def test_an_unknown_address_model_method_or_map_is_an_error_in_json(start):
    client = start()
    assert "no model of this name: the models are plate" in error_of(
        send(client, png(), "/models/plat/score"), 404
    )
    assert "nothing at this address" in error_of(client.get("/scores"), 404)
    answer = client.get("/score")
    assert "no such method" in error_of(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert "query.map" in error_of(send(client, png(), "/score?map=jpg"), 400)


def test_the_first_model_is_the_default_and_others_have_names(start):
    client = start(FakeModel(), FakeModel(maps=False))
    assert send(client, png()).json()["model"] == "plate"
    assert send(client, png(), "/models/gear/score").json()["model"] == "gear"
    facts = client.get("/models").json()["models"]
    assert [each["name"] for each in facts] == ["plate", "gear"]
    assert facts[0]["threshold"] == 0.5


def test_a_full_queue_tells_when_to_come_again(start):
    model = FakeModel(batch_size=1)
    client = start(model, max_queue=2)
    model.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(send, client, png()) for _ in range(2)]
        until(lambda: client.service.queued == 2)
        answer = send(client, png())
        assert "the queue of 2 images is full" in error_of(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1
        model.gate.set()
        assert [each.result().status_code for each in waiting] == [200, 200]
    assert client.service.queued == 0


def test_an_image_without_a_score_in_time_is_told_and_given_up(start):
    model = FakeModel(batch_size=1)
    client = start(model, timeout_s=0.1)
    model.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: send(client, png()), range(2)))
    for answer in answers:
        assert "no score within 0.1 seconds" in error_of(answer, 504)
    model.gate.set()
    until(lambda: client.service.batcher.unfinished == 0)
    assert model.batches == [1]  # the second was not scored for nobody


def test_no_key_no_score(start):
    client = start(key="sesame-7")
    for headers in ({}, {"x-api-key": "sesame-8"}, {"authorization": "Basic sesame-7"}):
        answer = send(client, png(), headers=headers)
        assert "the key is missing or wrong" in error_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    for address in ("/models", "/metrics", "/openapi.json", "/docs"):
        error_of(client.get(address), 401)
    for address in ("/health", "/ready", "/"):
        assert client.get(address).status_code == 200
    for headers in ({"x-api-key": "sesame-7"}, {"authorization": "Bearer sesame-7"}):
        assert send(client, png(), headers=headers).status_code == 200


def test_pages_of_other_sites_may_not_send_images(start):
    client = start()
    answer = send(client, png(), headers={"origin": "http://elsewhere"})
    assert "another site" in error_of(answer, 403)
    assert send(client, png(), headers={"origin": "http://testserver"}).status_code == 200


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_a_local_service_answers_under_names_of_this_machine_only(start, host):
    client = start()
    client.service.local = True
    assert send(client, png(), headers={"host": host}).status_code == 200
    for other in ("evil.example:8000", "", "[", "127.0.0.1.evil.example"):
        answer = send(client, png(), headers={"host": other})
        assert "127.0.0.1, localhost, ::1 only" in error_of(answer, 403)


def test_a_service_that_starts_or_stops_takes_nothing(start):
    from vtadl_jax.serving.limits import Limits

    client = start(service=Service(Limits()))
    assert client.get("/health").status_code == 200
    assert client.get("/ready").json() == {"status": "starting"}
    assert client.get("/ready").status_code == 503
    answer = send(client, png())
    assert "the service is starting" in error_of(answer, 503)
    assert answer.headers["retry-after"]

    client = start()
    assert client.get("/ready").json() == {"status": "ready"}
    client.service.stop()
    assert client.get("/ready").status_code == 503
    answer = send(client, png())
    assert "the service is stopping" in error_of(answer, 503)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("fault", [RuntimeError("device lost"), UserError("no decision"), KeyError])
def test_a_fault_of_the_device_is_no_traceback(start, fault, capfd):
    model = FakeModel()
    model.fault = fault
    answer = send(start(model), png(), headers={"x-request-id": "part-17"})
    assert "its log says why" in error_of(answer, 503)
    (line,) = capfd.readouterr().out.splitlines()
    logged = json.loads(line)
    assert (logged["id"], logged["status"]) == ("part-17", 503)
    assert logged["error"] == (fault if isinstance(fault, type) else type(fault)).__name__


def test_a_request_is_one_line_of_the_log_without_names_or_keys(start, capfd):
    client = start(key="sesame-7")
    headers = {"x-api-key": "sesame-7", "x-request-id": "bad id\t"}
    answer = send(client, png(), "/score?name=secret.png", headers=headers)
    out = capfd.readouterr().out
    (line,) = out.splitlines()
    logged = json.loads(line)
    assert logged["id"] == answer.headers["x-request-id"] == answer.json()["request"]
    assert len(logged["id"]) == 32
    assert logged["event"] == "request"
    assert (logged["status"], logged["images"], logged["model"]) == (200, 1, "plate")
    assert logged["bytes"] == len(png())
    assert logged["route"] == "/score"
    assert "secret" not in out
    assert "sesame" not in out


def test_metrics_count_requests_images_and_batches(start):
    client = start()
    send(client, png())
    send(client, png(spot=240))
    send(client, b"no image")
    text = client.get("/metrics").text
    for line in (
        'vtadl_requests_total{model="plate",status="200"} 2.0',
        'vtadl_requests_total{model="plate",status="400"} 1.0',
        'vtadl_images_total{decision="defective",model="plate"} 1.0',
        'vtadl_images_refused_total{status="400"} 1.0',
        "vtadl_ready 1.0",
        "vtadl_queue_images 0.0",
        "vtadl_request_seconds_count 3.0",
    ):
        assert line in text


def test_names_are_shown_in_printable_characters(start):
    files = [("file", ("a\x1b[31m.png", png()))]
    name = start().post("/score", files=files).json()["images"][0]["name"]
    assert name.isprintable()
    long = send(start(), png(), f"/score?name={'x' * 200}").json()["images"][0]["name"]
    assert len(long) == 200
    error_of(send(start(), png(), f"/score?name={'x' * 201}"), 400)


def test_the_page_loads_nothing_and_runs_its_own_script_only(start):
    answer = start().get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.text.count("<script>") == 1
    for text in ('src="http', 'href="http', "@import", "url(", "innerHTML", 'style="'):
        assert text not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_openapi_document_is_served_and_no_page_of_another_site(start):
    client = start()
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/score", "/models/{model}/score", "/models", "/health", "/ready", "/metrics")
    }
    error_of(client.get("/docs"), 404)


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
