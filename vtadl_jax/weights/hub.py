"""Fetches pretrained encoders from the Hugging Face hub, when a user asks; never by itself.

Which file of which repository belongs to a name of `model.features`, with its licence. No revision
is pinned and no checksum is stored here: what arrives is compared with the size and the SHA-256
that the hub states for the commit, which is printed so that it can be asked for again.
"""

import contextlib
import dataclasses
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtadl_jax.errors import UserError, disk_trouble
from vtadl_jax.options import nearest
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import not_written, writing
from vtadl_jax.runtime.text_table import table

FILE = "model.safetensors"
PAGE = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Source:
    """A repository of the hub with a file `FILE`. size: in MB, about. gated: given to those who
    accept the licence on its page. site: where the repository is; only the hub's are fetched."""

    repo: str
    licence: str
    size: int
    gated: bool = False
    site: str = PAGE

    @property
    def page(self) -> str:
        return f"{self.site}/{self.repo}"


def _timm(name: str, size: int, licence: str = "Apache-2.0") -> Source:
    return Source(f"timm/{name}", licence, size)


_DINOV3 = "DINOv3 License"
SOURCES = {
    "efficientnet_lite0": _timm("tf_efficientnet_lite0.in1k", 19),
    "efficientnet_lite1": _timm("tf_efficientnet_lite1.in1k", 22),
    "efficientnet_lite2": _timm("tf_efficientnet_lite2.in1k", 25),
    "resnet18": _timm("resnet18.tv_in1k", 47, "BSD-3-Clause"),
    "resnet50": _timm("resnet50.tv_in1k", 102, "BSD-3-Clause"),
    "wide_resnet50_2": _timm("wide_resnet50_2.tv_in1k", 276, "BSD-3-Clause"),
    "dinov2_vits14": Source("facebook/dinov2-small", "Apache-2.0", 88),
    "dinov2_vitb14": Source("facebook/dinov2-base", "Apache-2.0", 346),
    "dinov2_vitl14": Source("facebook/dinov2-large", "Apache-2.0", 1217),
    "dinov2_vitg14": Source("facebook/dinov2-giant", "Apache-2.0", 4546),
    "dinov2_vits14_reg": Source("facebook/dinov2-with-registers-small", "Apache-2.0", 88),
    "dinov2_vitb14_reg": Source("facebook/dinov2-with-registers-base", "Apache-2.0", 346),
    "dinov2_vitl14_reg": Source("facebook/dinov2-with-registers-large", "Apache-2.0", 1217),
    "dinov2_vitg14_reg": Source("facebook/dinov2-with-registers-giant", "Apache-2.0", 4546),
    **{
        f"dinov3_{size}": Source(f"facebook/dinov3-{size}-pretrain-lvd1689m", _DINOV3, mb, True)
        for size, mb in (
            ("vits16", 86), ("vits16plus", 115), ("vitb16", 343), ("vitl16", 1213),
            ("vith16plus", 3362),
        )
    },
    "dino_vits16": _timm("vit_small_patch16_224.dino", 87),
    "dino_vits8": _timm("vit_small_patch8_224.dino", 87),
    "dino_vitb16": _timm("vit_base_patch16_224.dino", 343),
    "dino_vitb8": _timm("vit_base_patch8_224.dino", 343),
    "mae_vit_base_patch16": _timm("vit_base_patch16_224.mae", 343, "CC-BY-NC-4.0"),
    "mae_vit_large_patch16": _timm("vit_large_patch16_224.mae", 1213, "CC-BY-NC-4.0"),
    "mae_vit_huge_patch14": _timm("vit_huge_patch14_224.mae", 2523, "CC-BY-NC-4.0"),
    "vit_tiny_patch16": _timm("vit_tiny_patch16_224.augreg_in21k", 39),
    "vit_small_patch16": _timm("vit_small_patch16_224.augreg_in21k", 120),
    "vit_small_patch32": _timm("vit_small_patch32_224.augreg_in21k", 124),
    "vit_base_patch8": _timm("vit_base_patch8_224.augreg_in21k", 410),
    "vit_base_patch16": _timm("vit_base_patch16_224.augreg_in21k", 410),
    "vit_base_patch32": _timm("vit_base_patch32_224.augreg_in21k", 417),
    "vit_large_patch16": _timm("vit_large_patch16_224.augreg_in21k", 1303),
    "deit_tiny_patch16": _timm("deit_tiny_patch16_224.fb_in1k", 23),
    "deit_small_patch16": _timm("deit_small_patch16_224.fb_in1k", 88),
    "deit_base_patch16": _timm("deit_base_patch16_224.fb_in1k", 346),
    "contnet_b": Source("yan-hao-tian/ConTNet", "not stated", 144, site="https://github.com"),
}  # fmt: skip


def listing() -> str:
    """Returns a table of names, licences, sizes and pages."""
    rows = []
    for name, source in SOURCES.items():
        licence = source.licence + (", to be accepted there" if source.gated else "")
        rows.append((name, licence, f"{source.size} MB", source.page))
    return "\n".join(table(("name", "licence", "about", "page"), rows, indent=""))


def fetch(name: str, folder: Path | None = None, revision: str = "main") -> Path:
    """Downloads the file of an encoder, checks it and returns its path.

    folder: where it becomes NAME.safetensors; None for the hub's cache, where a file that is there
    already is not downloaded again. Nothing is left of a download that fails in `folder`. Raises
    UserError for an unknown name, a hub that can't be reached, a licence that was not accepted and
    a file that arrives damaged.
    """
    source = SOURCES.get(name)
    if source is None:
        raise UserError(f"{name!r}{nearest(name, SOURCES)}: fetch without a name lists those known")
    if source.site != PAGE:
        raise UserError(
            f"{name}: not on the hub: get its authors' file, of about {source.size} MB, from "
            f"{source.page} yourself; then --config.model.features={name} --config.init_from=FILE"
        )
    target = folder / f"{name}.safetensors" if folder else None
    if target and target.exists():
        raise UserError(f"{target} is there already: use it, or remove it to fetch it again")
    hub = _library()
    try:
        told = hub.get_hf_file_metadata(hub.hf_hub_url(source.repo, FILE, revision=revision))
        say(
            f"{name}: {FILE} of {source.page}, revision {told.commit_hash}, "
            f"{(told.size or 0) / 1e6:,.0f} MB, licence {source.licence}"
        )
        if target is None:
            path = Path(hub.hf_hub_download(source.repo, FILE, revision=told.commit_hash))
            _check(path, told)
            return path
        with _beside(target) as place:
            path = Path(
                hub.hf_hub_download(source.repo, FILE, revision=told.commit_hash, local_dir=place)
            )
            _check(path, told)
            with writing(target):
                path.replace(target)
        return target
    except UserError:
        raise
    except Exception as error:  # the library's errors, and those of its clients, share no base
        if disk_trouble(error):
            raise
        if isinstance(error, OSError) and error.errno and error.filename:
            raise not_written(Path(str(error.filename)), error) from error
        raise _trouble(error, name, source, revision) from error


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[str]:
    """Makes a folder beside `target`, and removes it at the end; and the target's, if it was made
    for a file that did not come."""
    new = not target.parent.exists()
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    try:
        with made as place:
            yield place
    finally:
        if new and not target.exists():
            with contextlib.suppress(OSError):
                target.parent.rmdir()


def _check(path: Path, told: Any) -> None:
    """Compares a file with what the hub states; removes a damaged one."""
    size = path.stat().st_size
    wrong = f"{size} bytes instead of {told.size}" if told.size not in (None, size) else ""
    stated = (told.etag or "").strip('"')
    if not wrong and re.fullmatch(r"[0-9a-f]{64}", stated):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        wrong = f"SHA-256 {found} instead of {stated}" if found != stated else ""
    elif not wrong:
        say(f"note: the hub states no SHA-256 of {path.name}; its size was checked")
    if wrong:
        for damaged in (path.resolve(), path):  # the cache's file and the link to it
            damaged.unlink(missing_ok=True)
        raise UserError(f"{path} arrived damaged ({wrong}), and was removed: fetch it again")


def _trouble(error: Exception, name: str, source: Source, revision: str) -> UserError:
    page = source.page
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds or (source.gated and "RepositoryNotFoundError" in kinds):
        return UserError(
            f"{name}: {source.repo} is for those who accepted its licence: accept it at {page}, "
            f"log in with `hf auth login`, and rerun the same command"
        )
    missing = {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"}
    if kinds & missing:
        return UserError(
            f"{name}: the hub has no {FILE} in revision {revision!r} of {page}: look there"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"{name}: the hub can't be reached ({reason}): fetch it where it can, or copy {FILE} of "
        f"{page} here; then --config.init_from=FILE"
    )


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("huggingface_hub is not installed: pip install 'vtadl_jax[hub]'") from error
    return huggingface_hub
