"""The page in a real browser: counts against numpy, order, filters, keyboard, width."""

import dataclasses
import json

import numpy as np
import pytest

from tests.report.test_page import NASTY, make_card, make_report
from vtadl_jax.report.disagreement import Opinion
from vtadl_jax.report.page import Curve, encode_card, write_page

pytestmark = pytest.mark.browser

NUM_CARDS = 60
KINDS = ("good", "scratch", "dent")
AFTER_A_FRAME = "requestAnimationFrame(() => setTimeout(() => "


def make_cards():
    rng = np.random.default_rng(3)
    cards = []
    for i in range(NUM_CARDS):
        kind = KINDS[i % 3]
        score = float(np.float32(rng.normal(2.0 * (kind != "good"), 1.0)))
        mask = np.zeros((20, 30), bool)
        mask[5:9, 5:9] = kind != "good"
        recon = np.zeros((20, 30, 3), np.uint8) if i % 2 else None
        cards.append(make_card(f"{kind}/{i}.png", kind != "good", score, mask, recon, defect=kind))
    return cards


CARDS = make_cards()
SCORES = np.array([card.score for card in CARDS])
LABELS = np.array([bool(card.label) for card in CARDS])
THRESHOLD = float(np.sort(SCORES[LABELS])[7])  # one of the scores: rounding it moves an image


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report; afterwards nothing was logged and nothing but the file was asked for."""

    def open_page(report, width=1280, height=900):
        write_page(tmp_path / "report.html", report)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((tmp_path / "report.html").as_uri())
        browser.execute_async_script(AFTER_A_FRAME + "arguments[0]()))")  # it draws in one
        return browser

    browser.get_log("browser"), browser.get_log("performance")
    yield open_page
    assert browser.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    requests = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    requests = [r for r in requests if r["documentURL"].startswith("file:")]  # not a new tab's
    assert requests
    assert {params["request"]["url"].split(":")[0] for params in requests} <= {"file", "data"}


def counts(driver):
    found = (driver.find_element("id", name) for name in ("tp", "fp", "fn", "tn"))
    return [int(each.get_attribute("textContent")) for each in found]  # also where it is hidden


def expected(threshold):
    called = threshold <= SCORES
    tp, fp = (called & LABELS).sum(), (called & ~LABELS).sum()
    return [tp, fp, (~called & LABELS).sum(), (~called & ~LABELS).sum()]


def names(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('#cards .name')].map(e => e.textContent)"
    )


def choose(driver, control, value):
    driver.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('change'))",
        control,
        value,
    )


def slide(driver, control, value):
    """Returns the threshold, after the frame in which the gallery follows it."""
    return driver.execute_async_script(
        "const e = document.getElementById(arguments[0]), done = arguments[2];"
        "e.value = arguments[1]; e.dispatchEvent(new Event('input'));"
        f"{AFTER_A_FRAME}done(document.getElementById('threshold-number').valueAsNumber)))",
        control,
        value,
    )


def by_score(order=-1, keep=None):
    chosen = [i for i in range(NUM_CARDS) if keep is None or keep[i]]
    return [CARDS[i].name for i in sorted(chosen, key=lambda i: order * SCORES[i])]


def test_threshold_changes_the_counts(opened):
    driver = opened(make_report(CARDS, threshold=THRESHOLD))
    assert counts(driver) == expected(THRESHOLD)
    seen = set()
    for position in (0, 300, 450, 700, 1000):
        threshold = slide(driver, "threshold", position)
        assert counts(driver) == expected(threshold)
        seen.add(tuple(counts(driver)))
    assert len(seen) == 5
    assert counts(driver)[0] == 0
    assert driver.find_element("id", "precision").text == "–"
    slide(driver, "threshold-number", "0.75")
    tp, fp, fn, tn = counts(driver)
    assert [tp, fp, fn, tn] == expected(0.75)
    shown = [driver.find_element("id", name).text for name in ("tpr", "fpr", "precision", "f1")]
    rates = [100 * tp / (tp + fn), 100 * fp / (fp + tn), 100 * tp / (tp + fp)]
    assert shown == [*(f"{r:.1f} %" for r in rates), f"{2 * tp / (2 * tp + fp + fn):.3f}"]
    driver.find_element("id", "reset").click()
    assert counts(driver) == expected(THRESHOLD)


def test_the_counts_are_spoken(opened):
    driver = opened(make_report(CARDS, threshold=0.75))
    tp, fp, fn, tn = expected(0.75)
    said = driver.find_element("id", "said")
    assert said.get_attribute("aria-live") == "polite"
    sentence = f"{tp} of {tp + fn} defective images are found and {fp} of {fp + tn} good ones"
    driver.set_script_timeout(5)
    driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert sentence in said.text


def test_order_and_pages(opened):
    driver = opened(make_report(CARDS, threshold=THRESHOLD))
    assert names(driver) == by_score()[:24]
    driver.find_element("id", "more").click()
    driver.find_element("id", "more").click()
    assert names(driver) == by_score()
    assert not driver.find_element("id", "more").is_displayed()
    choose(driver, "order", "ascending")
    assert names(driver) == by_score(1)[:24]
    choose(driver, "order", "name")
    assert names(driver)[:3] == ["dent/2.png", "dent/5.png", "dent/8.png"]  # numbers as numbers


def test_filters(opened):
    driver = opened(make_report(CARDS, threshold=THRESHOLD))
    for kind, keep in (
        ("good", ~LABELS),
        ("defective", LABELS),
        ("kind dent", np.arange(NUM_CARDS) % 3 == 2),
    ):
        choose(driver, "kind", kind)
        assert names(driver) == by_score(keep=keep)[:24]
        assert driver.find_element("id", "shown").text.startswith(f"{min(24, keep.sum())} of ")
    choose(driver, "kind", "all")
    for threshold in (THRESHOLD, slide(driver, "threshold", 420)):
        slide(driver, "threshold-number", repr(threshold))
        called = threshold <= SCORES
        for verdict, keep in (
            ("missed", LABELS & ~called),
            ("false alarm", ~LABELS & called),
            ("mistakes", called != LABELS),
        ):
            choose(driver, "verdict", verdict)
            assert names(driver) == by_score(keep=keep)[:24]
    choose(driver, "verdict", "missed")
    slide(driver, "threshold-number", "-100")
    assert names(driver) == []
    assert "No image" in driver.find_element("id", "shown").text


def test_views_and_opacity(opened):
    driver = opened(make_report(CARDS, threshold=THRESHOLD))
    choose(driver, "kind", "kind scratch")
    slide(driver, "opacity", "25")
    card = driver.find_element("css selector", "#cards > li")
    heat = card.find_element("css selector", ".heat")
    driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert heat.value_of_css_property("opacity") == "0.25"
    buttons = {b.text: b for b in card.find_elements("css selector", ".views button")}
    assert {"Heat map", "Truth"} <= set(buttons)
    for text, layer in (("Heat map", ".heat"), ("Truth", ".outline")):
        picture = card.find_element("css selector", layer)
        assert driver.execute_script("return arguments[0].decode().then(() => true)", picture)
        assert picture.value_of_css_property("visibility") == "visible"
        buttons[text].click()
        assert buttons[text].get_attribute("aria-pressed") == "false"
        assert picture.value_of_css_property("visibility") == "hidden"


def test_cards_without_maps_show_the_image_in_colour(opened):
    cards = [dataclasses.replace(card, anomaly_map=None) for card in CARDS[:6]]
    driver = opened(make_report(cards, threshold=THRESHOLD))
    assert names(driver) == [c.name for c in sorted(cards, key=lambda c: -c.score)]
    assert not driver.find_element("id", "opacity").is_displayed()
    assert driver.find_elements("css selector", "#cards .heat") == []
    card = driver.find_element("css selector", "#cards > li")
    buttons = {b.text for b in card.find_elements("css selector", ".views button")}
    assert "Heat map" not in buttons
    photo = card.find_element("css selector", ".photo")
    assert photo.value_of_css_property("filter") == "none"


def test_keyboard_reaches_the_slider_and_moves_it(opened):
    from selenium.webdriver.common.keys import Keys

    driver = opened(make_report(CARDS, threshold=0.75))
    reached = []
    for _ in range(8):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(driver.switch_to.active_element.get_attribute("id"))
        if reached[-1] == "threshold":
            break
    assert reached[-1] == "threshold"
    slider = driver.switch_to.active_element
    assert slider.value_of_css_property("outline-style") == "solid"
    slider.send_keys(Keys.END)
    assert counts(driver) == [0, 0, LABELS.sum(), (~LABELS).sum()]
    unnamed = driver.execute_script(
        "return [...document.querySelectorAll('input, select, button')].filter("
        "e => !(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    long = "x" * 150
    report = make_report(
        [make_card(long, 1, 2.0, np.eye(20, 30), defect=long, terms={long: 1.0}), *CARDS],
        title=long,
        summary=[(long, long, long)] * 3,
        threshold_note=long,
        curves=[Curve(long, long, long, np.array([0, 1]), np.array([0, 1]), long)],
        training={long: ([0, 1], [1.0, 2.0])},
        tables=[("wide", [long] * 5, [[long] * 5])],
        config_text=long,
        versions={long: long},
    )
    driver = opened(report, width, 780)
    driver.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    too_wide = driver.execute_script(
        "const w = document.documentElement.clientWidth; return [...document.body."
        "querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > w + 1 &&"
        "!e.closest('.wide, pre, svg')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert too_wide == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    "cards",
    [
        [],
        [make_card()],
        [make_card(score=float("inf")), make_card("b", 1, float("-inf"))],
        [make_card("a", 0, 1.0), make_card("b", 0, 1.0)],
        [make_card(NASTY, 1, 1.0, defect=NASTY, terms={NASTY: float("nan")})],
    ],
    ids=["none", "one", "infinite", "only good, ties", "odd names"],
)
def test_unusual_reports(opened, cards):
    driver = opened(make_report(cards, threshold=1.0, title=NASTY))
    assert driver.title.split() == NASTY.split()
    shown = [card.name for card in sorted(cards, key=lambda card: -card.score)]
    assert names(driver) == shown
    if cards:
        called = [card.score >= 1 for card in cards]
        assert sum(counts(driver)[:2]) == sum(called)
        for kind in driver.find_elements("css selector", "#kind option"):
            choose(driver, "kind", kind.get_attribute("value"))
            assert f"({len(names(driver))})" in kind.text


def test_two_thousand_images(opened):
    card = encode_card(make_card(), 0.0, 4.0)
    cards = [dataclasses.replace(card, name=f"{i}", score=float(i)) for i in range(2000)]
    driver = opened(dataclasses.replace(make_report(threshold=1990.0), cards=cards))
    assert names(driver) == [str(i) for i in range(1999, 1975, -1)]
    assert counts(driver) == [0, 10, 0, 1990]
    assert len(driver.find_elements("css selector", "#cards img")) == 48


def test_without_defective_images_what_only_they_have_is_not_shown(opened):
    driver = opened(make_report([make_card("a", 0, 1.0), make_card("b", 0, 2.0)], threshold=3.0))
    assert not any(e.is_displayed() for e in driver.find_elements("css selector", ".of-defective"))
    assert driver.find_element("id", "fp").is_displayed()
    driver = opened(make_report([make_card("a", 1, 1.0)], threshold=3.0))
    assert all(e.is_displayed() for e in driver.find_elements("css selector", ".of-defective"))


def test_disagreeing_experts_are_marked_and_shown(opened):
    said = [
        Opinion("left", 0.6, 3.0, 0.02, True, True),
        Opinion("right", 0.4, 1.0, 0.5, False, True),
    ]
    maps = {one.name: np.eye(20, 30, dtype=np.float32) for one in said}
    apart = make_card("apart", 1, 3.0, opinions=said, disagreement="left flags", expert_maps=maps)
    agree = make_card("agree", 0, 1.0, opinions=said)
    driver = opened(make_report([apart, agree], experts="In 1 of 2 images …"))
    assert "In 1 of 2" in driver.find_element("id", "gallery").text
    assert len(driver.find_elements("css selector", ".opinions")) == 2
    choose(driver, "opinion", "disagree")
    assert names(driver) == ["apart"]
    card = driver.find_element("css selector", "#cards > li")
    assert "left flags" in card.text
    heat = card.find_element("css selector", ".stage .heat")
    together = heat.get_attribute("src")
    first, second = card.find_elements("css selector", ".experts button")
    first.click()
    assert heat.get_attribute("src") != together
    second.click()
    assert [b.get_attribute("aria-pressed") for b in (first, second)] == ["false", "true"]
    second.click()
    assert heat.get_attribute("src") == together


def test_a_page_without_experts_has_none_of_their_controls(opened):
    driver = opened(make_report(CARDS, threshold=THRESHOLD))
    assert not driver.find_element("id", "opinion").is_displayed()
    assert driver.find_elements("css selector", ".opinions, .experts, .disagreement") == []
