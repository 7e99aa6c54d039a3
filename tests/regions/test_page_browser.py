"""Drawing in a real browser: corners, rectangles, undo, what is saved, nothing from elsewhere."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

from tests.report.conftest import browser  # noqa: F401
from vtadl_jax.data.regions.area import read_area
from vtadl_jax.regions.drawing import open_drawing
from vtadl_jax.regions.server import make_server

pytestmark = pytest.mark.browser
SIZE = (400, 600)  # height, width of the image


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    """(driver, server) with the page of an image open; afterwards nothing was logged, and nothing
    but this server was asked."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "part.png")
    server = make_server(open_drawing(tmp_path / "part.png", tmp_path / "regions.json"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    browser.get_log("browser"), browser.get_log("performance")
    metrics = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(server.address)
    until(browser, "return document.body.dataset.ready === 'yes'")
    yield browser, server
    browser.execute_script("saved = JSON.stringify(shapes); open = [];")
    logged = [e for e in browser.get_log("browser") if "422" not in e["message"]]
    asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in asked if "willBeSent" in e["method"]]
    browser.get("about:blank")
    server.shutdown()
    server.server_close()
    thread.join()
    assert not logged
    assert all(url.startswith((server.address, "data:")) for url in sent)


def until(driver, script):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda d: d.execute_script(script))


def mouse(driver, steps):
    """Moves over the canvas and clicks. steps: (what, x, y) in pixels of the image."""
    from selenium.webdriver.common.action_chains import ActionChains

    box = driver.execute_script(
        "const b = canvas.getBoundingClientRect(); return [b.left, b.top, scale];"
    )
    chain = ActionChains(driver, duration=0)
    for what, x, y in steps:
        at = round(box[0] + x * box[2]), round(box[1] + y * box[2])
        chain.w3c_actions.pointer_action.move_to_location(*at)
        if what in ("click", "down"):
            chain.w3c_actions.pointer_action.pointer_down()
        if what in ("click", "up"):
            chain.w3c_actions.pointer_action.pointer_up()
    chain.w3c_actions.perform()


def press(driver, name):
    driver.execute_script(f"document.getElementById({name!r}).click()")


def shapes_of(driver):
    return driver.execute_script("return shapes")


def test_polygons_and_rectangles_are_saved_where_they_were_drawn(page, tmp_path):
    driver, _ = page
    corners = [(60, 40), (540, 40), (540, 360), (60, 360)]
    mouse(driver, [("click", x, y) for x, y in corners])
    mouse(driver, [("click", 62, 42)])  # near the first corner: closes
    assert len(shapes_of(driver)) == 1
    driver.execute_script("document.querySelector('[value=ignore]').click()")
    mouse(driver, [("down", 200, 100), ("move", 300, 150), ("up", 400, 200)])
    assert [shape["label"] for shape in shapes_of(driver)] == ["inspect", "ignore"]
    press(driver, "save")
    until(driver, "return document.getElementById('message').textContent.startsWith('saved to')")
    area = read_area(tmp_path / "regions.json").pixels
    wanted = np.zeros(SIZE, bool)
    wanted[40:360, 60:540] = True
    wanted[100:200, 200:400] = False
    assert np.mean(area != wanted) < 0.015  # 2 pixels along the edges
    told = driver.execute_script("return document.getElementById('share').textContent")
    assert f"{100 * wanted.mean():.0f} %" in told
    assert not driver.execute_script("return dirty()")


def test_steps_are_undone_and_done_again(page):
    driver, _ = page
    mouse(driver, [("down", 100, 100), ("move", 150, 150), ("up", 200, 200)])
    mouse(driver, [("down", 300, 100), ("move", 350, 150), ("up", 400, 200)])
    mouse(driver, [("down", 400, 200), ("move", 450, 250), ("up", 500, 300)])  # moves a corner
    moved = shapes_of(driver)
    assert moved[1]["points"][2] == pytest.approx([500, 300], abs=3)
    press(driver, "undo")
    assert shapes_of(driver)[1]["points"][2] == pytest.approx([400, 200], abs=3)
    press(driver, "undo")
    assert len(shapes_of(driver)) == 1
    press(driver, "redo")
    press(driver, "redo")
    assert shapes_of(driver) == moved
    mouse(driver, [("click", 50, 50), ("click", 80, 50)])
    press(driver, "undo")
    assert driver.execute_script("return open.length") == 1
    press(driver, "clear")
    assert shapes_of(driver) == []


def test_the_list_selects_switches_and_removes(page):
    driver, _ = page
    mouse(driver, [("down", 100, 100), ("move", 150, 150), ("up", 200, 200)])
    driver.execute_script("document.querySelector('#list button').click()")
    press(driver, "switch")
    assert shapes_of(driver)[0]["label"] == "ignore"
    press(driver, "remove")
    assert shapes_of(driver) == []
    assert driver.execute_script("return document.getElementById('save').disabled")


def test_what_is_refused_is_said(page, tmp_path):
    driver, _ = page
    driver.execute_script(
        "shapes = [{label: 'ignore', points: [[-9, -9], [999, -9], [999, 999], [-9, 999]]}]; show()"
    )
    press(driver, "save")
    until(driver, "return document.getElementById('message').className === 'fault'")
    told = driver.execute_script("return document.getElementById('message').textContent")
    assert "the polygons ignore every pixel" in told
    assert not (tmp_path / "regions.json").exists()


def test_the_button_ends_the_program(page):
    driver, _ = page
    press(driver, "end")
    until(driver, "return document.getElementById('message').textContent.startsWith('closed')")
