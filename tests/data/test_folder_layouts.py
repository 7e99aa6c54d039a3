"""BTAD's layout, plain folders of images, and the mistakes that users make in them."""

import pytest

from tests.data.factory import fails, grey, noise, tree, write
from vtadl_jax.data.records import check_images, split_holdout
from vtadl_jax.data.sources.layouts import btad_layout, folder_layout

# BTAD's layout


def btad_tree(root):
    """Product 01 as BTAD has it: .bmp images, masks with the image's own stem as .png."""
    for i in range(3):
        write(root / "01" / "train" / "ok" / f"000{i}.bmp", noise((6, 8, 3), i))
    for i in range(2):
        write(root / "01" / "test" / "ok" / f"000{i}.bmp", noise((6, 8, 3), i))
        write(root / "01" / "test" / "ko" / f"000{i}.bmp", noise((6, 8, 3), i))
        write(root / "01" / "ground_truth" / "ko" / f"000{i}.png", grey(255, (6, 8)))
    return root


def test_btad(tmp_path):
    splits = btad_layout(btad_tree(tmp_path), "01")
    assert [r.name for r in splits.train] == [f"train/ok/000{i}.bmp" for i in range(3)]
    assert [(r.name, r.label, r.defect) for r in splits.test] == [
        ("test/ko/0000.bmp", 1, "ko"),
        ("test/ko/0001.bmp", 1, "ko"),
        ("test/ok/0000.bmp", 0, "good"),
        ("test/ok/0001.bmp", 0, "good"),
    ]
    for record in splits.test:
        mask = tmp_path / "01" / "ground_truth" / "ko" / f"{record.image.stem}.png"
        assert record.mask == (mask if record.label else None)
    check_images(splits)


def test_btad_names_its_own_folders_in_errors(tmp_path):
    root = btad_tree(tmp_path)
    with fails("unknown category '1'", "did you mean '01'?"):
        btad_layout(root, "1")
    with fails("no folder", "train/ok", "choose a category", "01"):
        btad_layout(root)


# A plain folder of good images


def plain(root):
    for i in range(10):
        write(root / "good" / f"{i}.png", grey(i))
    for i in range(3):
        write(root / "bad" / f"{i}.png", grey(100 + i))
        write(root / "masks" / f"{i}_mask.png", grey(255))
    return root


def test_good_images_alone(tmp_path):
    splits = folder_layout(plain(tmp_path) / "good")
    assert [r.name for r in splits.train] == [f"good/{i}.png" for i in range(10)]
    assert (splits.test, splits.category) == ((), "good")


def test_good_and_bad_images_and_masks(tmp_path):
    root = plain(tmp_path)
    splits = folder_layout(root / "good", "", root / "bad", root / "masks", 0.3, seed=1)
    normal = [r for r in splits.test if r.label == 0]
    assert len(splits.train) == 7
    assert len(normal) == 3
    assert {r.name for r in splits.train} | {r.name for r in normal} == {
        f"good/{i}.png" for i in range(10)
    }
    assert [(r.name, r.defect, r.mask) for r in splits.test if r.label] == [
        (f"bad/{i}.png", "bad", root / "masks" / f"{i}_mask.png") for i in range(3)
    ]
    again = folder_layout(root / "good", "", root / "bad", root / "masks", 0.3, seed=1)
    assert [r.name for r in again.test] == [r.name for r in splits.test]
    other = folder_layout(root / "good", "", root / "bad", root / "masks", 0.3, seed=2)
    assert [r.name for r in other.test] != [r.name for r in splits.test]


def test_bad_images_by_defect_with_some_masks(tmp_path):
    root = plain(tmp_path)
    for kind in ("dent", "scratch"):
        write(root / "kinds" / kind / "0.png", grey(3))
    write(root / "kind_masks" / "dent" / "0.png", grey(255))
    splits = folder_layout(root / "good", "", root / "kinds", root / "kind_masks")
    assert [(r.name, r.defect, r.mask is not None) for r in splits.test if r.label] == [
        ("dent/0.png", "dent", True),
        ("scratch/0.png", "scratch", False),
    ]


@pytest.mark.parametrize("name", ["good", "OK", "Normal"])
def test_good_images_beside_the_bad_ones(tmp_path, name):
    root = plain(tmp_path)
    for kind, count in ((name, 4), ("dent", 2)):
        for i in range(count):
            write(root / "test" / kind / f"{i}.png", grey(i))
    splits = folder_layout(root / "good", "", root / "test", "", 0.2, seed=1)
    normal = [r for r in splits.test if r.label == 0]
    assert [(r.name, r.defect) for r in normal[2:]] == [
        (f"bad/{name}/{i}.png", "good") for i in range(4)
    ]
    assert [r.name for r in splits.test if r.label] == ["dent/0.png", "dent/1.png"]
    assert len({r.name for r in splits.train + splits.test}) == 10 + 4 + 2
    (note,) = splits.notes
    assert f"the 4 images in {root / 'test' / name} count as good" in note


def test_bad_images_that_are_all_good(tmp_path):
    root = plain(tmp_path)
    write(root / "ok" / "0.png", grey(0))
    with fails("data.bad", "is a folder of good images by its name"):
        folder_layout(root / "good", "", root / "ok")
    write(root / "test" / "good" / "0.png", grey(0))
    with fails("data.bad", root / "test", "holds no images", "defective"):
        folder_layout(root / "good", "", root / "test")


# Masks of a plain folder's defects


def kinds(root, images=("dent/0", "dent/1", "scratch/2")):
    plain(root)
    for image in images:
        write(root / "kinds" / f"{image}.png", grey(3))
    return root / "good", "", root / "kinds"


def masks_of(splits):
    return {r.name: r.mask and r.mask.name for r in splits.test if r.label}


def test_masks_all_in_one_folder(tmp_path):
    arguments = kinds(tmp_path)
    for name in ("0_mask", "1-Mask", "scratch_2_gt"):
        write(tmp_path / "flat" / f"{name}.png", grey(255))
    assert masks_of(folder_layout(*arguments, tmp_path / "flat")) == {
        "dent/0.png": "0_mask.png",
        "dent/1.png": "1-Mask.png",
        "scratch/2.png": "scratch_2_gt.png",
    }
    write(tmp_path / "kinds" / "scratch" / "0.png", grey(3))
    with fails("mask", "0_mask.png may belong to", "dent/0.png or to", "scratch/0.png"):
        folder_layout(*arguments, tmp_path / "flat")


def test_folders_of_masks_in_another_case(tmp_path):
    arguments = kinds(tmp_path)
    write(tmp_path / "upper" / "Dent" / "1_MASK.png", grey(255))
    write(tmp_path / "upper" / "SCRATCH" / "2.png", grey(255))
    assert masks_of(folder_layout(*arguments, tmp_path / "upper")) == {
        "dent/0.png": None,
        "dent/1.png": "1_MASK.png",
        "scratch/2.png": "2.png",
    }
    write(tmp_path / "upper" / "DENT" / "1.png", grey(255))
    with fails("DENT", "Dent differ in case only"):
        folder_layout(*arguments, tmp_path / "upper")


def test_masks_in_folders_of_images_in_one(tmp_path):
    root = plain(tmp_path)
    for i in range(3):
        write(root / "sorted" / "dent" / f"{i}.png", grey(255))
    splits = folder_layout(root / "good", "", root / "bad", root / "sorted")
    assert masks_of(splits) == {f"bad/{i}.png": f"{i}.png" for i in range(3)}


def test_masks_that_are_not_found(tmp_path):
    arguments = kinds(tmp_path)
    (tmp_path / "empty").mkdir()
    with fails("data.masks", tmp_path / "empty", "holds no mask", "dent/0.png", "0_mask.png"):
        folder_layout(*arguments, tmp_path / "empty")
    for i in (7, 8, 9):
        write(tmp_path / "others" / f"{i}_mask.png", grey(255))
    with fails("mask", "7_mask.png has no image", "rename the mask", "2 more masks have none"):
        folder_layout(*arguments, tmp_path / "others")
    write(tmp_path / "kind" / "hole" / "0.png", grey(255))
    with fails("mask", "hole/0.png has no image", tmp_path / "kinds" / "hole"):
        folder_layout(*arguments, tmp_path / "kind")
    write(tmp_path / "kind" / "0.png", grey(255))
    with fails("kind/0.png is beside folders of masks"):
        folder_layout(*arguments, tmp_path / "kind")


def test_a_folder_in_a_known_layout_is_read_as_such(tmp_path):
    tree(tmp_path / "mvtec")
    btad_tree(tmp_path / "btad")
    assert len(folder_layout(tmp_path / "mvtec").test) == 4
    assert len(folder_layout(tmp_path / "btad", "01").test) == 4
    with fails("choose a category", "01"):
        folder_layout(tmp_path / "btad")
    with fails("data.bad", "leave them empty"):
        folder_layout(tmp_path / "mvtec", "", tmp_path / "btad")


def test_mistakes_in_plain_folders(tmp_path):
    root = plain(tmp_path)
    (root / "empty").mkdir()
    (root / "folder_in_it" / "inner").mkdir(parents=True)
    with fails("no images in", root / "empty", "good parts"):
        folder_layout(root / "empty")
    with fails("data.bad", root / "nowhere", "does not exist"):
        folder_layout(root / "good", "", root / "nowhere")
    with fails("data.bad", root / "empty", "no images"):
        folder_layout(root / "good", "", root / "empty")
    with fails("data.masks", "needs data.bad"):
        folder_layout(root / "good", "", "", root / "masks")
    with fails("mask", root / "masks" / "2_mask.png", "has no image", root / "bad"):
        (root / "bad" / "2.png").unlink()
        folder_layout(root / "good", "", root / "bad", root / "masks")
    write(root / "folder_in_it" / "0.png", grey(1))
    with fails("inner", "inside a folder of images"):
        folder_layout(root / "folder_in_it")
    (root / "good" / "notes.txt").write_text("x")
    with fails(root / "good" / "notes.txt", "is not an image"):
        folder_layout(root / "good")
    write(root / "mixed" / "a.png", grey(1))
    write(root / "mixed" / "dent" / "a.png", grey(1))
    (root / "good" / "notes.txt").unlink()
    with fails(root / "mixed" / "a.png", "beside folders of defects"):
        folder_layout(root / "good", "", root / "mixed")


def test_one_image_cannot_be_shared_out(tmp_path):
    root = plain(tmp_path)
    write(root / "single" / "a.png", grey(1))
    with fails("data.test_fraction 0.2", "1 images"):
        folder_layout(root / "single", "", root / "bad")
    with fails("data.holdout_fraction 0.1", "1 images"):
        split_holdout(folder_layout(root / "single").train, 0.1, 0)


def test_a_misspelt_category_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "bottle/train/good/0.png", noise((8, 6)))
    with fails("no folder", tmp_path / "bottel", "did you mean 'bottle'?", "the category"):
        folder_layout(tmp_path, "bottel")


def test_a_folder_of_folders_is_refused_with_the_one_that_may_be_meant(tmp_path):
    for name in ("bad/0.png", "good/0.png", "masks/0.png"):
        write(tmp_path / name, noise((8, 6)))
    with fails("holds no images, only folders (bad, good, masks)", f"root={tmp_path / 'good'}"):
        folder_layout(tmp_path)


def test_the_good_images_are_not_the_defective_ones_too(tmp_path):
    write(tmp_path / "parts/0.png", noise((8, 6)))
    with fails("data.bad", "is the folder of good images"):
        folder_layout(tmp_path / "parts", bad=tmp_path / "parts/../parts")
