"""Sets that tensorflow-datasets prepared: found, read without TensorFlow, and refused by name."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.data.factory import fails, noise
from vtadl_jax.data.sources.cifar import read_cifar10
from vtadl_jax.data.sources.idx import read_idx
from vtadl_jax.data.sources.tfds_classes import check_features

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
COUNTS = {"train": 12, "test": 5}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def images(name: str, split: str) -> np.ndarray:
    return noise((COUNTS[split], *SHAPES[name]), COUNTS[split])


def prepare(data_dir: Path, name: str) -> Path:
    """A tiny set of that name, as `tfds build --file_format=array_record` leaves it."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=SHAPES[name]),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in COUNTS}

        def _generate_examples(self, split):
            for i, pixels in enumerate(images(name, split)):
                yield i, {"image": png(pixels), "label": i % 10}

    Tiny.name = name
    builder = Tiny(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for name in SHAPES:
        prepare(root, name)
    return root


def multiset(part) -> list[tuple[int, bytes]]:
    return sorted((int(n), i.tobytes()) for i, n in zip(part.images, part.labels, strict=True))


@pytest.mark.parametrize("inside", [".", "mnist", "mnist/3.0.1"])
def test_mnist(data_dir, inside):
    found = read_idx(data_dir / inside, "mnist")
    for split, part in (("train", found.train), ("test", found.test)):
        expected = images("mnist", split)[..., 0]
        # tfds shuffles by its keys when it writes
        assert multiset(part) == sorted((i % 10, x.tobytes()) for i, x in enumerate(expected))
        assert part.images.shape == expected.shape
        assert part.names[0] == f"{split}/00000"


def test_cifar10(data_dir):
    found = read_cifar10(data_dir)
    assert found.train.images.shape == (12, 32, 32, 3)
    expected = images("cifar10", "train")
    assert multiset(found.train) == sorted((i % 10, x.tobytes()) for i, x in enumerate(expected))


def test_another_set(data_dir):
    with fails(data_dir / "mnist" / "3.0.1", "'mnist', not 'cifar10'"):
        read_cifar10(data_dir / "mnist")


def copy(data_dir: Path, root: Path) -> Path:
    for path in (data_dir / "mnist" / "3.0.1").iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    return root


def test_tfrecord(data_dir, tmp_path):
    path = copy(data_dir, tmp_path) / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = "tfrecord"
    path.write_text(json.dumps(info))
    with fails(tmp_path, "tfrecord", "TensorFlow", "--file_format=array_record"):
        read_idx(tmp_path, "mnist")


@pytest.mark.parametrize("content", ["", "{", '{"name": "mnist"}'])
def test_damaged_info(data_dir, tmp_path, content):
    (copy(data_dir, tmp_path) / "dataset_info.json").write_text(content)
    with fails(tmp_path, "--file_format=array_record"):
        read_idx(tmp_path, "mnist")


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("nested", [False, True])
def test_classes_of_others_are_not_imported(data_dir, tmp_path, monkeypatch, key, nested):
    path = copy(data_dir, tmp_path) / "features.json"
    (tmp_path / "strangers.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    stored = json.loads(path.read_text())
    (stored["featuresDict"]["features"]["image"] if nested else stored)[key] = "strangers.Feature"
    path.write_text(json.dumps(stored))
    with fails(path, "'strangers.Feature'", "not imported"):
        read_idx(tmp_path, "mnist")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["tensorflow_datasets_x.F", "os.path", "tensorflow_datasets.x.y"])
def test_only_features_of_tfds_may_be_named(tmp_path, name):
    (tmp_path / "features.json").write_text(json.dumps([{"a": [{"type": name}]}]))
    with fails(name, "again"):
        check_features(tmp_path, "again")
    (tmp_path / "features.json").write_text("[" * 10**5)
    with fails("features.json cannot be read", "again"):
        check_features(tmp_path, "again")


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"x" * 99)])
def test_damaged_shards(data_dir, tmp_path, damage):
    damage(next(copy(data_dir, tmp_path).glob("*test.array_record*")))
    with fails(tmp_path, "cannot be read", "--file_format=array_record"):
        read_idx(tmp_path, "mnist")


@pytest.mark.slow
def test_tensorflow_is_not_imported(data_dir):
    code = "import sys; from vtadl_jax.data.sources.idx import read_idx; "
    code += f"read_idx({str(data_dir)!r}, 'mnist'); sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_tfds_is_imported_only_for_its_own_files():
    code = "import sys; from vtadl_jax.data.sources import cifar, idx; "
    code += "sys.exit('tensorflow_datasets' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
