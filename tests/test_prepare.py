"""The prepare command: reruns, archives, kills, and its messages."""

import json
import os
import shutil
import tarfile

import numpy as np
import pytest

from tests.cli import run_cli, run_main
from tests.data.factory import noise, truncate, write
from tests.data.test_archives import pack
from tests.data.trees import btad_tree, mvtec_tree, snapshot
from vtadl_jax import prepare
from vtadl_jax.data.builders import build
from vtadl_jax.data.builders.mvtec_ad import MvtecAd
from vtadl_jax.data.sources.prepared import prepared

RECORDS = "image_folders/screw/1.0.0"


@pytest.fixture
def raw(tmp_path):
    mvtec_tree(tmp_path / "raw", "nut", channels=3)
    return mvtec_tree(tmp_path / "raw", "screw")


@pytest.fixture
def cli(capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = prepare.main(["prepare", *map(str, arguments)])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def fails(result, *parts):
    code, out, err = result
    assert (code, out) == (2, "")
    line = err.strip().split("\n")[-1]
    assert line.startswith("error: ")
    for part in parts:
        assert str(part) in line, line


def states(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_all_categories_and_again(raw, tmp_path, cli):
    out = tmp_path / "deep" / "out"
    arguments = ("--source", raw, "--data_dir", out, "--image_size", "16,24")
    code, printed, said = cli(*arguments)
    assert (code, printed) == (0, "")
    assert said.count("write ") == 2
    names = sorted(path.name for path in (out / "image_folders").iterdir())
    assert names == ["nut-16x24", "screw-16x24"]
    assert sorted(p.name for p in out.iterdir()) == ["image_folders"]
    before = states(out)
    code, _, said = cli(*arguments)
    assert code == 0
    assert said.count("is prepared already") == 2
    assert states(out) == before
    assert cli("--check", "--data_dir", out)[0] == 0


def test_a_missing_category_is_added(raw, tmp_path, cli):
    out = tmp_path / "out"
    assert cli("--source", raw, "--data_dir", out, "--category=screw")[0] == 0
    assert [p.name for p in (out / "image_folders").iterdir()] == ["screw"]
    before = states(out)
    assert cli("--source", raw, "--data_dir", out)[0] == 0
    assert before.items() <= states(out).items()
    assert (out / "image_folders" / "nut").is_dir()


@pytest.mark.parametrize("change", ["another", "new", "gone"])
def test_a_source_that_changed(raw, tmp_path, cli, change):
    out = tmp_path / "out"
    arguments = ("--source", raw, "--data_dir", out, "--category=screw")
    cli(*arguments)
    before = snapshot(out)
    name = "train/good/004.png" if change != "new" else "train/good/005.png"
    path = raw / "screw" / name
    path.unlink() if change == "gone" else write(path, noise((24, 32), 99))
    fails(cli(*arguments), f"{name} is {change}", out / RECORDS, "another --data_dir", "remove")
    assert snapshot(out) == before


def test_damaged_records_are_found_and_kept(raw, tmp_path, cli):
    out = tmp_path / "out"
    arguments = ("--source", raw, "--data_dir", out, "--category=screw")
    cli(*arguments)
    shard = next((out / RECORDS).glob("*-test.array_record-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    before = snapshot(out)
    fails(cli(*arguments), shard, "checksum", f"remove {out / RECORDS}")
    assert snapshot(out) == before
    code, printed, _ = cli("--check", "--data_dir", out)
    assert code == 2
    assert f"error: {shard}" in printed
    shutil.rmtree(out / RECORDS)
    assert cli(*arguments)[0] == 0


def test_a_folder_of_another_program_is_left(raw, tmp_path, cli):
    (tmp_path / "out" / RECORDS).mkdir(parents=True)
    result = cli("--source", raw, "--data_dir", tmp_path / "out")
    fails(result, tmp_path / "out" / RECORDS, "no manifest.json", "move it away")


def test_interrupted(raw, tmp_path, cli, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build.LayoutBuilder, "_example", interrupt)
        code, printed, said = cli("--source", raw, "--data_dir", tmp_path / "out")
    assert (code, printed) == (130, "")
    assert "run the same command" in said
    assert not (tmp_path / "out").exists()


def test_a_second_process_spares_the_first_one_s_folder(raw, tmp_path, cli):
    with build.staging(tmp_path / "out") as work:
        assert cli("--source", raw, "--data_dir", tmp_path / "out")[0] == 0
        assert work.is_dir()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["image_folders"]


def test_two_at_the_same_time(raw, tmp_path, monkeypatch, cli):
    """The other one finishes the category first: ours is not lost work but the same."""
    out, whole = tmp_path / "out", build.LayoutBuilder.download_and_prepare

    def slow(self, **options):
        whole(self, **options)
        folder = out / "image_folders" / self.builder_config.name / "1.0.0"
        shutil.copytree(self.data_path, folder)

    monkeypatch.setattr(build.LayoutBuilder, "download_and_prepare", slow)
    fails(cli("--source", raw, "--data_dir", out), "cannot write", "run again")
    monkeypatch.undo()
    assert cli("--source", raw, "--data_dir", out)[0] == 0
    assert [p.name for p in out.iterdir()] == ["image_folders"]


# Archives


@pytest.mark.parametrize("kind", [".tar.xz", ".tar.gz", ".tar", ".zip"])
def test_archives_make_the_same_records(tmp_path, cli, kind):
    btad = btad_tree(tmp_path / "BTech_Dataset_transformed", "01")
    files = {f"some/{btad.name}/{k}": v for k, v in snapshot(btad).items()}
    archive = pack(tmp_path / f"btad{kind}", files)
    assert cli("--source", archive, "--data_dir", tmp_path / "a")[0] == 0
    assert cli("--source", btad, "--data_dir", tmp_path / "b")[0] == 0
    a, b = (snapshot(tmp_path / name / "image_folders/01/1.0.0") for name in "ab")
    manifests = [json.loads(found.pop("manifest.json")) for found in (a, b)]
    assert a == b
    assert manifests[0]["source"].pop("archive")["categories"] == ["01"]
    assert manifests[1]["source"].pop("archive") is None
    assert manifests[0] == manifests[1]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["image_folders"]
    code, _, said = cli("--source", archive, "--data_dir", tmp_path / "a")
    assert code == 0
    assert "prepared already" in said
    assert "unpack" not in said
    code, _, said = cli("--source", btad, "--data_dir", tmp_path / "a")
    assert (code, "prepared already" in said) == (0, True)


def test_an_archive_of_one_category_without_a_folder(tmp_path, cli):
    raw = mvtec_tree(tmp_path / "raw")
    archive = pack(tmp_path / "bolt.tar.xz", snapshot(raw / "screw"))
    assert cli("--source", archive, "--data_dir", tmp_path / "out")[0] == 0
    assert [p.name for p in (tmp_path / "out/image_folders").iterdir()] == ["bolt"]


def test_bad_archives_leave_nothing(raw, tmp_path, cli):
    content = snapshot(raw)
    evil = pack(tmp_path / "evil.tar", {**content, "../../../evil": b"x"})
    cut = truncate(pack(tmp_path / "cut.tar.xz", content))
    other = pack(tmp_path / "other.zip", {"readme.txt": b"x"})
    for archive, part in ((evil, "'../../../evil'"), (cut, "fetch it again"), (other, "no folder")):
        fails(cli("--source", archive, "--data_dir", tmp_path / "out"), part)
        assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("evil"))
    with tarfile.open(tmp_path / "evil.tar") as tar:
        assert "../../../evil" in tar.getnames()


# What users get wrong


def test_mistakes_are_one_line(raw, tmp_path, cli):
    data_dir = ("--data_dir", tmp_path / "out")
    fails(cli("--dataset", "mvtec_ad", *data_dir), "no --source", "mvtec_anomaly_detection.tar.xz")
    fails(cli("--dataset", "btad", *data_dir), "no --source", "avires.dimi.uniud.it")
    fails(cli("--dataset", "mvtec", *data_dir), "'mvtec'", "mvtec_ad, btad, folder")
    fails(
        cli("--source", tmp_path / "x", *data_dir), tmp_path / "x", "does not exist", "train/good"
    )
    fails(cli("--source", raw / "readme.txt", *data_dir), "neither a folder nor an archive")
    fails(cli("--source", raw), "no --data_dir")
    fails(cli("--source", raw, *data_dir, "--category=scew"), "did you mean 'screw'", "nut, screw")
    fails(cli("--source", raw, *data_dir, "--catgory=scew"), "catgory")
    fails(cli("--source", raw, *data_dir, "screw"), "'screw'", "--")
    for size in ("0", "a", "1,2,3", "-4"):
        fails(cli("--source", raw, *data_dir, f"--image_size={size}"), "--image_size", "512,640")
    mvtec = ("--dataset=mvtec_ad", "--source", raw, *data_dir)
    fails(cli(*mvtec), "'nut' is not a category", "--dataset folder")
    fails(cli(*mvtec, "--category=screw"), "screw", "train 5", "train 320", "--dataset folder")
    fails(cli("--check", *data_dir), "nothing is prepared")
    assert not (tmp_path / "out").exists()


def test_sizes():
    assert prepare.parse_size("") is None
    assert prepare.parse_size("512") == (512, 512)
    assert prepare.parse_size("512,640") == prepare.parse_size("(512, 640)") == (512, 640)


def test_published_set(tmp_path, cli, monkeypatch):
    monkeypatch.setattr(MvtecAd, "COUNTS", {"screw": (5, 2, 3)})
    mvtec_tree(tmp_path / "raw")
    arguments = ("--dataset=mvtec_ad", "--source", tmp_path, "--data_dir", tmp_path / "out")
    assert cli(*arguments)[0] == 0
    assert (tmp_path / "out/mvtec_ad/screw/1.0.0/manifest.json").is_file()


def test_check(raw, tmp_path, cli):
    code, printed, _ = cli("--check", "--source", raw, "--json", tmp_path / "report.json")
    assert code == 0
    assert "no faults found" in printed
    assert json.loads((tmp_path / "report.json").read_text())["clean"]
    (raw / "nut/ground_truth/scratch_head/000_mask.png").unlink()
    code, printed, _ = cli("--check", "--source", raw)
    assert (code, "warnings: 1" in printed) == (0, True)
    truncate(raw / "nut/train/good/000.png")
    code, printed, _ = cli("--check", "--source", raw, "--json", tmp_path / "report.json")
    assert (code, "errors: 1" in printed) == (2, True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [len(category["issues"]) for category in report["categories"]] == [2, 0]
    assert cli("--check", "--source", raw, "--category=screw")[0] == 0
    code, _, said = cli("--check", "--source", raw, "--json", tmp_path / "none" / "report.json")
    assert (code, "--json" in said) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_as_a_user_runs_it(raw, tmp_path):
    arguments = ("--source", str(raw), "--data_dir", str(tmp_path / "out"), "--category=screw")
    done = run_cli("vtadl_jax.prepare", *arguments)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        f"write {tmp_path / 'out' / RECORDS}",
        f"{tmp_path / 'out' / 'image_folders'} holds screw",
    ]


@pytest.fixture
def latin1(tmp_path):
    """A data set with a file name of Windows, which is not UTF-8."""
    mvtec_tree(tmp_path / "raw")
    odd = os.fsencode(tmp_path / "raw/screw/train/good") + b"/gr\xfcn.png"
    try:
        shutil.copy(tmp_path / "raw/screw/train/good/000.png", odd)
    except OSError:
        pytest.skip("this file system has no such names")
    return tmp_path


def test_names_that_are_not_utf8(latin1, capsys):
    flags = ("--check", f"--source={latin1 / 'raw'}", f"--json={latin1 / 'found.json'}")
    done = run_main(capsys, "vtadl_jax.prepare", *flags)
    assert done.returncode == 0, done.stderr
    assert "train: 6 (good 6)" in done.stdout
    assert (latin1 / "found.json").is_file()
    more = (f"--source={latin1 / 'raw'}", f"--data_dir={latin1 / 'out'}")
    done = run_main(capsys, "vtadl_jax.prepare", *more)
    assert done.returncode == 0, done.stderr
    (record,) = [r for r in prepared(latin1 / "out", "screw").train if "\\" in r.name]
    assert record.name.endswith("gr\\xfcn.png")


def test_the_check_of_a_plain_folder(tmp_path, capsys):
    tree = mvtec_tree(tmp_path / "raw") / "screw"
    places = (f"--bad={tree / 'test'}", f"--masks={tree / 'ground_truth'}", "--image_size=3")
    source = f"--source={tree / 'train/good'}"
    done = run_main(capsys, "vtadl_jax.prepare", "--check", source, *places)
    assert done.returncode == 0, done.stderr
    for part in ("10 images, 7 good, 3 defective, 3 masks", "count as good test images"):
        assert part in done.stdout
    truncate(tree / "train/good/003.png")
    done = run_main(capsys, "vtadl_jax.prepare", "--check", source)
    assert done.returncode == 2
    assert "003.png" in done.stdout
    done = run_main(capsys, "vtadl_jax.prepare", source, places[0], f"--data_dir={tmp_path}/out")
    assert done.returncode == 2
    assert "--bad and --masks are for --check" in done.stderr


def test_class_numbers_are_told_when_records_are_made(tmp_path, capsys):
    raw = mvtec_tree(tmp_path / "raw")
    mask = raw / "screw/ground_truth/scratch_head/001_mask.png"
    classes = np.zeros((24, 32), np.uint8)
    classes[3:9, 3:9], classes[20, 1:30] = 1, 2
    write(mask, classes)
    more = (f"--source={raw}", f"--data_dir={tmp_path / 'out'}", "--image_size=8")
    done = run_main(capsys, "vtadl_jax.prepare", *more)
    assert done.returncode == 0, done.stderr
    assert "note: 1 of 3 masks hold class numbers (0, 1, 2; for example" in done.stderr
    assert "marked regions are too thin for 8×8" in done.stderr
