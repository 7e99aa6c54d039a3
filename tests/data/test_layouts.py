"""Folder layouts and the mistakes that users make in them."""

from pathlib import Path

import pytest

from tests.data.factory import fails, grey, noise, tree, write
from vtadl_jax.data.layouts import btad_layout, folder_layout, mvtec_layout
from vtadl_jax.data.records import check_images, split_holdout

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def test_layout_of_a_category(tmp_path):
    tree(tmp_path / "nut")
    splits = mvtec_layout(tmp_path, "nut")
    assert splits.category == "nut"
    assert [r.name for r in splits.train] == [f"train/good/{i}.png" for i in range(3)]
    assert [(r.defect, r.label, bool(r.mask)) for r in splits.test] == [
        ("good", 0, False),
        ("good", 0, False),
        ("scratch", 1, True),
        ("scratch", 1, True),
    ]
    last = splits.test[-1]
    assert last.image == tmp_path / "nut" / "test" / "scratch" / "1.png"
    assert last.mask == tmp_path / "nut" / "ground_truth" / "scratch" / "1_mask.png"
    assert last.name == "test/scratch/1.png"


def test_layout_of_the_root_itself(tmp_path):
    splits = mvtec_layout(str(tree(tmp_path / "nut")))
    assert (splits.category, len(splits.train), len(splits.test)) == ("nut", 3, 4)


def test_test_split_may_be_absent(tmp_path):
    write(tmp_path / "train" / "good" / "a.png", grey(0))
    assert mvtec_layout(tmp_path).test == ()


def test_masks_may_be_absent(tmp_path):
    tree(tmp_path)
    (tmp_path / "ground_truth" / "scratch" / "0_mask.png").unlink()
    assert [r.mask is None for r in mvtec_layout(tmp_path).test if r.label] == [True, False]


def test_natural_order_and_every_extension(tmp_path):
    names = ["a2.png", "a10.JPG", "A3.jpeg", "b.bmp", "c.TIF", "d.tiff"]
    for name in reversed(names):
        write(tmp_path / "train" / "good" / name, grey(1))
    found = [r.image.name for r in mvtec_layout(tmp_path).train]
    assert found == ["a2.png", "A3.jpeg", "a10.JPG", "b.bmp", "c.TIF", "d.tiff"]


def test_digits_that_are_no_numbers_sort_too(tmp_path):
    for name in ["1²3.png", "²", "a²"]:
        write(tmp_path / "train" / "good" / Path(name).with_suffix(".png"), grey(1))
    assert len(mvtec_layout(tmp_path).train) == 3


@pytest.mark.parametrize("mask", ["a_mask.png", "a.png", "a.bmp", "a_mask.BMP"])
def test_mask_names(tmp_path, mask):
    tree(tmp_path, good=0, scratch=0)
    write(tmp_path / "test" / "dent" / "a.jpg", grey(1))
    write(tmp_path / "ground_truth" / "dent" / mask, grey(255))
    assert mvtec_layout(tmp_path).test[0].mask.name == mask


def test_an_image_may_be_called_mask(tmp_path):
    tree(tmp_path, good=0, scratch=0)
    for stem in ("a", "a_mask"):
        write(tmp_path / "test" / "dent" / f"{stem}.png", grey(1))
        write(tmp_path / "ground_truth" / "dent" / f"{stem}_mask.png", grey(255))
    assert [r.mask.name for r in mvtec_layout(tmp_path).test] == ["a_mask.png", "a_mask_mask.png"]


def test_hidden_files_and_litter_are_ignored(tmp_path):
    tree(tmp_path)
    for folder in ("train/good", "test/scratch", "ground_truth/scratch", "test"):
        for name in (".DS_Store", "._0.png", "Thumbs.db"):
            (tmp_path / folder / name).write_bytes(b"x")
    (tmp_path / "test" / ".ipynb_checkpoints").mkdir()
    splits = mvtec_layout(tmp_path)
    assert (len(splits.train), len(splits.test)) == (3, 4)


def test_root_empty():
    with fails("data.root is empty", "--config.data.root=DIR"):
        mvtec_layout("")


def test_root_missing(tmp_path):
    with fails(tmp_path / "nowhere", "does not exist", "--config.data.root"):
        mvtec_layout(tmp_path / "nowhere")


def test_root_is_a_file(tmp_path):
    path = write(tmp_path / "a.png", grey(0))
    with fails(path, "is not a folder"):
        mvtec_layout(path)


def test_unknown_category_names_the_nearest_and_the_known(tmp_path):
    tree(tmp_path / "screw")
    tree(tmp_path / "metal_nut")
    (tmp_path / "notes").mkdir()
    with fails("'Scew'", tmp_path, "did you mean 'screw'", "metal_nut, screw") as caught:
        mvtec_layout(tmp_path, "Scew")
    assert "notes" not in str(caught.value)


def test_unknown_category_without_neighbours(tmp_path):
    with fails("'screw'", "none of its sub-folders holds train/good"):
        mvtec_layout(tmp_path, "screw")


def test_category_given_where_the_root_is_one(tmp_path):
    tree(tmp_path / "screw")
    with fails("'screw'", "leave the category empty"):
        mvtec_layout(tmp_path / "screw", "screw")


def test_category_not_given(tmp_path):
    tree(tmp_path / "screw")
    with fails(tmp_path / "train" / "good", "--config.data.category=NAME", "screw"):
        mvtec_layout(tmp_path)


@pytest.mark.parametrize("category", ["", "screw"])
def test_train_good_missing_or_empty(tmp_path, category):
    (tmp_path / category / "test").mkdir(parents=True)
    with fails("no folder", tmp_path / category / "train" / "good"):
        mvtec_layout(tmp_path, category)
    (tmp_path / category / "train" / "good").mkdir(parents=True)
    with fails("no training images", tmp_path / category / "train" / "good"):
        mvtec_layout(tmp_path, category)


@pytest.mark.parametrize(
    "folder", ["train/good", "test/good", "test/scratch", "ground_truth/scratch"]
)
def test_stray_file(tmp_path, folder):
    stray = tree(tmp_path) / folder / "notes.txt"
    stray.write_text("x")
    with fails(stray, "is not an image"):
        mvtec_layout(tmp_path)


def test_folder_among_images(tmp_path):
    nested = write(tree(tmp_path) / "train" / "good" / "more" / "a.png", grey(0)).parent
    with fails(nested, "inside a folder of images"):
        mvtec_layout(tmp_path)


@pytest.mark.parametrize("folder", ["test", "ground_truth"])
def test_image_in_no_defect_folder(tmp_path, folder):
    stray = write(tree(tmp_path) / folder / "a.png", grey(0))
    with fails(stray, "in no defect's folder"):
        mvtec_layout(tmp_path)


@pytest.mark.parametrize("defect", ["scratch", "dent", "good"])
def test_mask_without_its_image(tmp_path, defect):
    mask = write(tree(tmp_path) / "ground_truth" / defect / "77_mask.png", grey(255))
    with fails(mask, "has no image", f"test/{defect}"):
        mvtec_layout(tmp_path)


def test_images_that_share_a_stem(tmp_path):
    twin = write(tree(tmp_path) / "test" / "scratch" / "1.jpg", grey(0))
    with fails(twin, "1.png", "share the stem '1'"):
        mvtec_layout(tmp_path)


def test_masks_that_share_a_stem(tmp_path):
    twin = write(tree(tmp_path) / "ground_truth" / "scratch" / "1.png", grey(255))
    with fails(twin, "1_mask.png", "share the stem '1'"):
        mvtec_layout(tmp_path)


def test_twins_do_no_harm_where_there_are_no_masks(tmp_path):
    tree(tmp_path)
    for folder in ("train", "test"):
        write(tmp_path / folder / "good" / "1.jpg", grey(0))
    assert len(mvtec_layout(tmp_path).train) == 4


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside the checkout")
def test_screw():
    splits = mvtec_layout(SHARED / "mvtec_ad", "screw")
    assert len(splits.train) == 320
    assert len(splits.test) == 160
    assert sum(r.mask is not None for r in splits.test) == 119
    assert sum(r.label for r in splits.test) == 119
    check_images(splits)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside the checkout")
def test_magnetic_tile():
    splits = mvtec_layout(SHARED / "mtd", "magnetic_tile")
    assert (len(splits.train), len(splits.test)) == (761, 191 + 392)
    assert all((r.mask is not None) == bool(r.label) for r in splits.test)
    check_images(splits)


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


# What a folder may hold that is no image, and names that are unusual but fine


def test_names_with_spaces_and_other_alphabets(tmp_path):
    for name in ("a b.png", "Prüfteil №1.png", "部品.PNG", "emoji 🙂.png"):
        write(tmp_path / "train" / "good" / name, grey(1))
        write(tmp_path / "test" / "kratzer ü" / name, grey(2))
    write(tmp_path / "ground_truth" / "kratzer ü" / "部品_mask.png", grey(255))
    splits = mvtec_layout(tmp_path)
    check_images(splits)
    assert len(splits.train) == len(splits.test) == 4
    assert [r.image.stem for r in splits.test if r.mask] == ["部品"]


def test_symlink_loops_and_dangling_links_are_named(tmp_path):
    tree(tmp_path)
    loop = tmp_path / "train" / "good" / "loop.png"
    loop.symlink_to(loop)
    with fails(loop):
        check_images(mvtec_layout(tmp_path))
    loop.unlink()
    loop.symlink_to(tmp_path / "gone.png")
    with fails(loop):
        check_images(mvtec_layout(tmp_path))
    loop.unlink()
    (tmp_path / "test" / "ring").symlink_to(tmp_path / "test")  # a folder that contains itself
    with fails("inside a folder of images"):
        mvtec_layout(tmp_path)
