"""`import_weights fetch`: what is listed and downloaded, checked and refused; without the hub."""

import hashlib
import types
from pathlib import Path

import pytest

from vtadl_jax import import_weights
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import EXTRACTORS, FILTERS
from vtadl_jax.weights import hub

CONTENT = b"weights" * 99


class GatedRepoError(OSError):
    """Of the name that the library's error has."""


class RemoteEntryNotFoundError(OSError):
    """Of the name that the library's error has."""


class FakeHub:
    """The functions of huggingface_hub that are used; keeps what it was asked for."""

    def __init__(self, cache: Path, content=CONTENT, error=None, etag=None):
        self.cache, self.content, self.error, self.asked = cache, content, error, []
        self.etag = hashlib.sha256(CONTENT).hexdigest() if etag is None else etag

    def hf_hub_url(self, repo, file, revision):
        return f"{repo}/{file}@{revision}"

    def get_hf_file_metadata(self, url):
        self.asked.append(url)
        if self.error:
            raise self.error
        return types.SimpleNamespace(commit_hash="c0ffee", etag=self.etag, size=len(CONTENT))

    def hf_hub_download(self, repo, file, revision, local_dir=None):
        assert revision == "c0ffee"
        folder = Path(local_dir) if local_dir else self.cache
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(self.content)
        if isinstance(self.content, bytes) and not self.content:
            raise ConnectionError("the line went dead")
        return str(folder / file)


@pytest.fixture
def use(tmp_path, monkeypatch):
    def make(**fields):
        fake = FakeHub(tmp_path / "cache", **fields)
        monkeypatch.setattr(hub, "_library", lambda: fake)
        return fake

    return make


def test_every_encoder_has_a_source_and_a_licence():
    assert hub.SOURCES.keys() == EXTRACTORS.keys() - {FILTERS}
    for source in hub.SOURCES.values():
        assert source.licence
        assert source.size > 0
    assert {n for n, s in hub.SOURCES.items() if s.gated} == {
        name for name in EXTRACTORS if name.startswith("dinov3")
    }


def test_the_list_is_printed_and_nothing_is_fetched(use, capsys):
    fake = use()
    assert import_weights.main(["import_weights", "fetch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(hub.SOURCES)
    assert any("dinov3_vits16 " in line and "to be accepted there" in line for line in lines)
    assert not fake.asked


def test_a_file_goes_to_the_cache_or_to_a_folder(use, tmp_path, capsys):
    fake = use()
    assert import_weights.main(["import_weights", "fetch", "dinov2_vits14"]) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).read_bytes() == CONTENT
    assert "facebook/dinov2-small, revision c0ffee, 0 MB, licence Apache-2.0" in err
    assert "--config.model.features=dinov2_vits14 --config.init_from=" in err
    folder = tmp_path / "to"
    arguments = ["fetch", "resnet18", f"--to={folder}", "--revision=v1"]
    assert import_weights.main(["import_weights", *arguments]) == 0
    assert [path.name for path in folder.iterdir()] == ["resnet18.safetensors"]
    assert fake.asked[-1] == "timm/resnet18.tv_in1k/model.safetensors@v1"
    with pytest.raises(UserError, match="is there already"):
        hub.fetch("resnet18", folder)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dinov2_vits15", {}, "did you mean dinov2_vits14?"),
        ("contnet_b", {}, "from https://github.com/yan-hao-tian/ConTNet yourself; then --config"),
        ("resnet18", {"error": OSError("no route to host")}, "can't be reached (no route to host)"),
        (
            "dinov3_vits16",
            {"error": GatedRepoError("401")},
            "accept it at https://huggingface.co/facebook/dinov3-vits16-pretrain-lvd1689m, log in",
        ),
        ("resnet18", {"error": RemoteEntryNotFoundError("404")}, "the hub has no model.safetenso"),
        ("resnet18", {"content": CONTENT[:-1]}, "arrived damaged (692 bytes instead of 693)"),
        ("resnet18", {"content": CONTENT[::-1]}, "arrived damaged (SHA-256 "),
        ("resnet18", {"content": b""}, "can't be reached (the line went dead)"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    use, tmp_path, capsys, name, fields, message
):
    use(**fields)
    for to in ([f"--to={tmp_path / 'to'}"], []):
        assert import_weights.main(["import_weights", "fetch", name, *to]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert message in last
        assert not (tmp_path / "to").exists()


def test_a_hub_without_checksums_is_told(use, capsys):
    use(etag='"abc"')
    hub.fetch("resnet18")
    assert "states no SHA-256" in capsys.readouterr().err


def test_the_library_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'vtadl_jax\[hub\]'"):
        hub.fetch("resnet18")
