"""Facts about the page's file: its content, its security policy, and the inputs it rejects."""

import base64
import dataclasses
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.errors import UserError
from vtadl_jax.report import charts, colormap, page
from vtadl_jax.report.page import Card, Curve, Report, encode_card, write_page
from vtadl_jax.report.template import digest

NASTY = "</script><script>alert(\"1\")</script> 'é漢' & <!-- {{ js }}"


def make_card(name="good/000.png", label=0, score=1.0, mask=None, recon=None, **more):
    rng = np.random.default_rng(len(name))
    image = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    values = {
        "defect": "scratch" if label else "good",
        "terms": {"mse": 0.5, "nll": -2.0},
        "image": image,
        "anomaly_map": rng.normal(2, 1, (20, 30)).astype(np.float32),
    } | more
    return Card(name=name, label=label, score=score, mask=mask, recon=recon, **values)


def make_report(cards=(), **changes):
    empty = Report(
        title="Plates",
        subtitle="a test",
        summary=[("AUROC", "0.9", "rank")],
        cards=[encode_card(card, 0.0, 4.0) for card in cards],
        map_low=0.0,
        map_high=4.0,
        threshold=0.5,
        threshold_note="largest F1",
        curves=[],
        training={},
        tables=[],
        config_text="",
        versions={},
    )
    return dataclasses.replace(empty, **changes)


def written(tmp_path, report):
    write_page(tmp_path / "report.html", report)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def stored(text, name):
    block = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    return json.loads(block[1], parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def pixels(url):
    kind, data = re.fullmatch(r"data:image/(webp|png);base64,(.*)", url).groups()
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format.lower() == kind
    return picture


def test_a_card_says_what_is_unlike_all_training_images(tmp_path):
    cards = [make_card(), make_card("test/black.png", unlike="darker than the darkest")]
    found = stored(written(tmp_path, make_report(cards)), "data")["cards"]
    assert [card["unlike"] for card in found] == ["", "darker than the darkest"]


def test_numbers_survive_exactly(tmp_path):
    scores = [0.1 + 0.2, float(np.float32(1) / 3), float("inf"), float("-inf")]
    cards = [make_card(f"{i}", i % 2, s) for i, s in enumerate(scores)]
    cards[0] = dataclasses.replace(cards[0], terms={"mse": float("nan"), "nll": float("inf")})
    data = stored(written(tmp_path, make_report(cards, threshold=1 / 3)), "data")
    assert [float(card["score"]) for card in data["cards"]] == scores
    assert [card["label"] for card in data["cards"]] == [0, 1, 0, 1]
    assert data["cards"][0]["terms"] == {"mse": None, "nll": "Infinity"}
    assert data["threshold"] == 1 / 3


def test_names_are_escaped_everywhere(tmp_path):
    report = make_report(
        [make_card(NASTY, 1, defect=NASTY, terms={NASTY: 1.0})],
        title=NASTY,
        subtitle=NASTY,
        summary=[(NASTY, NASTY, NASTY)],
        threshold_note=NASTY,
        curves=[Curve(NASTY, NASTY, NASTY, np.array([0, 1]), np.array([0, 1]), NASTY)],
        training={NASTY: ([0, 1], [1.0, 2.0])},
        tables=[(NASTY, [NASTY], [[NASTY]])],
        config_text=NASTY,
        versions={NASTY: NASTY},
    )
    text = written(tmp_path, report)
    assert "<script>alert" not in text
    assert 'alert("1")' not in text
    assert text.count("</script>") == 3  # numbers, one card, code
    assert stored(text, "data")["cards"][0]["name"] == NASTY
    # Also what looks like a placeholder: it stands as it was given.
    assert text.count(html.escape(NASTY)) >= 15


def test_a_name_that_is_not_utf8_is_written(tmp_path):
    report = make_report([make_card("bad\udc80.png")], config_text="root = bad\udc80")
    text = written(tmp_path, report)
    assert "root = bad?" in text
    assert stored(text, "data")["cards"][0]["name"] == "bad\udc80.png"


def test_nothing_is_loaded_and_only_our_code_runs(tmp_path):
    text = written(tmp_path, make_report([make_card(label=1, mask=np.eye(20, 30))]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    assert set(re.findall(r"https?://[^\"'\s]*", text)) == {"http://www.w3.org/2000/svg"}
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        (code,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert f"{kind} '{digest(code)}'" in policy
    assert not re.search(r"\s(style|on\w+)=", text)


def test_heat_map_has_the_colours_of_the_scale():
    ramp = np.linspace(-1, 5, 30, dtype=np.float32)
    anomaly_map = np.tile(ramp, (20, 1))
    anomaly_map[0, 0], anomaly_map[0, -1] = -np.inf, np.inf
    encoded = encode_card(make_card(anomaly_map=anomaly_map), 0.0, 4.0)
    got = np.asarray(pixels(encoded.heat).resize((30, 20), Image.Resampling.BOX), int)
    want = colormap.apply(anomaly_map, 0.0, 4.0).astype(int)
    assert np.abs(got - want)[3:-3, 2:-2].mean() < 12  # lossy, and the ramp has corners
    bar = np.asarray(pixels(page.colour_bar()))
    np.testing.assert_array_equal(bar[0], colormap.LUT)


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((1024, 512), (192, 384)),
        ((20, 30), (210, 140)),
        ((256, 300), (300, 256)),
        ((1, 900), (384, 1)),
    ],
)
def test_picture_size(shape, want):
    card = make_card(image=np.zeros((*shape, 3), np.uint8), anomaly_map=np.zeros(shape, np.float32))
    encoded = encode_card(card, 0.0, 1.0)
    assert (encoded.width, encoded.height) == want
    assert pixels(encoded.image).size == pixels(encoded.heat).size == want


@pytest.mark.parametrize("big", [False, True])
def test_outline_is_around_the_defect_and_not_on_it(big):
    side = 1536 if big else 192
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 4 : side // 2] = True
    mask[side - 20, 10] = True  # one pixel may not vanish
    card = make_card(
        image=np.zeros((side, side, 3), np.uint8),
        anomaly_map=np.zeros((side, side), np.float32),
        mask=mask,
        label=1,
    )
    drawn = np.asarray(pixels(encode_card(card, 0.0, 1.0).outline).convert("RGBA"))
    s = len(drawn) / 192
    q = [round(v * s) for v in (48, 96)]
    assert (drawn[q[0] : q[1], q[0] : q[1], 3] == 0).all()
    np.testing.assert_array_equal(drawn[round(70 * s), q[0] - 1], [0, 229, 255, 255])
    assert drawn[round(0.88 * len(drawn)) :, : round(0.2 * len(drawn)), 3].any()


def test_outline_needs_a_defect_in_the_mask():
    clean = encode_card(make_card(mask=np.zeros((20, 30), np.uint8)), 0.0, 1.0)
    unknown = encode_card(make_card(label=1), 0.0, 1.0)
    assert (clean.outline, clean.has_truth) == (None, True)
    assert (unknown.outline, unknown.has_truth) == (None, False)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"score": float("nan")}, "score of 'good/000.png' is NaN"),
        ({"anomaly_map": np.zeros((3, 3), np.float32)}, "anomaly_map has shape"),
        ({"anomaly_map": np.full((20, 30), np.nan, np.float32)}, "NaN"),
        ({"mask": np.zeros((3, 3))}, "mask has shape"),
        ({"recon": np.zeros((20, 30, 3), np.float32)}, "recon must be uint8"),
        ({"image": np.zeros((20, 30), np.uint8)}, "image must be uint8"),
    ],
)
def test_cards_that_cannot_be_shown(change, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        encode_card(make_card(**change), 0.0, 1.0)


def test_a_card_without_a_map_has_no_heat(tmp_path):
    card = make_card(anomaly_map=None, mask=np.eye(20, 30), label=1)
    assert encode_card(card, 0.0, 1.0).heat is None
    text = written(tmp_path, make_report([card]))
    assert stored(text, "card-0")["heat"] is None
    assert stored(text, "card-0")["outline"] is not None
    hidden = '<div class="row" hidden>\n<label>Heat map'
    assert hidden in text
    assert hidden not in written(tmp_path, make_report([card, make_card()]))


def test_empty_parts_are_hidden(tmp_path):
    text = written(tmp_path, make_report(summary=[]))
    assert len(re.findall(r"<section[^>]*hidden>", text)) == 6
    assert "{{" not in text
    full = make_report(
        [make_card()],
        curves=[Curve("ROC", "fpr", "tpr", np.array([0, 1]), np.array([0, 1]), "")],
        training={"loss": ([], [])},
        notice="these figures are not of a test",
    )
    assert not re.search(r"<section[^>]*hidden>", written(tmp_path, full))


def test_tables_align_numbers(tmp_path):
    rows = [["dent", 9, 0.91234, None], ["stain", 12, float("nan"), "–"]]
    text = written(tmp_path, make_report(tables=[("Kinds", ["kind", "n", "auroc", "x"], rows)]))
    assert '<td>dent</td><td class="number">9</td><td class="number">0.9123</td><td>–</td>' in text
    assert '<td>stain</td><td class="number">12</td><td class="number">–</td><td>–</td>' in text


def test_the_old_page_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="threshold must be finite, got nan"):
        write_page(path, make_report(threshold=float("nan")))
    with pytest.raises(AttributeError):
        write_page(path, make_report(cards=[None]))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"none/report.html can't be written \(No such file"):
        write_page(tmp_path / "none" / "report.html", make_report())


# ---- charts ----


def points(svg):
    found = re.search(r'<polyline class="line" points="([^"]*)"', svg)[1]
    return np.array([p.split(",") for p in found.split()], float)


def draw(x, y, **more):
    return charts.line_chart(x, y, x_label="x", y_label="y", name="n", **more)


def tick_texts(svg):
    return re.findall(r'<text class="tick"[^>]*>([^<]*)</text>', svg)


def test_a_curve_up_to_its_limit_fills_the_chart():
    got = points(draw([0, 0.15, 0.3], [0, 0.5, 1], unit=True))
    whole = points(draw([0, 0.5, 1], [0, 0.5, 1], unit=True))
    np.testing.assert_array_equal(got, whole)
    np.testing.assert_allclose(got[1], (got[0] + got[2]) / 2, atol=0.06)
    assert "0.3" in tick_texts(draw([0, 0.3], [0, 1], unit=True))


def test_a_long_curve_is_thinned_without_losing_its_extremes():
    y = np.sin(np.arange(200_000) / 40.0)
    y[123_456] = 9.0
    long = points(draw(np.arange(200_000), y))
    assert len(long) <= 4 * charts.WIDTH
    edges = points(draw([0, 123_456, 199_999], [y.min(), 9.0, y[-1]]))
    assert long[:, 1].min() == edges[1, 1]
    assert long[:, 1].max() == edges[0, 1]
    assert (np.diff(long[:, 0]) >= 0).all()


def test_values_that_are_not_finite_are_left_out():
    svg = draw([0, 1, 2, 3], [1, np.nan, np.inf, 2])
    assert len(points(svg)) == 2
    assert "nan" not in svg
    assert "no finite values" in draw([0, 1], [np.nan, np.inf])
    assert "<circle" in draw([7], [7])


@pytest.mark.parametrize("value", [0.0, 1e-4, -5.0, 1e30, 5e-324])
def test_a_constant_has_an_axis(value):
    svg = draw([0, 10], [value, value])
    assert len(set(points(svg)[:, 1])) == 1
    assert max(map(len, tick_texts(svg))) <= 8


def test_a_wide_positive_range_is_drawn_in_logarithms():
    got = points(draw([0, 1, 2], [1, 100, 10_000]))
    np.testing.assert_allclose(got[1, 1], (got[0, 1] + got[2, 1]) / 2, atol=0.06)
    assert {"1", "100", "10k"} <= set(tick_texts(draw([0, 1], [1, 10_000])))
    assert "log scale" not in draw([0, 1], [-1, 10_000])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 11), (1e-9, 3e-9), (999.5, 1000.5)])
def test_ticks_are_few_round_and_inside(low, high):
    got = np.array(charts.nice_ticks(low, high))
    assert 3 <= len(got) <= 7
    assert (got >= low - 1e-6 * (high - low)).all()
    assert (got <= high + 1e-6 * (high - low)).all()
    step = got[1] - got[0]
    assert float(f"{step:.6e}".split("e")[0]) in (1, 2, 5)
