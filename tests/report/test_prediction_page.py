"""The page of a prediction: which images are on it, what it says, and what a person sorts."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_drift import calibration_of, images_of
from tests.report.test_page import NASTY, stored
from vtadl_jax.data.sorted_images import read_sorted
from vtadl_jax.evaluation.drift import DriftMonitor
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.predictor import Prediction
from vtadl_jax.report import prediction_page
from vtadl_jax.report.groups import Groups, Taken
from vtadl_jax.report.prediction_page import Sheet, write_prediction_page
from vtadl_jax.report.template import digest

COUNT = 12


def sheet_of(root, count=COUNT, defective=lambda i: i % 3 == 0, name="part{}.png"):
    """A sheet of images, each a file, with a map of another size than its photo."""
    sheet = Sheet(Path(root), count, calibration_of())
    rng = np.random.default_rng(0)
    for i in range(count):
        path = Path(root) / name.format(i)
        path.write_bytes(f"content {i}".encode())
        heat = rng.normal(size=(10, 15)).astype(np.float32)
        found = Prediction(float(i), 3.0, defective(i), heat, {}, None, "", 0.1)
        sheet.add(path, name.format(i), np.full((20, 30, 3), 6 * i, np.uint8), found)
    return sheet


def written(tmp_path, sheet, *rest, counts=(COUNT, 4, 0)):
    write_prediction_page(tmp_path, sheet, "mine", 3.0, counts, *rest)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_numbers_checksums_and_places_are_there_for_sorting(tmp_path):
    data = stored(written(tmp_path, sheet_of(tmp_path)), "data")
    assert data["root"] == str(tmp_path)
    assert data["total"] == len(data["cards"]) == COUNT
    for i, card in enumerate(data["cards"]):
        assert (card["file"], card["score"], card["defective"]) == (f"part{i}.png", i, i % 3 == 0)
        assert card["sha256"] == hashlib.sha256(f"content {i}".encode()).hexdigest()


def test_all_defective_images_are_shown_up_to_a_limit_and_some_good_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_page, "MOST_DEFECTIVE", 5)
    monkeypatch.setattr(prediction_page, "MOST_GOOD", 4)
    sheet = sheet_of(tmp_path, 40, lambda i: i % 4 == 0)
    data = stored(written(tmp_path, sheet, counts=(40, 10, 0)), "data")
    shown = [card["defective"] for card in data["cards"]]
    assert (sum(shown), len(shown) - sum(shown)) == (5, 3)
    text = (tmp_path / "report.html").read_text()
    assert "3 of 30 good ones on it; 5 defective ones are in predictions.csv only" in text


def test_drift_and_groups_are_on_the_page(tmp_path):
    monitor = DriftMonitor(calibration_of(), traced=True)
    images = np.concatenate([images_of(30, 1), images_of(60, 2, brightness=70)])
    alarms = [(a, f"n{a.since}") for row in describe(images) for a in monitor.add(row, 0.0, False)]
    groups = Groups({f"part{i}.png": Taken(f"cam{i % 2}") for i in range(COUNT)})
    for i in range(COUNT):
        groups.add(f"part{i}.png", i % 3 == 0)
    text = written(tmp_path, sheet_of(tmp_path), monitor, alarms, groups)
    assert len(re.findall(r'<svg class="chart"', text)) == len(monitor.quantities)
    assert re.search(r"Drift: since n\d+ the images are darker", text)
    assert "<td>cam1</td>" in text
    first = re.search(r"<figcaption><b>([^<]*)</b>", text)[1]
    assert first in {alarm.quantity for alarm, _ in alarms}
    plain = written(tmp_path, sheet_of(tmp_path))
    assert "Drift:" not in plain
    assert "<svg" not in plain


def test_names_are_escaped_and_only_our_code_runs(tmp_path):
    sheet = sheet_of(tmp_path, 1, name="a'<b>{}.png")
    write_prediction_page(tmp_path, sheet, NASTY, 3.0, (1, 1, 0))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<b>0.png" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for kind, tag in (("script-src", "<script>"), ("style-src", "<style>")):
        code = re.search(rf"{tag}(.*?)</", text, re.S)[1]
        assert f"{kind} '{digest(code)}'" in policy


def test_a_file_that_went_away_has_no_checksum(tmp_path):
    sheet = Sheet(tmp_path, 1, calibration_of())
    found = Prediction(1.0, 3.0, True, None, {}, None)
    sheet.add(tmp_path / "gone.png", "gone.png", np.zeros((20, 30, 3), np.uint8), found)
    assert sheet.digests == [""]


@pytest.mark.browser
def test_sorted_images_are_saved_as_update_reads_them(tmp_path, browser):
    write_prediction_page(tmp_path, sheet_of(tmp_path), "mine", 3.0, (COUNT, 4, 0))
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    browser.get((tmp_path / "report.html").as_uri())

    def press(name):
        browser.execute_script(
            "[...document.querySelectorAll('#cards > li')].find(e => e.querySelector('.name')"
            ".textContent === arguments[0]).querySelector('.sort').click()",
            name,
        )

    def show(kind):
        browser.execute_script(
            "const e = document.getElementById('kind'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('change'))",
            kind,
        )
        return [e.text for e in browser.find_elements("css selector", "#cards .name")]

    assert not browser.find_element("id", "save").is_enabled()
    assert show("defective") == [f"part{i}.png" for i in (0, 3, 6, 9)]
    for name in ("part3.png", "part9.png", "part0.png", "part0.png"):  # the last takes it back
        press(name)
    assert len(show("good")) == 8
    press("part4.png")
    assert browser.find_element("id", "marked").text == "2 good after all, 1 missed"
    assert show("sorted") == ["part3.png", "part4.png", "part9.png"]
    browser.find_element("id", "save").click()
    browser.set_script_timeout(5)
    browser.execute_async_script("setTimeout(arguments[0], 1500)")
    saved = json.loads((tmp_path / "sorted.json").read_text())
    assert saved["run"] == "mine"
    found = read_sorted(tmp_path / "sorted.json")
    assert [path.name for path in found.good] == ["part3.png", "part9.png"]
    assert [path.name for path in found.defective] == ["part4.png"]
    assert browser.get_log("browser") == []
