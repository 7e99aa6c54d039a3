"""idx files: what is read, and every way in which a download goes wrong."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.data.factory import fails, noise, truncate
from vtadl_jax.configs import fashion_mnist, kmnist, mnist
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.sources.idx import read_idx
from vtadl_jax.data.sources.one_class import one_class_splits

MNIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"
SITE = "http://yann.lecun.com/exdb/mnist"
NAMES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def encode(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim))
    return header + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def digits(root: Path, separator: str = "-", packed: bool = False) -> Path:
    """30 training and 20 test images of 6×5; image i is of class i modulo 10."""
    root.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("t10k", 20)):
        arrays = {"images-idx3": noise((count, 6, 5), count)}
        arrays["labels-idx1"] = np.arange(count, dtype=np.uint8) % 10
        for name, values in arrays.items():
            stem = f"{part}-{name.replace('-', separator)}-ubyte"
            content = encode(values)
            path = root / (f"{stem}.gz" if packed else stem)
            path.write_bytes(gzip.compress(content) if packed else content)
    return root


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_names_and_compression(tmp_path, separator, packed):
    images = read_idx(digits(tmp_path, separator, packed), "mnist")
    np.testing.assert_array_equal(images.train.images, noise((30, 6, 5), 30))
    np.testing.assert_array_equal(images.test.images, noise((20, 6, 5), 20))
    assert images.test.labels.tolist() == [*range(10), *range(10)]
    assert (images.title, images.classes) == ("MNIST", tuple("0123456789"))
    assert (images.train.names[0], images.test.names[-1]) == ("train/00000", "test/00019")


def test_a_browser_unpacked_the_file_and_kept_its_name(tmp_path):
    for path in digits(tmp_path).iterdir():
        path.rename(f"{path}.gz")
    assert len(read_idx(tmp_path, "mnist").train.images) == 30


def test_root_empty_missing_or_a_file(tmp_path):
    with fails("data.root is empty", "--config.data.root=DIR", SITE):
        read_idx("", "mnist")
    with fails(tmp_path / "none", "does not exist", SITE):
        read_idx(tmp_path / "none", "mnist")
    with fails("is not a folder"):
        read_idx(digits(tmp_path) / f"{NAMES[0]}-ubyte", "mnist")


def test_missing_files(tmp_path):
    with fails(tmp_path, "lacks", *(f"{n}-ubyte" for n in NAMES), "none of the four", SITE):
        read_idx(tmp_path, "mnist")
    (digits(tmp_path, packed=True) / f"{NAMES[3]}-ubyte.gz").unlink()
    with fails(tmp_path, f"lacks {NAMES[3]}-ubyte of", f"{NAMES[0]}-ubyte.gz"):
        read_idx(tmp_path, "mnist")


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_the_site_is_the_sets_own(tmp_path, name):
    with fails({"fashion_mnist": "zalandoresearch", "kmnist": "codh.rois.ac.jp"}[name]):
        read_idx(tmp_path, name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_truncated(tmp_path, name, packed):
    path = digits(tmp_path, packed=packed) / f"{name}-ubyte{'.gz' if packed else ''}"
    truncate(path, 0.7)
    with fails(path, "cut short" if packed else "by its header", SITE):
        read_idx(tmp_path, "mnist")


@pytest.mark.parametrize("length", [4, 6, 15])
def test_truncated_in_the_header(tmp_path, length):
    path = digits(tmp_path) / f"{NAMES[0]}-ubyte"
    path.write_bytes(path.read_bytes()[:length])
    with fails(path, f"holds {length} bytes", "by its header"):
        read_idx(tmp_path, "mnist")


def test_too_long(tmp_path):
    path = digits(tmp_path) / f"{NAMES[1]}-ubyte"
    path.write_bytes(path.read_bytes() + b"x")
    with fails(path, "holds 39 bytes", "by its header 38"):
        read_idx(tmp_path, "mnist")


def test_damaged_archive(tmp_path):
    path = digits(tmp_path, packed=True) / f"{NAMES[0]}-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with fails(path, "damaged", SITE):
        read_idx(tmp_path, "mnist")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", encode(np.zeros(3, np.uint8))])
def test_wrong_magic(tmp_path, content):
    path = digits(tmp_path) / f"{NAMES[0]}-ubyte"
    path.write_bytes(content)
    with fails(path, content[:4].hex(" "), "00 00 08 03", SITE):
        read_idx(tmp_path, "mnist")


def test_counts_differ(tmp_path):
    path = digits(tmp_path) / f"{NAMES[1]}-ubyte"
    path.write_bytes(encode(np.zeros(29, np.uint8)))
    with fails(path, "29 labels", "30 images", f"{NAMES[0]}-ubyte"):
        read_idx(tmp_path, "mnist")


def test_unknown_label(tmp_path):
    path = digits(tmp_path) / f"{NAMES[1]}-ubyte"
    path.write_bytes(encode(np.full(30, 10, np.uint8)))
    with fails(path, "label 10", "0 to 9"):
        read_idx(tmp_path, "mnist")


@pytest.mark.parametrize(
    ("module", "category", "name"),
    [(mnist, "3", "3"), (fashion_mnist, "sneaker", "sneaker"), (kmnist, "9", "wo")],
)
def test_configs(tmp_path, module, category, name):
    config = module.get_config(category)
    config.data.root = str(digits(tmp_path))
    splits = load_splits(config)
    assert (splits.category, len(splits.train), len(splits.test)) == (name, 3, 20)
    config.data.defects = (read_idx(tmp_path, config.data.source).classes[5],)
    assert len(load_splits(config).test) == 4


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="the shared data sets are not beside the checkout")
def test_mnist():
    images = read_idx(MNIST, "mnist")
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(images.train.labels).tolist() == counts
    assert images.train.images.shape == (60_000, 28, 28)
    splits = one_class_splits(images, "0", anomaly_fraction=0.01)
    assert Counter(r.label for r in splits.train) == {0: 5923, 1: 59}
    assert Counter(r.label for r in splits.test) == {0: 980, 1: 980}
