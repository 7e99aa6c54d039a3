"""Files of sorted images: what is read, and what is missing, changed or damaged."""

import json

import pytest

from vtadl_jax.data.changes import add_images
from vtadl_jax.data.records import Splits
from vtadl_jax.data.sorted_images import KIND, checksum, read_sorted
from vtadl_jax.errors import UserError


def sorted_file(folder, verdicts, **changes):
    """Writes images and the file that the page would save of them."""
    images = []
    for name, verdict in verdicts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
        entry = {"name": name, "sha256": checksum(folder / name), "score": 1.0, "sorted": verdict}
        images.append(entry)
    stored = {"kind": KIND, "format": 1, "root": str(folder), "images": images} | changes
    (folder / "sorted.json").write_text(json.dumps(stored))
    return folder / "sorted.json"


def test_each_image_is_where_it_belongs(tmp_path):
    names = {"a.png": "good", "b/c.png": "good", "d.png": "defective", "e.png": "good"}
    file = sorted_file(tmp_path, {**names, "f.png": "good"})
    (tmp_path / "e.png").write_bytes(b"other")
    (tmp_path / "f.png").unlink()
    found = read_sorted(file)
    assert found.good == (tmp_path / "a.png", tmp_path / "b/c.png")
    assert found.defective == (tmp_path / "d.png",)
    assert found.changed == (tmp_path / "e.png",)
    assert found.missing == (tmp_path / "f.png",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "other"}, "not saved by the page"),
        ({"images": [{"name": "a.png"}]}, "can't be read"),
        ({"images": [{"name": "a", "sha256": "", "sorted": "maybe"}]}, "'sorted' is 'maybe'"),
        ({"images": []}, "no good image to add of 0"),
        ({"images": [{"name": "z.png", "sha256": "", "sorted": "good"}]}, "1 are gone or changed"),
    ],
)
def test_other_files_end_in_one_line(tmp_path, changes, reason):
    file = sorted_file(tmp_path, {"a.png": "good"}, **changes)
    with pytest.raises(UserError, match=reason) as error:
        read_sorted(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json can't be read"):
        read_sorted(tmp_path / "nothing.json")


def test_single_files_are_added_as_training_images(tmp_path):
    sorted_file(tmp_path, {"a.png": "good", "b.png": "good"})
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    splits = add_images(Splits((), (), "x"), paths)
    assert [r.name for r in splits.train] == ["more/0/a.png", "more/1/b.png"]
    assert "2 good image files" in splits.notes[0]
    with pytest.raises(UserError, match="no such folder or file"):
        add_images(Splits((), (), "x"), [str(tmp_path / "gone.png")])
