"""Published sets in the layouts of their archives, as small trees."""

import json

import numpy as np
import pytest

from tests.data.factory import noise, write
from tests.data.trees import block
from tests.factory import tiny_config, with_fields
from vtadl_jax.data.decode import load_mask
from vtadl_jax.data.sources import all_categories, load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.metric_table import View
from vtadl_jax.evaluation.outputs import EvalOutputs
from vtadl_jax.evaluation.saturation import anomalies, regions_of

EMPTY = np.zeros((24, 32), np.uint8)
SEEDS = iter(range(10_000))


def image(path):
    return write(path, noise((24, 32, 3), next(SEEDS)))


def visa_tree(root):
    rows = ["object,split,label,image,mask"]
    for split, kind, count in (
        ("train", "Normal", 4),
        ("test", "Normal", 2),
        ("test", "Anomaly", 3),
    ):
        for i in range(count):
            place = f"pcb1/Data/Images/{kind}/{split}{i}.JPG"
            image(root / place)
            mask = f"pcb1/Data/Masks/Anomaly/{split}{i}.png" if kind == "Anomaly" else ""
            if mask:
                write(root / mask, block(i))
            label = "anomaly" if kind == "Anomaly" else "normal"
            rows.append(f"pcb1,{split},{label},{place},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")


def ad2_tree(root):
    base = root / "can"
    for folder, count in (("train/good", 3), ("validation/good", 1), ("test_public/good", 2)):
        for i in range(count):
            image(base / folder / f"{i:03}_regular.png")
    for i in range(3):
        image(base / "test_public" / "bad" / f"{i:03}_regular.png")
        write(base / "test_public/ground_truth/bad" / f"{i:03}_regular_mask.png", block(i))
    image(base / "test_private" / "000.png")


def loco_tree(root):
    base = root / "breakfast_box"
    for folder, count in (("train/good", 3), ("validation/good", 1), ("test/good", 2)):
        for i in range(count):
            image(base / folder / f"{i:03}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for i in range(2 if kind[0] == "l" else 1):
            image(base / "test" / kind / f"{i:03}.png")
            for part in range(2):
                write(base / "ground_truth" / kind / f"{i:03}" / f"{part:03}.png", block(4 * part))


def iad_tree(root):
    content = {"meta": {"prefix": "usb/", "normal_class": "OK", "pre_transform": False}}
    for split, kinds in (("train", ["OK"] * 4), ("test", ["OK", "OK", "AK", "AK", "ZW"])):
        content[split] = []
        for i, kind in enumerate(kinds):
            place = f"{kind}/S{i:04}/usb_{split}_{i}.jpg"
            image(root / "realiad_512" / "usb" / place)
            mask = None
            if kind != "OK":
                mask = place.replace(".jpg", ".png")
                write(root / "realiad_512" / "usb" / mask, block(i))
            item = {"category": "usb", "anomaly_class": kind, "image_path": place}
            content[split].append({**item, "mask_path": mask})
    (root / "realiad_jsons").mkdir()
    (root / "realiad_jsons" / "usb.json").write_text(json.dumps(content))


def sdd_tree(root):
    for item in range(6):
        for part in range(2):
            folder = root / f"kos{item:02}"
            image(folder / f"Part{part}.jpg")
            bad = item < 2 and part == 1
            write(folder / f"Part{part}_label.bmp", block(0) if bad else EMPTY)


def sdd2_tree(root):
    for folder, bad in (("train", (3,)), ("test", (2, 3))):
        for i in range(5):
            image(root / folder / f"{10000 + i}.png")
            write(root / folder / f"{10000 + i}_GT.png", block(0) if i in bad else EMPTY)


def dagm_tree(root):
    for folder, bad in (("Train", (3,)), ("Test", (2, 3))):
        for i in range(5):
            image(root / "Class1" / folder / f"{i:04}.PNG")
        for i in bad:
            write(root / "Class1" / folder / "Label" / f"{i:04}_label.PNG", block(0))


# source → tree, category, numbers of (training, good test, defective test) images
CASES = {
    "visa": (visa_tree, "pcb1", (4, 2, 3)),
    "mvtec_ad2": (ad2_tree, "can", (4, 2, 3)),
    "mvtec_loco": (loco_tree, "breakfast_box", (4, 2, 3)),
    "real_iad": (iad_tree, "usb", (4, 2, 3)),
    "kolektor_sdd": (sdd_tree, "", (4, 6, 2)),
    "kolektor_sdd2": (sdd2_tree, "", (4, 3, 2)),
    "dagm": (dagm_tree, "Class1", (4, 3, 2)),
}


def config_of(root, source, category, **fields):
    return tiny_config(root, data__source=source, data__category=category, **fields)


@pytest.mark.parametrize("source", CASES)
def test_a_set_is_read_in_the_layout_of_its_archive(source, tmp_path, capsys):
    tree, category, counts = CASES[source]
    tree(tmp_path)
    config = config_of(tmp_path, source, category)
    assert all_categories(config) == (category,)
    splits = load_splits(config)
    good = [record for record in splits.test if not record.label]
    bad = [record for record in splits.test if record.label]
    assert (len(splits.train), len(good), len(bad)) == counts
    assert not any(record.label or record.mask for record in [*splits.train, *good])
    for record in bad:
        assert load_mask(record.mask).any()
    names = [record.name for record in [*splits.train, *splits.test]]
    assert len(set(names)) == len(names)


def test_several_masks_of_an_image_are_joined(tmp_path):
    loco_tree(tmp_path)
    splits = load_splits(config_of(tmp_path, "mvtec_loco", "breakfast_box"))
    record = next(record for record in splits.test if record.label)
    joined = (block(0) > 0) | (block(4) > 0)
    np.testing.assert_array_equal(load_mask(record.mask), joined)


NUMBERS = ("pixel_value", "saturation_threshold", "relative_saturation")
KINDS = [dict(zip(NUMBERS, kind, strict=True)) for kind in ((255, 6, False), (200, 0.5, True))]


def test_saturations_are_read_and_anomalies_stay_apart(tmp_path):
    loco_tree(tmp_path)
    table = tmp_path / "breakfast_box" / "defects_config.json"
    table.write_text(json.dumps(KINDS))
    second = tmp_path / "breakfast_box/ground_truth/logical_anomalies/000/001.png"
    write(second, (block(4) > 0).astype(np.uint8) * 200)
    splits = load_splits(config_of(tmp_path, "mvtec_loco", "breakfast_box"))
    mask = next(record for record in splits.test if record.label).mask
    areas = [int((block(at) > 0).sum()) for at in (0, 4)]
    whole = anomalies(mask, None)
    assert [int(each.mask.sum()) for each in whole] == areas
    assert [each.saturation for each in whole] == [6, areas[1] // 2]
    smaller = anomalies(mask, Geometry((12, 16)))
    for each, large, area in zip(smaller, whole, areas, strict=True):
        part = each.saturation / each.mask.sum()
        assert part == pytest.approx(large.saturation / area)  # the same share is enough


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "can't be read as the kinds of defect"),
        ("[{}]", "can't be read as the kinds of defect"),
        (json.dumps([KINDS[1] | {"saturation_threshold": 1.5}]), "saturation_threshold 1.5"),
        (json.dumps(KINDS[1:]), "has the values 255, and defects_config.json knows 200"),
    ],
)
def test_damaged_saturations_end_in_one_line(tmp_path, text, reason):
    loco_tree(tmp_path)
    (tmp_path / "breakfast_box" / "defects_config.json").write_text(text)

    def read():
        splits = load_splits(config_of(tmp_path, "mvtec_loco", "breakfast_box"))
        return anomalies(next(record for record in splits.test if record.label).mask, None)

    with pytest.raises(UserError, match=reason) as error:
        read()
    assert "\n" not in str(error.value)


def test_without_saturations_a_note_says_what_is_left_out(tmp_path, capsys):
    loco_tree(tmp_path)
    load_splits(config_of(tmp_path, "mvtec_loco", "breakfast_box"))
    assert "so the metric sPRO is left out" in "".join(capsys.readouterr())


def test_defective_training_images_are_named_in_a_note(tmp_path, capsys):
    sdd2_tree(tmp_path)
    load_splits(config_of(tmp_path, "kolektor_sdd2", ""))
    assert "1 defective training images are not read" in "".join(capsys.readouterr())


def test_no_item_is_on_both_sides(tmp_path):
    sdd_tree(tmp_path)
    splits = load_splits(config_of(tmp_path, "kolektor_sdd", "", data__test_fraction=0.5))
    sides = [{record.name.split("/")[0] for record in side} for side in (splits.train, splits.test)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 6


@pytest.mark.parametrize("source", CASES)
def test_another_folder_and_another_category_end_in_one_line(source, tmp_path):
    tree, category, _ = CASES[source]
    with pytest.raises(UserError, match="does not look like"):
        load_splits(config_of(tmp_path, source, category))
    if category:
        tree(tmp_path)
        with pytest.raises(UserError, match=category):
            load_splits(config_of(tmp_path, source, "no_such"))


def outputs_of(test, maps, inside=()):
    """What an evaluation of the records finds, with these maps."""
    count = len(test)
    return EvalOutputs(
        np.zeros((count, 1)),
        list(maps),
        [np.zeros(m.shape, np.uint8) if r.mask is None else (load_mask(r.mask) > 0)
         for r, m in zip(test, maps, strict=True)],
        np.array([r.label for r in test]),
        np.ones(count, bool),
        np.zeros((count, 1)),
        inside=list(inside),
    )  # fmt: skip


def au_spro_of(test, outputs, config):
    view = View.of(outputs, np.zeros(len(test)), 0.3, **regions_of(test, outputs, config))
    return view.au_spro()


def test_the_saturated_metric_counts_inspected_pixels_only(tmp_path):
    loco_tree(tmp_path)
    (tmp_path / "breakfast_box" / "defects_config.json").write_text(json.dumps(KINDS))
    config = config_of(tmp_path, "mvtec_loco", "breakfast_box")
    config = with_fields(config, eval__original_size=True)
    test = load_splits(config).test
    rng = np.random.default_rng(0)
    maps = rng.random((len(test), 24, 32))
    everywhere = np.ones(maps.shape, bool)
    whole = au_spro_of(test, outputs_of(test, maps), config)
    assert 0 < whole < 1
    assert au_spro_of(test, outputs_of(test, maps, everywhere), config) == pytest.approx(whole)
    inside = everywhere.copy()
    inside[:, :, 26:] = False
    found = au_spro_of(test, outputs_of(test, maps, inside), config)
    other = np.where(inside, maps, rng.random(maps.shape) * 9)
    assert au_spro_of(test, outputs_of(test, other, inside), config) == pytest.approx(found)
    assert found != pytest.approx(whole)


def test_the_saturated_metric_of_windows_has_the_size_of_their_maps(tmp_path):
    loco_tree(tmp_path)
    (tmp_path / "breakfast_box" / "defects_config.json").write_text(json.dumps(KINDS))
    config = config_of(tmp_path, "mvtec_loco", "breakfast_box")
    config = with_fields(config, data__windows__side=32)
    test = load_splits(config).test
    maps = np.random.default_rng(0).random((len(test), 12, 16))
    found = regions_of(test, outputs_of(test, maps), config)["regions"]
    assert {one.mask.shape for each in found for one in each} == {(12, 16)}
