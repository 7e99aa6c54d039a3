"""The measurement of `data.regions`: backgrounds that change, parts that stay."""

import numpy as np

from vtadl_jax.benchmarks import regions
from vtadl_jax.data.decode import load_image
from vtadl_jax.data.regions.area import read_area


def test_backgrounds_change_and_parts_stay(tmp_path, monkeypatch):
    few = {"num_test_good": 1, "num_per_defect": 1}
    make = regions.make_dataset
    monkeypatch.setattr(regions, "make_dataset", lambda root, **k: make(root, **{**k, **few}))
    polygon = regions.make_images(tmp_path, "gear", 32, 2)
    inside = read_area(polygon).pixels
    assert 0.6 < inside.mean() < 0.75  # π · 0.47²
    images = sorted((tmp_path / "images").rglob("train/**/*.png"))
    plain = sorted((tmp_path / "plain").rglob("train/**/*.png"))
    assert len(images) == len(plain) == 2
    one, two = (load_image(path, 3) for path in images)
    np.testing.assert_array_equal(one[inside], load_image(plain[0], 3)[inside])
    assert np.mean(one[~inside] != two[~inside]) > 0.5
    masks = [sorted((tmp_path / n).rglob("*_mask.png")) for n in ("images", "plain")]
    assert [m.read_bytes() for m in masks[0]] == [m.read_bytes() for m in masks[1]]
    assert regions.make_images(tmp_path, "gear", 32, 2) == polygon


def test_the_table_has_a_row_for_each_run():
    row = {"regions": "with", "image_auroc": 0.9, "pixel_auroc": 0.8, "aupro": 0.7}
    lines = regions.table_of([{**row, "found": 0.5, "alarms": 0.25}])
    assert lines[2] == "| with | 0.900 | 0.800 | 0.700 | 50% | 25% |"
