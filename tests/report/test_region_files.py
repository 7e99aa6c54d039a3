"""Regions of new images: rows of a table and COCO annotations that agree with the map."""

import json

import numpy as np

from vtadl_jax.report.region_files import COLUMNS, MILLIMETRES, MOST, Regions


def map_with_squares():
    anomaly_map = np.zeros((50, 80), np.float32)
    anomaly_map[10:14, 20:30] = 2
    anomaly_map[12, 25] = 5
    anomaly_map[40:42, 70:72] = 3
    return anomaly_map


def test_rows_name_box_area_and_peak():
    regions = Regions(1.0)
    rows = regions.add("a/part.png", map_with_squares())
    assert regions.columns == COLUMNS
    first, second = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert [first[k] for k in ("top", "left", "bottom", "right")] == [10, 20, 14, 30]
    assert (first["area"], first["peak_row"], first["peak_column"]) == (40, 12, 25)
    assert float(first["share"]) == 40 / 4000
    assert (second["region"], float(second["peak"])) == (2, 3.0)


def test_sizes_in_millimetres_where_the_scale_is_known():
    regions = Regions(1.0, mm_per_pixel=0.5)
    row = dict(zip(regions.columns, regions.add("p", map_with_squares())[0], strict=True))
    assert [float(row[name]) for name in MILLIMETRES] == [2.0, 5.0, 10.0]


def test_annotations_are_those_of_coco(tmp_path):
    regions = Regions(1.0, min_area=10)
    regions.add("good.png", np.zeros((5, 5), np.float32))
    regions.add("bad.png", map_with_squares())
    regions.save(tmp_path / "regions.json")
    found = json.loads((tmp_path / "regions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["good.png", "bad.png"]
    (only,) = found["annotations"]
    assert (only["image_id"], only["bbox"], only["area"]) == (2, [20, 10, 10, 4], 40)
    assert found["categories"][0]["id"] == only["category_id"]


def test_of_too_many_regions_the_strongest_are_written_and_the_rest_counted():
    anomaly_map = np.zeros((60, 60), np.float32)
    anomaly_map[::2, ::2] = np.arange(900).reshape(30, 30) + 1
    regions = Regions(0.5)
    rows = regions.add("p", anomaly_map)
    assert (len(rows), regions.left_out) == (MOST, 900 - MOST)
    assert float(rows[0][COLUMNS.index("peak")]) == 900
