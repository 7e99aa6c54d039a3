"""Files of `data.regions`: masks, polygons in the forms of LabelMe and COCO, and their faults."""

import json

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.data.regions.area import at_size, read_area
from vtadl_jax.data.regions.polygons import to_labelme
from vtadl_jax.errors import UserError

SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]
SIZE = (40, 60)  # height, width


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def labelme(*shapes):
    return to_labelme(SIZE, shapes, "part.png")


def coco(**changes):
    flat = [x for point in SQUARE for x in point]
    found = {
        "images": [{"id": 7, "height": 40, "width": 60, "file_name": "part.png"}],
        "categories": [{"id": 1, "name": "inspect"}, {"id": 2, "name": "ignore"}],
        "annotations": [{"image_id": 7, "category_id": 1, "segmentation": [flat]}],
    }
    return {**found, **changes}


def test_a_mask_is_inspected_where_it_is_white(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:25, 10:30] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_area(tmp_path / "mask.png").pixels, pixels > 0)


def test_polygons_of_both_forms_are_the_same(tmp_path):
    one = read_area(save(tmp_path / "a.json", labelme(("inspect", SQUARE)))).pixels
    two = read_area(save(tmp_path / "b.json", coco())).pixels
    np.testing.assert_array_equal(one, two)
    wanted = np.zeros(SIZE, bool)
    wanted[5:25, 10:30] = True
    assert one.shape == SIZE
    assert np.count_nonzero(one ^ wanted) <= 84  # the pixels along its outline


def test_ignored_polygons_are_cut_out(tmp_path):
    hole = [[15, 10], [25, 10], [25, 20], [15, 20]]
    both = labelme(("inspect", SQUARE), ("Ignore", hole))
    found = read_area(save(tmp_path / "a.json", both)).pixels
    assert found[7, 12]
    assert not found[15, 20]
    only = read_area(save(tmp_path / "b.json", labelme(("ignore", hole)))).pixels
    assert only[0, 0]
    assert not only[15, 20]


def test_rectangles_and_circles_of_labelme(tmp_path):
    shapes = labelme(("inspect", SQUARE))
    shapes["shapes"][0] |= {"shape_type": "rectangle", "points": [[10, 5], [30, 25]]}
    assert read_area(save(tmp_path / "a.json", shapes)).pixels[15, 20]
    shapes["shapes"][0] |= {"shape_type": "circle", "points": [[30, 20], [30, 30]]}
    round_one = read_area(save(tmp_path / "b.json", shapes)).pixels
    assert 280 < round_one.sum() < 380  # π · 10²
    shapes["shapes"][0]["shape_type"] = "linestrip"
    with pytest.raises(UserError, match="is a 'linestrip': use polygons"):
        read_area(save(tmp_path / "c.json", shapes))


def test_one_category_of_another_name_is_inspected_with_a_line(tmp_path):
    found = read_area(save(tmp_path / "a.json", labelme(("gasket", SQUARE))))
    assert found.pixels[15, 20]
    assert not found.pixels[0, 0]
    assert "category 'gasket' are what is inspected" in found.notes[0]


def test_polygons_that_leave_the_image_are_cut_with_a_line(tmp_path):
    wide = [[-20, -20], [30, -20], [30, 25], [-20, 25]]
    found = read_area(save(tmp_path / "a.json", labelme(("inspect", wide))))
    assert found.pixels[0, 0]
    assert "is cut by its image of 60×40" in found.notes[0]


def test_a_region_of_everything_has_a_line(tmp_path):
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "mask.png")
    assert "everything is inspected" in read_area(tmp_path / "mask.png").notes[0]


FAULTS = {
    "ignores every pixel": labelme(("ignore", [[-1, -1], [99, -1], [99, 99], [-1, 99]])),
    "has no polygon": labelme(),
    "has a, b: give LabelMe": {"a": 1, "b": 2},
    "can't be read": "{",
    "can't be read (": "[1, 2]",
    "is beside its image of 60×40": labelme(("inspect", [[70, 5], [80, 5], [80, 9]])),
    "shapes[0].points[1] is [nan": '{"shapes": [{"label": "inspect", "points": [[1, 2], [NaN, 3], '
    '[5, 6]]}], "imageHeight": 40, "imageWidth": 60}',
    "has 2 different points": labelme(("inspect", [[1, 1], [9, 9], [1, 1]])),
    "has the categories 'bolt', 'nut'": labelme(("bolt", SQUARE), ("nut", SQUARE)),
    "shapes[0] has no name": labelme(("", SQUARE)),
    "imageHeight, imageWidth are 40, None": {**labelme(("inspect", SQUARE)), "imageWidth": None},
    "has 2 images": coco(images=coco()["images"] * 2),
    "segmentation is no list of polygons": coco(
        annotations=[{"image_id": 7, "category_id": 1, "segmentation": {"counts": "a"}}]
    ),
    "is no list x, y, x, y": coco(
        annotations=[{"image_id": 7, "category_id": 1, "segmentation": [[1, 2, 3]]}]
    ),
    "has no category_id": coco(annotations=[{"image_id": 7, "segmentation": [[1, 2, 3, 4, 5, 6]]}]),
    "categories is no list": coco(categories=None),
}


@pytest.mark.parametrize("line", FAULTS)
def test_faults_name_the_file_and_the_place(tmp_path, line):
    path = save(tmp_path / "regions.json", FAULTS[line])
    with pytest.raises(UserError) as error:
        read_area(path)
    assert line in str(error.value)
    assert "regions.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_faults_of_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_area(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"\.txt: use one of"):
        read_area(save(tmp_path / "a.txt", "x"))
    with pytest.raises(UserError, match="is no mask"):
        read_area(save(tmp_path / "a.png", "x"))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="ignores every pixel"):
        read_area(tmp_path / "black.png")


def test_regions_are_scaled_to_images_of_their_aspect_only():
    area = np.zeros((40, 60), bool)
    area[:20] = True
    twice = at_size(area, (80, 120))
    assert twice.shape == (80, 120)
    assert twice[:40].all()
    assert not twice[40:].any()
    assert at_size(area, (41, 61)).shape == (41, 61)  # as rounding leaves it
    with pytest.raises(UserError, match="is 60×40 and an image 60×60"):
        at_size(area, (60, 60))
