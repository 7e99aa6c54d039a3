"""Unpacking: what comes out, what is refused, and that nothing lands outside."""

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tests.data.factory import fails, truncate
from vtadl_jax.data import archives
from vtadl_jax.data.archives import archive_stem, extract, is_archive

KINDS = [".tar.xz", ".tar.gz", ".tar", ".zip"]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that `path` ends in."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in files.items():
                out.writestr(name, content)
        return path
    with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "")) as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def pack_member(path: Path, name: str, kind: bytes, target: str = "") -> Path:
    with tarfile.open(path, "w") as out:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        content = tarfile.TarInfo("set/a.png")
        content.size = 3
        out.addfile(content, io.BytesIO(b"abc"))
        out.addfile(member)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_contents_come_out(tmp_path, kind):
    files = {"set/a.png": os.urandom(5000), "set/deep/er/b.png": b"", "c": b"c"}
    archive = pack(tmp_path / f"data{kind}", files)
    assert is_archive(archive)
    assert archive_stem(archive) == "data"
    extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_tarballs_made_by_tar_with_folders_and_modes(tmp_path):
    (tmp_path / "set" / "empty").mkdir(parents=True)
    (tmp_path / "set" / "a.png").write_bytes(b"abc")
    (tmp_path / "set" / "a.png").chmod(0o400)
    (tmp_path / "set").chmod(0o755)
    archive = shutil.make_archive(str(tmp_path / "data"), "gztar", tmp_path, "set")
    extract(Path(archive), tmp_path / "out")
    assert contents(tmp_path / "out") == {"set/a.png": b"abc"}
    assert (tmp_path / "out" / "set" / "empty").is_dir()


EVIL = ["../evil", "set/../../evil", "/evil", "set/..", "..\\evil", "C:\\evil", "C:/evil"]


@pytest.mark.parametrize("kind", [".tar", ".zip"])
@pytest.mark.parametrize("name", EVIL)
def test_names_that_leave_the_folder(tmp_path, kind, name):
    archive = pack(tmp_path / f"data{kind}", {"a": b"a", name: b"evil"})
    inside = tmp_path / "deep" / "out"
    with fails(archive, "holds", "outside", "refused"):
        extract(archive, inside)
    assert contents(tmp_path / "deep") == {"out/a": b"a"}
    assert not list(tmp_path.glob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "set/../../../secret"])
def test_links_that_point_outside(tmp_path, kind, target):
    (tmp_path / "secret").write_bytes(b"secret")
    archive = pack_member(tmp_path / "data.tar", "set/b.png", kind, target)
    with fails(archive, "the link 'set/b.png'", "outside"):
        extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {"set/a.png": b"abc"}


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.SYMTYPE, "../set/a.png"), (tarfile.LNKTYPE, "set/a.png")]
)
def test_links_inside_become_copies(tmp_path, kind, target):
    archive = pack_member(tmp_path / "data.tar", "other/b.png", kind, target)
    extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {"other/b.png": b"abc", "set/a.png": b"abc"}
    assert not (tmp_path / "out" / "other" / "b.png").is_symlink()


def test_links_to_nothing_and_to_folders(tmp_path):
    for target in ("nothing", "../set"):
        archive = pack_member(tmp_path / "data.tar", "set/b", tarfile.SYMTYPE, target)
        with fails("the link 'set/b'", "no file"):
            extract(archive, tmp_path / f"out-{len(target)}")


def test_a_file_through_a_link_goes_nowhere(tmp_path):
    """The classic: a link to a folder outside, then a file in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as out:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        out.addfile(link)
        evil = tarfile.TarInfo("link/evil")
        out.addfile(evil, io.BytesIO(b""))
    with fails("the link 'link'", "outside"):
        extract(path, tmp_path / "out")
    assert not any(outside.iterdir())


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes(tmp_path, kind):
    with fails("'set/device'", "device or pipe", "refused"):
        extract(pack_member(tmp_path / "data.tar", "set/device", kind), tmp_path / "out")


def test_links_in_zips(tmp_path):
    path = tmp_path / "data.zip"
    for target, name in (("/etc/passwd", "a"), ("../../b", "a"), ("b", "a")):
        with zipfile.ZipFile(path, "w") as out:
            info = zipfile.ZipInfo(f"set/{name}")
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            out.writestr("set/b", b"b")
            out.writestr(info, target)
        folder = tmp_path / f"out{len(target)}"
        if target != "b":
            with fails("the link 'set/a'", "outside"):
                extract(path, folder)
        else:
            extract(path, folder)
            assert contents(folder) == {"set/a": b"b", "set/b": b"b"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7])  # a tar ends in padding
def test_cut_short(tmp_path, kind, keep):
    files = {f"set/{i}.png": os.urandom(3000) for i in range(5)}
    archive = truncate(pack(tmp_path / f"data{kind}", files), keep)
    with fails(archive, "damaged"):
        extract(archive, tmp_path / "out")


def test_a_plain_tar_cut_between_two_files(tmp_path):
    """tarfile itself takes this for a complete archive."""
    archive = pack(tmp_path / "data.tar", {"a": b"a" * 512, "b": b"b" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["a"]
    with fails(archive, "damaged", "end is missing"):
        extract(archive, tmp_path / "out")


def test_a_damaged_header_is_not_the_end(tmp_path):
    archive = pack(tmp_path / "data.tar", {"a": b"a" * 512, "b": b"b" * 512})
    content = bytearray(archive.read_bytes())
    content[1024 + 150] ^= 1  # in the checksum of b's header
    archive.write_bytes(content)
    with fails(archive, "damaged"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", [".tar.xz", ".tar.gz", ".zip"])
def test_flipped_bits(tmp_path, kind):
    archive = pack(tmp_path / f"data{kind}", {f"{i}": os.urandom(4000) for i in range(3)})
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0x10
    archive.write_bytes(content)
    with fails(archive, "damaged"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_not_an_archive_at_all(tmp_path, kind):
    path = tmp_path / f"data{kind}"
    path.write_text("<html>please accept the licence</html>" * 100)
    with fails(path, "damaged"):
        extract(path, tmp_path / "out")


def test_encrypted(tmp_path):
    path = pack(tmp_path / "data.zip", {"a": b"a"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(content)
    with fails(path, "encrypted", "unpack it"):
        extract(path, tmp_path / "out")


def test_too_little_space_is_said_before(tmp_path, monkeypatch):
    path = pack(tmp_path / "data.zip", {"a": bytes(3 << 20)})
    usage = namedtuple("usage", "total used free")(10, 9, 1 << 20)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with fails("unpack data.zip", "0.00 GiB", "--data_dir"):
        extract(path, tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_unpacking(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "x")

    path = pack(tmp_path / "data.tar", {"a": b"a"})
    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with fails("no space left", path, "--source"):
        extract(path, tmp_path / "out")
