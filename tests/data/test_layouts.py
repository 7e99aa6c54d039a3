"""Folder layouts and the mistakes that users make in them."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.factory import fails, grey, tree, write
from tests.factory import tiny_config
from vtadl_jax.data.records import check_images
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.sources.layouts import mvtec_layout

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


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside the checkout")
def test_magnetic_tile():
    splits = mvtec_layout(SHARED / "mtd", "magnetic_tile")
    assert (len(splits.train), len(splits.test)) == (761, 191 + 392)
    assert all((r.mask is not None) == bool(r.label) for r in splits.test)
    check_images(splits)


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


@pytest.mark.parametrize("source", ["mvtec_layout", "folder"])
def test_a_fraction_of_the_defects_is_trained_on(tmp_path, source):
    tree(tmp_path / "nut", train=10, good=2, scratch=6)
    for i in range(4):
        write(tmp_path / "nut" / "test" / "dent" / f"{i}.png", grey(i))
    fields = {"data__source": source, "data__category": "nut", "data__anomaly_fraction": 0.5}

    def split(needs=(), **more):
        splits = load_splits(tiny_config(tmp_path, **fields | more), needs)
        names = {r.name for r in splits.train if r.label}
        assert not names & {r.name for r in splits.test}
        assert len(splits.train) - len(names) == 10
        assert len(splits.train) + len(splits.test) == 22
        return names

    moved = split()
    assert sorted(name.split("/")[-2] for name in moved) == ["dent"] * 2 + ["scratch"] * 3
    assert moved == split()
    assert len({frozenset(split(seed=seed)) for seed in range(6)}) > 1
    assert {name.split("/")[-2] for name in split(("mask",))} == {"scratch"}  # dents have none
    with fails("data.anomaly_fraction 1.0", "10 defective test images", "use less than 1,"):
        split(data__anomaly_fraction=1.0)
    with fails("data.anomaly_fraction 0.6", "6 defective test images with a mask"):
        split(("mask",), data__anomaly_fraction=0.6)
    with fails("data.anomaly_fraction -0.1"):
        split(data__anomaly_fraction=-0.1)


def test_a_limit_of_one_class_sets_is_not_read_in_silence(tmp_path, capsys):
    tree(tmp_path)
    load_splits(tiny_config(tmp_path, data__category="", data__test_limit=3))
    assert "note: data.test_limit 3 not read: data.source 'mvtec_layout'" in capsys.readouterr().err


def test_folders_are_found_in_any_case_and_good_ones_by_their_name(tmp_path):
    tree(tmp_path)
    (tmp_path / "ground_truth").rename(tmp_path / "Ground_Truth")
    (tmp_path / "Ground_Truth/scratch").rename(tmp_path / "Ground_Truth/Scratch")
    write(tmp_path / "test/Normal/0.png", grey(9))
    write(tmp_path / "Ground_Truth/normal/0.png", grey(0))
    write(tmp_path / "train/broken/0.png", grey(9))
    splits = mvtec_layout(tmp_path)
    assert all((r.mask is not None) == bool(r.label) for r in splits.test)
    assert [r.name for r in splits.test if not r.label] == [
        "test/good/0.png",
        "test/good/1.png",
        "test/Normal/0.png",
    ]
    told = "\n".join(splits.notes)
    for part in ("train/broken is not read", "the 1 images in", "1 masks of good images"):
        assert part in told


def test_what_is_left_out_is_told(tmp_path, capsys):
    tree(tmp_path, scratch=3)
    (tmp_path / "ground_truth/scratch/1_mask.png").unlink()
    write(tmp_path / "ground_truth/scratch/2_mask.png", grey(0) + np.eye(8, 6, dtype=np.uint8))
    fields = {"data__category": "", "data__bad": "/none", "image_size": (4, 3)}
    load_splits(tiny_config(tmp_path, "position_gaussian", **fields))
    said = capsys.readouterr().err
    assert "note: 1 of 3 defective images have no mask (for example test/scratch/1.png)" in said
    assert "note: 1 of 2 masks hold class numbers (0, 1; " in said
    assert "note: data.bad /none not read: data.source 'mvtec_layout'" in said


def test_data_are_drawn_only_where_that_is_allowed(tmp_path):
    config = tiny_config(tmp_path / "parts", data__source="synthetic")
    with fails("data.root", tmp_path / "parts", "holds no drawn images of 'gear'", "draws none"):
        load_splits(config, draw=False)
    assert not list(tmp_path.iterdir())
    misspelt = tiny_config(tmp_path / "parts", data__source="synthetic", data__category="gaer")
    with fails("category 'gaer' is not drawn here", "did you mean 'gear'", "plate"):
        load_splits(misspelt)
    assert not list(tmp_path.iterdir())
