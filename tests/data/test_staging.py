"""Where records are written before they are whole: little space, full disks, other processes."""

from tests.data.factory import fails
from tests.data.trees import mvtec_tree
from vtadl_jax.data import archives
from vtadl_jax.data.builders import base, staging
from vtadl_jax.data.builders.build import Job, prepare
from vtadl_jax.data.builders.image_folders import ImageFolders


def test_too_little_space_for_the_records(tmp_path, monkeypatch):
    mvtec_tree(tmp_path / "raw")
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with fails("write the records", "GiB", "free", "--data_dir"):
        prepare(Job(ImageFolders, tmp_path / "out", (512, 512)), tmp_path / "raw")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    mvtec_tree(tmp_path / "raw", "nut")
    mvtec_tree(tmp_path / "raw", "screw")
    whole = base.RecordWriter.write

    def write_records(self, path, examples):
        if "/screw/" in str(path):
            raise OSError(28, "No space left on device")
        return whole(self, path, examples)

    monkeypatch.setattr(base.RecordWriter, "write", write_records)
    with fails("screw", "No space left on device", "finished categories are kept"):
        prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")
    assert [p.name for p in (tmp_path / "out" / "image_folders").iterdir()] == ["nut"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["image_folders"]


def test_staging_spares_the_living_and_removes_the_dead(tmp_path):
    with staging.staging(tmp_path) as alive:
        (tmp_path / f"{staging.PREFIX}dead" / "work").mkdir(parents=True)
        (tmp_path / f"{staging.PREFIX}dead" / "lock").touch()
        (tmp_path / f"{staging.PREFIX}just_begun").mkdir()
        with staging.staging(tmp_path) as second:
            assert set(tmp_path.iterdir()) == {alive.parent, second.parent}
    assert not any(tmp_path.iterdir())


def test_unwritable_data_dir(tmp_path):
    (tmp_path / "file").touch()
    with fails("--data_dir", tmp_path / "file", "give another"), staging.staging(tmp_path / "file"):
        pass
