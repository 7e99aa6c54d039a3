"""The page to draw regions: its requests, what it writes and what it refuses."""

import http.client
import json
import threading

import numpy as np
import pytest
from PIL import Image

from tests.cli import run_main
from vtadl_jax.data.regions.area import read_area
from vtadl_jax.errors import UserError
from vtadl_jax.regions.drawing import open_drawing
from vtadl_jax.regions.server import LARGEST_BODY, make_server

SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]
INSPECT = {"shapes": [{"label": "inspect", "points": SQUARE}]}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "part.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def served(image, tmp_path):
    """A function (method, name, body, headers, key) → status, headers, content."""
    server = make_server(open_drawing(image, tmp_path / "regions.json"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def ask(method, name, body=None, headers=(), key=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        path = f"/{server.key if key is None else key}/{name}"
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    ask.server, ask.thread = server, thread
    yield ask
    server.shutdown()
    server.server_close()
    thread.join()


def post(served, value):
    status, _, content = served("POST", "save", json.dumps(value))
    return status, json.loads(content)


def test_it_serves_page_image_and_state_on_loopback_only(served):
    assert served.server.server_address[0] == "127.0.0.1"
    status, headers, page = served("GET", "")
    assert status == 200
    assert b"<canvas" in page
    assert b"http://" not in page.replace(b"http://www.w3.org", b"")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "'unsafe" not in headers["Content-Security-Policy"]
    assert served("GET", "image")[2][:3] == b"\xff\xd8\xff"
    state = json.loads(served("GET", "state")[2])
    assert (state["height"], state["width"], state["shapes"]) == (40, 60, [])


def test_requests_of_other_pages_are_refused(served, tmp_path):
    body = json.dumps(INSPECT)
    assert served("GET", "image", key="other")[0] == 404
    assert served("GET", "state", headers={"Host": "evil.example:80"})[0] == 404
    assert served("POST", "save", body, {"Host": "evil.example:80"})[0] == 404
    assert served("POST", "save", body, key="")[0] == 404
    assert served("GET", "../page.py")[0] == 404
    assert served("POST", "save", "", {"Content-Length": str(LARGEST_BODY + 1)})[0] == 413
    assert not (tmp_path / "regions.json").exists()


def test_what_is_saved_is_what_data_regions_reads(served, tmp_path):
    hole = {"label": "ignore", "points": [[15, 10], [25, 10], [25, 20], [15, 20]]}
    status, found = post(served, {"shapes": [*INSPECT["shapes"], hole]})
    assert status == 200
    area = read_area(tmp_path / "regions.json").pixels
    assert found["share"] == pytest.approx(area.mean())
    assert area[7, 12]
    assert not area[15, 20]
    stored = json.loads((tmp_path / "regions.json").read_text())
    assert stored["imagePath"] == "part.png"
    assert [shape["shape_type"] for shape in stored["shapes"]] == ["polygon"] * 2
    assert len(json.loads(served("GET", "state")[2])["shapes"]) == 2


FAULTS = {
    "no list of shapes": [],
    "no polygon": {"shapes": []},
    "has no name": {"shapes": [{"label": 1, "points": SQUARE}]},
    "give two finite numbers": {"shapes": [{"label": "inspect", "points": [[1, None]]}]},
    "is beside its image": {
        "shapes": [{"label": "inspect", "points": [[90, 1], [95, 1], [95, 9]]}]
    },
    "ignore every pixel": {
        "shapes": [{"label": "ignore", "points": [[-9, -9], [99, -9], [99, 99], [-9, 99]]}]
    },
}


@pytest.mark.parametrize("line", FAULTS)
def test_faults_are_said_and_the_file_stays(served, tmp_path, line):
    assert post(served, INSPECT)[0] == 200
    before = (tmp_path / "regions.json").read_bytes()
    status, found = post(served, FAULTS[line])
    assert status == 422
    assert line in found["error"]
    assert (tmp_path / "regions.json").read_bytes() == before
    assert served("POST", "save", "{")[0] == 400
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


def test_a_place_that_cannot_be_written_is_said(served, tmp_path):
    (tmp_path / "regions.json").mkdir()
    status, found = post(served, INSPECT)
    assert status == 422
    assert "regions.json" in found["error"]


def test_its_button_ends_the_program(served):
    assert served("POST", "end", "{}")[0] == 200
    served.thread.join(10)
    assert not served.thread.is_alive()


def test_a_file_that_is_there_is_gone_on_with(image, served, tmp_path):
    post(served, INSPECT)
    again = open_drawing(image, tmp_path / "regions.json")
    assert again.shapes == [("inspect", SQUARE)]
    Image.new("RGB", (60, 41)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match=r"is of an image of 60×40, and .* is 60×41"):
        open_drawing(tmp_path / "other.png", tmp_path / "regions.json")


def test_faults_of_the_command_line(capsys, image, tmp_path):
    (tmp_path / "b.json").write_text("{}")
    for arguments, line in (
        ((), "no --image"),
        (("--image", tmp_path / "none.png"), "none.png"),
        (("--image", image, "--output", tmp_path / "a.png"), "name a file that ends in .json"),
        (("--image", image, "--output", tmp_path / "none" / "a.json"), "is not a folder"),
        (("--image", image, "--output", tmp_path / "b.json"), "give LabelMe's form"),
    ):
        done = run_main(capsys, "vtadl_jax.regions.__main__", *map(str, arguments))
        assert done.returncode == 2
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_said(image, served, tmp_path):
    with pytest.raises(UserError, match="can't listen at"):
        make_server(open_drawing(image, tmp_path / "b.json"), served.server.server_port)
