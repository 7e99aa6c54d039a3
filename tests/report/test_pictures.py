"""Facts about the pictures: sizes, colours, covered pixels, errors."""

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.report import colormap, pictures

CYAN = np.array([0, 229, 255])


def _example(height=40, width=64):
    image = np.full((height, width, 3), 120, np.uint8)
    anomaly_map = np.zeros((height, width), np.float32)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 : height // 2 + 6, 8:20] = 1
    anomaly_map[mask > 0] = 4.0
    return image, anomaly_map, mask


def _panels(monkeypatch, *args, **kwargs):
    """The panels as arrays by caption, as they are before they are laid out."""
    seen = {}
    arrange = pictures._arrange

    def spy(panels, title):
        seen.update({caption: np.asarray(panel) for caption, panel in panels})
        return arrange(panels, title)

    monkeypatch.setattr(pictures, "_arrange", spy)
    pictures.overlay_row(*args, **kwargs)
    return seen


def _lightness(rgb):
    """CIE L* of sRGB uint8."""
    channel = rgb / 255.0
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_lookup_table_rises_evenly_in_lightness():
    assert colormap.LUT.shape == (256, 3)
    assert colormap.LUT.dtype == np.uint8
    lightness = _lightness(colormap.LUT)
    assert np.diff(lightness).min() > 0
    # Inferno is even in CAM02-UCS; in CIE L* matplotlib's own table (3.11) is up to 5.5 off the
    # straight line, ours 5.6.
    assert np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256)).max() < 6


def test_colour_scale_ends_middle_and_beyond():
    values = np.array([[-np.inf, -1.0, 0.0], [1.0, 2.0, np.inf]], np.float32)
    got = colormap.apply(values, 0.0, 2.0)
    assert got.shape == (2, 3, 3)
    want = [0, 0, 0, 128, 255, 255]
    np.testing.assert_array_equal(got.reshape(-1, 3), colormap.LUT[want])


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_bad_scale(low, high):
    with pytest.raises(ValueError, match="finite low < high"):
        colormap.apply(np.zeros((2, 2)), low, high)
    image, anomaly_map, _ = _example()
    with pytest.raises(ValueError, match="finite low < high"):
        pictures.overlay_row(image, anomaly_map, low=low, high=high, title="")
    with pytest.raises(ValueError, match="finite low < high"):
        pictures.contact_sheet([Image.new("RGB", (9, 9))], low=low, high=high)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((28, 28), (168, 168)),  # whole factor, at least 160
        ((40, 112), (448, 160)),
        ((1024, 1024), (384, 384)),
        ((512, 1024), (384, 192)),
        ((300, 200), (200, 300)),  # neither small nor large: as it is
        ((1600, 200), (80, 640)),  # too narrow for both limits: the longer side decides
        ((1, 5000), (640, 1)),
    ],
)
def test_panel_size(monkeypatch, shape, size):
    image = np.zeros((*shape, 3), np.uint8)
    anomaly_map = np.zeros(shape, np.float32)
    mask = np.zeros(shape, bool)
    for panel in _panels(
        monkeypatch, image, anomaly_map, low=0, high=1, mask=mask, recon=image, title="t"
    ).values():
        assert panel.shape == (size[1], size[0], 3)


def test_panels_and_captions(monkeypatch):
    image, anomaly_map, mask = _example()
    scale = {"low": 0.0, "high": 4.0, "title": "t"}
    got = _panels(monkeypatch, image, anomaly_map, mask=mask, recon=image, **scale)
    assert list(got) == ["image", "ground truth", "anomaly map", "reconstruction"]
    got = _panels(monkeypatch, image, anomaly_map, mask=mask * 0, **scale)
    assert list(got) == ["image", "ground truth: normal", "anomaly map"]
    np.testing.assert_array_equal(got["ground truth: normal"], got["image"])
    got = _panels(monkeypatch, image, anomaly_map, **scale)
    assert list(got) == ["image", "no mask", "anomaly map"]
    got = _panels(monkeypatch, image, None, mask=mask, recon=image, **scale)
    assert list(got) == ["image", "ground truth", "reconstruction"]
    assert list(_panels(monkeypatch, image, None, **scale)) == ["image"]


@pytest.mark.parametrize("as_mask", [np.uint8, bool, lambda m: m * np.uint8(255)])
def test_outline_surrounds_the_defect_and_leaves_it_visible(monkeypatch, as_mask):
    image, anomaly_map, mask = _example()
    mask = mask.astype(as_mask) if isinstance(as_mask, type) else as_mask(mask)
    panel = _panels(monkeypatch, image, anomaly_map, low=0, high=4, mask=mask, title="t")[
        "ground truth"
    ]
    top, left, bottom, right = 20 * 4, 8 * 4, 26 * 4, 20 * 4  # 40x64 is drawn 4 times as large
    np.testing.assert_array_equal(panel[top:bottom, left:right], 120)
    for row, column in ((top - 1, left), (bottom, left), (top, left - 1), (top, right)):
        np.testing.assert_array_equal(panel[row, column], CYAN)
    np.testing.assert_array_equal(panel[:40], 120)


def test_outline_of_a_region_that_fills_the_image_and_of_a_thin_one(monkeypatch):
    image, anomaly_map, mask = _example()
    panel = _panels(
        monkeypatch, image, anomaly_map, low=0, high=4, mask=np.ones_like(mask), title="t"
    )["ground truth"]
    np.testing.assert_array_equal(panel[0], np.tile(CYAN, (panel.shape[1], 1)))
    np.testing.assert_array_equal(panel[2:-2, 2:-2], 120)
    image, anomaly_map, mask = _example(1500, 1500)
    mask[:] = 0
    mask[701, 300:900] = 1
    panel = _panels(monkeypatch, image, anomaly_map, low=0, high=4, mask=mask, title="t")[
        "ground truth"
    ]
    assert np.all(panel == CYAN, axis=-1).any(axis=0)[80:220].all()


def test_heat_is_interpolated_as_values_on_the_fixed_scale(monkeypatch):
    image, anomaly_map, mask = _example()
    heat = {
        high: _panels(monkeypatch, image, anomaly_map, low=0.0, high=high, mask=mask, title="t")[
            "anomaly map"
        ].astype(int)
        for high in (4.0, 8.0)
    }
    inside, outside = (23 * 4, 14 * 4), (10, 10)
    grey = 120 * (1 - pictures.HEAT_OPACITY)
    for high, index in ((4.0, 255), (8.0, 128)):
        for at, color in ((inside, index), (outside, 0)):
            want = grey + pictures.HEAT_OPACITY * colormap.LUT[color]
            assert np.abs(heat[high][at] - want).max() <= 1.5
    anomaly_map[0, 0], anomaly_map[0, 1] = np.inf, -np.inf
    pictures.overlay_row(image, anomaly_map, low=0.0, high=4.0, title="infinities are drawn")


def test_contact_sheet_holds_every_row_and_a_bar_over_the_whole_scale():
    image, anomaly_map, mask = _example()
    rows = [
        pictures.overlay_row(image, anomaly_map, low=0, high=4, mask=mask, title="a"),
        pictures.overlay_row(image, anomaly_map, low=0, high=4, recon=image, title="b"),
    ]
    sheet = np.asarray(pictures.contact_sheet(rows, low=0, high=4))
    assert sheet.shape[1] == max(row.width for row in rows)
    top = 0
    for row in rows:
        np.testing.assert_array_equal(sheet[top : top + row.height, : row.width], np.asarray(row))
        top += row.height
    colours = {tuple(pixel) for pixel in sheet[top:].reshape(-1, 3).tolist()}
    assert colours >= {tuple(color) for color in colormap.LUT.tolist()}


def test_contact_sheet_without_maps_has_no_bar():
    image, _, mask = _example()
    rows = [pictures.overlay_row(image, None, low=0, high=4, mask=mask, title="a")] * 2
    sheet = pictures.contact_sheet(rows, low=0, high=4, has_maps=False)
    assert sheet.size == (rows[0].width, 2 * rows[0].height)


def test_long_title_is_cut_and_does_not_widen_the_row():
    image, anomaly_map, _ = _example(28, 28)
    short, long = (
        pictures.overlay_row(image, anomaly_map, low=0, high=1, title=title)
        for title in ("x", "a/very/long\nfile name " * 30)
    )
    assert short.size == long.size


def test_arguments_stay_as_they_were():
    image, anomaly_map, mask = _example()
    before = image.copy(), anomaly_map.copy(), mask.copy()
    pictures.overlay_row(image, anomaly_map, low=1, high=2, mask=mask, recon=image, title="t")
    for array, copy in zip((image, anomaly_map, mask), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": np.zeros((40, 64, 3))}, r"image must be uint8 \[H, W, 3\], got float64"),
        ({"image": np.zeros((40, 64), np.uint8)}, r"image must be uint8 \[H, W, 3\]"),
        ({"anomaly_map": np.zeros((64, 40))}, r"anomaly_map has shape \(64, 40\)"),
        ({"anomaly_map": np.full((40, 64), np.nan)}, r"values are NaN and have no colour"),
        ({"mask": np.zeros((4, 4))}, r"mask has shape \(4, 4\), the image asks for \(40, 64\)"),
        ({"recon": np.zeros((4, 4, 3), np.uint8)}, r"recon has shape"),
        ({"recon": np.zeros((40, 64, 3))}, r"recon must be uint8"),
    ],
)
def test_errors(changes, reason):
    image, anomaly_map, _ = _example()
    arguments = {"image": image, "anomaly_map": anomaly_map} | changes
    with pytest.raises(ValueError, match=reason):
        pictures.overlay_row(**arguments, low=0, high=1, title="t")


def test_a_sheet_without_rows():
    with pytest.raises(ValueError, match="at least one row"):
        pictures.contact_sheet([], low=0, high=1)
