"""The page at `/` in a real browser: a dropped image, its map, regions and score; the key."""

import contextlib
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from tests.report.conftest import browser  # noqa: F401
from tests.serving.fakes import FakeModel, make_service, png
from vtadl_jax.serving.http import Server
from vtadl_jax.serving.measured import Measured

pytestmark = pytest.mark.browser
NASTY = "<img src=x onerror=alert(1)>&.png"


@contextlib.contextmanager
def served(*models, **options):
    service = make_service(*(models or [FakeModel()]), **options)
    server = Server(service, Measured(), "127.0.0.1", 0)
    server.start()
    try:
        yield server.address
    finally:
        service.stop()
        closing = threading.Thread(target=server.stop)
        closing.start()
        service.batcher.close(5)
        closing.join()


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def text_of(driver, name):
    return driver.find_element("id", name).text


def score(driver, path, decision):
    driver.find_element("id", "files").send_keys(str(path))
    until(lambda: text_of(driver, "name") == path.name and text_of(driver, "decision") == decision)


def test_a_dropped_image_is_shown_with_its_map_regions_and_score(browser, tmp_path):  # noqa: F811
    bad, good = tmp_path / NASTY, tmp_path / "good.png"
    bad.write_bytes(png(60, 80, spot=240))
    good.write_bytes(png(60, 80))
    browser.get_log("browser")
    with served() as address:
        browser.get(address)
        score(browser, good, "Good")
        assert text_of(browser, "regions-title") == "No region above the pixel threshold"
        score(browser, bad, "Defective")
        assert text_of(browser, "score") == "0.9412"
        assert "20 % of good images" in text_of(browser, "rarity")
        rows = browser.find_elements("css selector", "#regions tbody tr")
        assert [cell.text for cell in rows[0].find_elements("tag name", "td")] == [
            *("1", "2, 1", "6", "0.13 %", "0.9412")
        ]
        boxes = browser.find_elements("css selector", "#boxes rect")
        assert [boxes[0].get_attribute(name) for name in ("x", "y", "width", "height")] == [
            *("2", "1", "3", "2")
        ]
        heat = browser.find_element("id", "heat")
        assert heat.get_property("naturalWidth") == 80
        slider = browser.find_element("id", "opacity")
        browser.execute_script(
            "arguments[0].value = 20; arguments[0].dispatchEvent(new Event('input'))", slider
        )
        assert heat.value_of_css_property("opacity") == "0.2"
        assert len(browser.find_elements("css selector", "#history li")) == 2
        assert browser.find_elements("css selector", "#name img") == []
        browser.find_element("id", "files").send_keys(str(__file__))
        until(lambda: "it is not an image" in text_of(browser, "error"))
    said = [each for each in browser.get_log("browser") if "400" not in each["message"]]
    assert said == []


def test_the_page_asks_for_the_key(browser, tmp_path):  # noqa: F811
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with served(FakeModel(maps=False), key="sesame") as address:
        browser.get(address)
        until(lambda: text_of(browser, "state") == "this service asks for a key")
        browser.find_element("id", "key").send_keys("sesame\n")
        until(lambda: text_of(browser, "state") == "model plate")
        score(browser, path, "Good")
        assert text_of(browser, "regions-title") == "This method makes no map"
    browser.get_log("browser")
