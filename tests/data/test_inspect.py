"""The report on raw images and on records: everything that is wrong, not just the first."""

import numpy as np
import pytest
from PIL import Image

from tests.data.factory import fails, grey, noise, truncate, write
from tests.data.trees import block, mvtec_tree
from vtadl_jax.data.builders.build import Job, prepare
from vtadl_jax.data.builders.image_folders import ImageFolders
from vtadl_jax.data.builders.mvtec_ad import MvtecAd
from vtadl_jax.data.inspection.report import inspect_prepared, inspect_source

TEST, MASKS = "screw/test/scratch_head", "screw/ground_truth/scratch_head"


@pytest.fixture
def raw(tmp_path):
    return mvtec_tree(tmp_path / "raw")


def inspect(raw):
    report = inspect_source(ImageFolders, raw)
    return report, report.categories[0].issues


def test_a_clean_set(raw):
    report, issues = inspect(raw)
    (category,) = report.categories
    assert category.counts == {"train": {"good": 5}, "test": {"good": 2, "scratch_head": 3}}
    assert category.images == {"32×24 PNG L": 10}
    assert issues == report.errors == []
    assert report.as_dict()["clean"]
    for part in ("screw", "train: 5 (good 5)", "32×24 PNG L: 10 images", "no faults found"):
        assert part in report.text()


def test_sizes_and_modes(raw):
    write(raw / "screw/train/good/000.png", noise((24, 32, 3)))
    Image.fromarray(noise((12, 12))).save(raw / "screw/train/good/001.png")
    images = inspect(raw)[0].categories[0].images
    assert images == {"32×24 PNG L": 8, "32×24 PNG RGB": 1, "12×12 PNG L": 1}


def test_every_unreadable_file_is_named(raw):
    broken = ["screw/train/good/001.png", "screw/train/good/004.png", f"{TEST}/002.png"]
    for name in broken:
        truncate(raw / name)
    (raw / MASKS / "000_mask.png").write_text("no image")
    report, issues = inspect(raw)
    texts = [issue.text for issue in issues if issue.error]
    assert len(texts) == len(report.errors) == 4
    for name in [*broken, f"{MASKS}/000_mask.png"]:
        assert any(str(raw / name) in text for text in texts)
    assert all(text in report.text() for text in texts)


def test_masks(raw):
    write(raw / MASKS / "000_mask.png", grey(0, (24, 32)))
    write(raw / MASKS / "001_mask.png", block(1)[:20])
    soft = block(2)
    soft[5, 9], soft[5, 10] = 3, 200
    write(raw / MASKS / "002_mask.png", soft)
    report, issues = inspect(raw)
    assert [(i.kind, i.error) for i in issues] == [
        ("empty masks", False),
        ("mask size", True),
        ("masks that are not binary", False),
    ]
    assert "32×20" in issues[1].text
    assert "2 values from 3 to 200" in issues[2].text
    assert len(report.errors) == 1
    assert "errors: 1, warnings: 2" in report.text()


def test_masks_of_class_numbers_are_told(raw):
    classes = (block(0) > 0).astype(np.uint8)
    classes[0, :3] = 3
    write(raw / MASKS / "000_mask.png", classes)
    (issue,) = inspect(raw)[1]
    assert (issue.kind, issue.error) == ("class numbers", False)
    assert "(0, 1, 3)" in issue.text


def test_masks_without_0_are_errors(raw):
    write(raw / MASKS / "000_mask.png", (block(0) > 0).astype(np.uint8) + np.uint8(1))
    (issue,) = inspect(raw)[1]
    assert issue.error
    assert "no value 0, only 1, 2" in issue.text


def test_regions_too_thin_for_the_size(raw):
    thin = np.zeros((24, 32), np.uint8)
    thin[3:20, 1] = 255
    write(raw / MASKS / "000_mask.png", thin)
    report = inspect_source(ImageFolders, raw, size=(6, 8))
    (issue,) = report.categories[0].issues
    assert issue.kind == "thin regions"
    assert "000_mask.png: 1 marked regions are too thin for 8×6" in issue.text
    assert inspect_source(ImageFolders, raw, size=(24, 32)).categories[0].issues == []


def test_folders_of_good_images_by_their_names(raw):
    write(raw / "screw/test/OK/a.png", noise((24, 32), 77))
    write(raw / "screw/ground_truth/ok/a.png", grey(0, (24, 32)))
    report, issues = inspect(raw)
    assert report.categories[0].counts["test"] == {"good": 3, "scratch_head": 3}
    assert [issue.kind for issue in issues] == ["folders", "folders"]
    assert "screw/test/OK count as good" in issues[0].text
    assert "1 masks of good images are not read" in issues[1].text


def test_sixteen_bits_that_use_a_small_part_of_their_range(raw):
    for i in range(5):
        pixels = noise((24, 32), i).astype(np.uint16) * np.uint16(16)
        write(raw / f"screw/train/good/{i:03}.png", pixels)
    (issue,) = inspect(raw)[1]
    assert "values up to 4080 only, of 65535" in issue.text
    assert "--config.data.bits=12" in issue.text
    write(raw / "screw/train/good/000.png", noise((24, 32)).astype(np.uint16) * np.uint16(257))
    assert inspect(raw)[1] == []


# Plain folders


@pytest.fixture
def plain(tmp_path):
    """Good images, defective ones of two kinds, and their masks in one folder."""
    for i in range(4):
        write(tmp_path / f"good/{i}.png", noise((24, 32), i))
    for i, kind in enumerate(("dent", "scratch")):
        write(tmp_path / f"bad/{kind}/{kind}{i}.png", noise((24, 32), 10 + i))
        write(tmp_path / f"masks/{kind}{i}_mask.png", block(i))
    return tmp_path


def test_a_plain_folder(plain):
    report = inspect_source(ImageFolders, plain / "good")
    (category,) = report.categories
    assert (category.category, category.issues) == ("good", [])
    for part in ("train: 4 (good 4)", "4 images, 4 good, 0 defective, 0 masks", "32×24 PNG L: 4"):
        assert part in report.text()
    truncate(plain / "good/2.png")
    write(plain / "good/3.bmp", noise((24, 32)))
    (plain / "good/notes.txt").write_text("x")
    report = inspect_source(ImageFolders, plain / "good")
    assert len(report.errors) == 2
    for part in ("good/2.png", "notes.txt", "share the stem '3'"):
        assert part in report.text()


def test_a_plain_folder_with_defects(plain):
    folders = {"bad": str(plain / "bad"), "masks": str(plain / "masks")}
    report = inspect_source(ImageFolders, plain / "good", **folders)
    assert "6 images, 4 good, 2 defective, 2 masks" in report.text()
    assert "no faults found" in report.text()
    write(plain / "masks/other.png", block(0))
    (plain / "bad/dent/dent0.png").write_bytes(b"")
    report = inspect_source(ImageFolders, plain / "good", **folders)
    texts = "\n".join(issue.text for issue in report.errors)
    assert "masks/other.png has no image" in texts
    assert "dent0.png: the file is empty" in texts
    assert report.categories[0].counts["test"] == {"dent": 1, "scratch": 1}


def test_a_plain_folder_by_category_and_one_that_is_none(plain):
    assert inspect_source(ImageFolders, plain, ["good"]).categories[0].counts["train"]["good"] == 4
    with fails("no folder train/good or train/ok", plain, "of good parts; ", "good, masks"):
        inspect_source(ImageFolders, plain)
    with fails("no folder train/good"):
        inspect_source(MvtecAd, plain / "good")
    mvtec_tree(plain / "set")
    with fails("--bad and --masks are for a plain folder", "set"):
        inspect_source(ImageFolders, plain / "set", bad=str(plain / "bad"))


def test_missing_masks_are_warnings(raw):
    (raw / MASKS / "001_mask.png").unlink()
    report, (issue,) = inspect(raw)
    assert (issue.kind, report.errors) == ("missing masks", [])
    assert "test/scratch_head/001.png" in issue.text


def test_duplicates_say_which_and_how(raw):
    twin = (raw / "screw/train/good/003.png").read_bytes()
    (raw / "screw/test/good/000.png").write_bytes(twin)
    pixels = np.asarray(Image.open(raw / "screw/train/good/002.png"))
    write(raw / TEST / "001.png", pixels, compress_level=0)
    report, issues = inspect(raw)
    assert report.errors == []
    assert [issue.text for issue in issues] == [
        "test/good/000.png is in training too, the same file: train/good/003.png",
        "test/scratch_head/001.png is in training too, the same pixels: train/good/002.png",
    ]


def test_faults_of_the_layout_do_not_hide_others(raw):
    write(raw / TEST / "000.bmp", noise((24, 32)))
    (raw / "screw/test/good/notes.txt").write_text("x")
    write(raw / "screw/train/bad/a.png", noise((24, 32)))
    write(raw / "screw/ground_truth/dent/a_mask.png", block(0))
    truncate(raw / "screw/test/good/001.png")
    write(raw / MASKS / "001_mask.png", block(0)[:9])
    report, issues = inspect(raw)
    texts = "\n".join(issue.text for issue in report.errors)
    for part in ("share the stem '000'", "notes.txt", "a_mask.png has no image", "good/001.png"):
        assert part in texts
    assert "32×9" in texts
    assert next(i.text for i in issues if not i.error).endswith("only train/good is")


def test_no_training_images(raw):
    for path in (raw / "screw/train/good").iterdir():
        path.unlink()
    assert "no training images" in inspect(raw)[0].errors[0].text


def test_published_counts_are_a_warning(raw):
    report = inspect_source(MvtecAd, raw, ["screw"])
    (issue,) = report.categories[0].issues
    assert (issue.kind, report.errors) == ("counts", [])
    assert "train 320, test good 41, test defective 119" in issue.text


def test_long_lists_are_cut_in_text_only(raw):
    for i in range(20):
        write(raw / "screw/test/dent" / f"{i}.png", noise((24, 32 + i), i))
    report, issues = inspect(raw)
    assert len(issues) == 20
    assert report.text().count("has no mask") == 10
    assert "… and 10 more warnings of missing masks" in report.text()
    assert "… 20 sizes and modes in all" in report.text()


def test_wrong_source(raw, tmp_path):
    with fails("--category nut", "screw"):
        inspect_source(ImageFolders, raw, ["nut"])
    with fails("does not exist", "mvtec_anomaly_detection.tar.xz"):
        inspect_source(MvtecAd, tmp_path / "none")
    (tmp_path / "a.zip").touch()
    with fails("a.zip", "unpack"):
        inspect_source(ImageFolders, tmp_path / "a.zip")


def test_records(raw, tmp_path):
    with fails("nothing is prepared", tmp_path):
        inspect_prepared(tmp_path / "out")
    folders = [
        prepare(Job(ImageFolders, tmp_path / "out", size), raw)[0] for size in (None, (8, 8))
    ]
    report = inspect_prepared(tmp_path / "out")
    assert [c.images for c in report.categories] == [{"32×24 L": 10}, {"8×8 L": 10}]
    assert "no faults found" in report.text()
    shard = folders[0] / "image_folders-test.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    (folders[1] / "manifest.json").write_text("[]")
    texts = [issue.text for issue in inspect_prepared(tmp_path / "out").errors]
    assert len(texts) == 2
    assert texts[0].startswith(f"{shard} is damaged, its checksum is another")
    assert "another version" in texts[1]


def test_dark_images_of_16_bits_are_a_warning(raw):
    for path in (raw / "screw/train/good").glob("*.png"):
        write(path, np.full((32, 32), 3000, np.uint16))
    (category,) = inspect_source(ImageFolders, raw, ["screw"]).categories
    texts = [issue.text for issue in category.issues if issue.kind == "bits"]
    assert len(texts) == 1
    assert "--config.data.bits=12" in texts[0]


def test_names_that_are_not_utf8_are_prepared_as_escapes(raw, tmp_path):
    (raw / "screw/train/good/001.png").rename(raw / "screw/train/good/te\udcefl.png")
    job = Job(ImageFolders, tmp_path / "records", None)
    (folder,) = prepare(job, raw, ["screw"])
    assert "train/good/te\\\\xefl.png" in (folder / "manifest.json").read_text(encoding="utf-8")
    assert not inspect_prepared(tmp_path / "records").errors
