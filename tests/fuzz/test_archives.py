"""Archives with hostile names and random damage: nothing is written outside the folder."""

import io
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import answers, bounded_memory, damaged, quick
from vtadl_jax.data.archives import extract

PARTS = st.sampled_from(
    ("a", "b.png", "..", ".", "", "/", "\\", "C:", "~", "\x00", "ä" * 90, "con", "link", " ")
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
MEMBERS = st.lists(st.tuples(NAMES, KINDS, NAMES), min_size=1, max_size=5)


def tar(members) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    return stream.getvalue()


def zipped(members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, kind, target in members:
            info = zipfile.ZipInfo(name)
            if kind == tarfile.SYMTYPE:
                info.external_attr = 0o120777 << 16
            archive.writestr(info, target if kind == tarfile.SYMTYPE else "abc")
    return stream.getvalue()


def everything(folder):
    return set(folder.rglob("*"))


def check_unpacks_inside(tmp_path, suffix, content):
    path, outside = tmp_path / f"set{suffix}", tmp_path / "deep" / "er"
    outside.mkdir(parents=True, exist_ok=True)
    target = outside / "into"
    path.write_bytes(content)
    before = everything(tmp_path)
    with answers("set"):
        extract(path, target)
    made = everything(tmp_path) - before
    assert all(entry == target or target in entry.parents for entry in made), made
    for entry in made:
        assert not entry.is_symlink()
        assert entry.is_file() or entry.is_dir()
    remove(target)


def remove(folder):
    if folder.exists():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


@pytest.mark.fuzz
@pytest.mark.parametrize(("suffix", "make"), [(".tar.gz", tar), (".zip", zipped)])
def test_members_of_any_name_stay_inside(suffix, make, tmp_path):
    @quick(150)
    @given(MEMBERS)
    def check(members):
        try:
            content = make(members)
        except (ValueError, UnicodeError):  # a name that the writer does not take
            return
        check_unpacks_inside(tmp_path, suffix, content)

    check()


@pytest.mark.fuzz
@pytest.mark.parametrize(("suffix", "make"), [(".tar.gz", tar), (".tar", tar), (".zip", zipped)])
def test_a_damaged_archive_is_unpacked_or_named(suffix, make, tmp_path):
    sound = make([("train/good/a.png", tarfile.REGTYPE, ""), ("b.png", tarfile.SYMTYPE, "a.png")])

    @quick(150)
    @given(damaged((sound,)))
    def check(content):
        check_unpacks_inside(tmp_path, suffix, content)

    with bounded_memory():
        check()
