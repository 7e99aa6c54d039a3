"""CIFAR-10 in both of its versions, and pickles that are refused."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.data.factory import fails, noise, truncate
from vtadl_jax.configs import cifar10
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.sources.cifar import read_cifar10

SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
STEMS = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
COUNT = 4


def pixels(stem: str) -> np.ndarray:
    """uint8 [COUNT, 32, 32, 3], different in every batch."""
    return noise((COUNT, 32, 32, 3), STEMS.index(stem))


def rows(stem: str) -> np.ndarray:
    """The same as the files have it: planes, [COUNT, 3072]."""
    return pixels(stem).transpose(0, 3, 1, 2).reshape(COUNT, -1)


def labels(stem: str) -> list[int]:
    return [(STEMS.index(stem) + 3 * i) % 10 for i in range(COUNT)]


def binary(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for stem in STEMS:
        column = np.array(labels(stem), np.uint8)[:, None]
        (root / f"{stem}.bin").write_bytes(np.hstack([column, rows(stem)]).tobytes())
    return root


def python2_pickle(stem: str) -> bytes:
    """Protocol 2 as Python 2 wrote it: byte strings, and numpy's old module names."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = (
        b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR("
        b"" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
    array += integer(0) + b"t" + text(b"b") + b"tR("
    array += integer(1) + b"(" + integer(COUNT) + integer(3072) + b"t" + dtype + b"\x89"
    array += text(rows(stem).tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, labels(stem))) + b"e"
    names = b"](" + text(b"a.png") + b"e"
    items = text(b"data") + array + text(b"labels") + numbers + text(b"filenames") + names
    items += text(b"batch_label") + text(b"training batch")
    return b"\x80\x02}(" + items + b"u."


def python3_pickle(stem: str) -> bytes:
    return pickle.dumps({"data": rows(stem), "labels": labels(stem)}, protocol=4)


def pickled(root: Path, encode=python2_pickle) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for stem in STEMS:
        (root / stem).write_bytes(encode(stem))
    return root


@pytest.mark.parametrize(
    "make",
    [
        binary,
        pickled,
        lambda root: pickled(root, python3_pickle),
        lambda root: binary(root / "cifar-10-batches-bin").parent,
        lambda root: pickled(root / "cifar-10-batches-py").parent,
    ],
    ids=["binary", "python2", "python3", "binary-archive", "python-archive"],
)
def test_versions(tmp_path, make):
    images = read_cifar10(make(tmp_path))
    train = np.concatenate([pixels(stem) for stem in STEMS[:5]])
    np.testing.assert_array_equal(images.train.images, train)
    np.testing.assert_array_equal(images.test.images, pixels("test_batch"))
    assert images.train.labels.tolist() == [n for stem in STEMS[:5] for n in labels(stem)]
    assert images.test.labels.tolist() == labels("test_batch")
    assert images.classes[8] == "ship"


def test_config(tmp_path):
    config = cifar10.get_config("ship")
    config.data.root = str(binary(tmp_path))
    config.data.balanced_test = False
    splits = load_splits(config)
    # Batch b has the classes b, b + 3, b + 6 and b + 9 modulo 10; the test batch 5, 8, 1 and 4.
    assert [r.name for r in splits.train] == ["train/00010"]
    assert [r.defect for r in splits.test] == ["dog", "good", "automobile", "deer"]
    config.data.balanced_test = True
    assert sorted(r.label for r in load_splits(config).test) == [0, 1]


def test_no_files(tmp_path):
    with fails(tmp_path, "data_batch_1.bin", SITE):
        read_cifar10(tmp_path)
    with fails("data.root is empty", SITE):
        read_cifar10("")


@pytest.mark.parametrize(("make", "suffix"), [(binary, ".bin"), (pickled, "")])
def test_missing_batches(tmp_path, make, suffix):
    make(tmp_path)
    for stem in ("data_batch_2", "test_batch"):
        (tmp_path / f"{stem}{suffix}").unlink()
    with fails(f"lacks data_batch_2{suffix}, test_batch{suffix} of", f"data_batch_1{suffix}", SITE):
        read_cifar10(tmp_path)


@pytest.mark.parametrize("keep", [0, 0.7])
def test_wrong_record_length(tmp_path, keep):
    path = truncate(binary(tmp_path) / "data_batch_3.bin", keep)
    with fails(path, path.stat().st_size, "multiple of 3073", SITE):
        read_cifar10(tmp_path)


def test_cut_between_records(tmp_path):
    path = truncate(binary(tmp_path) / "data_batch_3.bin", 0.75)
    with fails(path, "holds 3 images", "other batches 4", SITE):
        read_cifar10(tmp_path)


def test_unknown_label(tmp_path):
    path = binary(tmp_path) / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with fails(path, "to 10", "0 to 9"):
        read_cifar10(tmp_path)


def reduced(function: bytes, arguments: bytes, state: bytes) -> bytes:
    """Instructions that call a function and set the state of what it returns."""
    return b"c" + function + b"(" + arguments + b"tR" + state + b"b"


def array_of(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    state = b"(K\x01(" + shape + b"t" + dtype + b"\x89" + b"B" + struct.pack("<i", len(content))
    make = b"cnumpy\nndarray\n(K\x00tC\x01b"
    return reduced(b"numpy.core.multiarray\n_reconstruct\n", make, state + content + b"t")


PLAIN_STATE = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"


def dtype_of(name: bytes, state: bytes = PLAIN_STATE) -> bytes:
    text = b"X" + struct.pack("<i", len(name)) + name
    return reduced(b"numpy\ndtype\n", text + b"\x89\x88", state)


LYING = b"(K\x04X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}K\x08K\x01K\x00t"


@pytest.mark.parametrize(
    ("values", "numbers", "word"),
    [
        (array_of(dtype_of(b"O"), b"K\x01", b"A" * 8), b"]K\x01a", "an array of 'O'"),
        (array_of(dtype_of(b"V8", LYING), b"K\x01", b"A" * 8), b"]K\x01a", "an array of 'V8'"),
        (array_of(dtype_of(b"u1", LYING), b"K\x01", b"A" * 8), b"]K\x01a", "an array of records"),
        (array_of(dtype_of(b"u1"), b"K\x01M\x00\x0c", b"A" * 9), b"]K\x01a", "with 9 bytes"),
        (array_of(dtype_of(b"u1"), b"J\xff\xff\xff\xff", b"A"), b"]K\x01a", "without sizes"),
        (array_of(b"N", b"K\x01", b"A"), b"]K\x01a", "without sizes, dtype"),
        (b"N", b"]K\x01a", "NoneType in place of an array"),
        (b"N", b"]" + array_of(dtype_of(b"V8", LYING), b"K\x01", b"A" * 8) + b"a", "of 'V8'"),
    ],
)
def test_arrays_with_a_lying_state_are_refused(tmp_path, values, numbers, word):
    path = pickled(tmp_path) / "data_batch_1"
    path.write_bytes(
        b"\x80\x03}(X\x04\x00\x00\x00data" + values + b"X\x06\x00\x00\x00labels" + numbers + b"u."
    )
    with fails(path, word, SITE):
        read_cifar10(tmp_path)


def test_labels_are_numbers(tmp_path):
    path = pickled(tmp_path) / "test_batch"
    for wrong in ([1.0] * COUNT, [True] * COUNT, [[1]] * COUNT, [rows("test_batch")] * COUNT):
        batch = {"data": rows("test_batch"), "labels": wrong}
        path.write_bytes(pickle.dumps(batch, protocol=4))
        with fails(path, "in place of an array"):
            read_cifar10(tmp_path)
    right = np.array(labels("test_batch"), np.int64)
    path.write_bytes(pickle.dumps({"data": rows("test_batch"), "labels": right}, protocol=2))
    assert read_cifar10(tmp_path).test.labels.tolist() == labels("test_batch")


def test_a_small_pickle_asks_for_no_memory(tmp_path):
    path = pickled(tmp_path) / "test_batch"
    for code in (b"\x96", b"\x8e", b"B"):  # BYTEARRAY8, BINBYTES8, BINBYTES
        path.write_bytes(b"\x80\x05" + code + struct.pack("<Q", 2**46) + b"a.")
        with fails(path, SITE):
            read_cifar10(tmp_path)


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["data", "extra"])
def test_a_pickle_that_acts_is_refused(tmp_path, key):
    path, trace = pickled(tmp_path) / "data_batch_4", tmp_path / "trace"
    batch = {"data": rows("data_batch_4"), "labels": labels("data_batch_4")}
    path.write_bytes(pickle.dumps(batch | {key: Harmful(trace)}, protocol=4))
    with fails(path, "asks for", SITE):
        read_cifar10(tmp_path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the pickle does act where it is not refused
    assert trace.exists()


@pytest.mark.parametrize(
    "name", [b"builtins\neval", b"os\nsystem", b"numpy\nload", b"numpy._core.multiarray\nfromfile"]
)
def test_names_are_refused_one_by_one(tmp_path, name):
    path = pickled(tmp_path) / "test_batch"
    path.write_bytes(b"\x80\x02c" + name + b"\n.")
    with fails(path, "asks for", name.decode().replace("\n", ".")):
        read_cifar10(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        python2_pickle("test_batch")[:5000],
        pickle.dumps([1, 2]),
        pickle.dumps({"data": 3, "labels": [1]}),
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": np.zeros((1, 3072)), "labels": [1]}, protocol=4),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, protocol=4),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}, protocol=4),
        pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}, protocol=4),
    ],
)
def test_damaged_pickles(tmp_path, content):
    path = pickled(tmp_path) / "test_batch"
    path.write_bytes(content)
    with fails(path, SITE):
        read_cifar10(tmp_path)
