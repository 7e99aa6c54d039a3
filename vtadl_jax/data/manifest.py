"""manifest.json of prepared records: their content, their source files, and the checksums of both.

Imports neither builders nor readers, and no heavy module.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vtadl_jax.errors import UserError

NAME = "manifest.json"
FORMAT = 1  # increase it when older manifests or records can no longer be read
_FIELDS = frozenset(
    ("dataset", "category", "image_size", "channels", "counts", "shards", "source", "records")
)

Manifest = dict[str, Any]


def read(folder: Path) -> Manifest:
    """Reads the manifest of a folder of records. Raises UserError if it cannot be used."""
    path = folder / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no {NAME}, so this program did not make it: move it away"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}, check permissions") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: remove {folder} and prepare it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder} was prepared by another version of this program: remove it and prepare it "
            "again, or give another folder"
        )
    if not manifest.keys() >= _FIELDS:
        raise UserError(f"{path} is damaged: remove {folder} and prepare it again")
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    text = json.dumps({"format": FORMAT, **manifest}, ensure_ascii=False, indent=1)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def find(root: Path) -> list[Path]:
    """Finds folders with a manifest: `root` itself, or those of one or several data sets in it."""
    if (root / NAME).is_file():
        return [root]
    # set/category/version; hidden folders are work in progress
    found = (*root.glob(f"*/{NAME}"), *root.glob(f"*/*/{NAME}"), *root.glob(f"*/*/*/{NAME}"))
    visible = (p for p in found if not any(s.startswith(".") for s in p.relative_to(root).parts))
    return sorted(path.parent for path in visible)


def describe_shards(
    folder: Path, shards: Iterable[tuple[str, str, int]]
) -> dict[str, dict[str, Any]]:
    """Returns the manifest's entries of shards, from (file name, split, number of records) each."""
    return {
        name: {
            "split": split,
            "records": count,
            "bytes": (folder / name).stat().st_size,
            "sha256": file_digest(folder / name),
        }
        for name, split, count in shards
    }


def shard_faults(folder: Path, manifest: Manifest, contents: bool = True) -> list[str]:
    """Returns the faults of shards by their sizes and, if `contents`, their checksums."""
    faults = []
    for name, shard in manifest["shards"].items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif path.stat().st_size != shard["bytes"]:
            faults.append(f"{path} has {path.stat().st_size} bytes instead of {shard['bytes']}")
        elif contents and file_digest(path) != shard["sha256"]:
            faults.append(f"{path} is damaged, its checksum is another")
    return faults


def source_difference(manifest: Manifest, files: Mapping[str, str]) -> str | None:
    """Returns how source files (name → sha256) differ from those of the records, None if equal."""
    before: dict[str, str] = manifest["source"]["files"]
    differing = [
        *(f"{name} is new" for name in files if name not in before),
        *(f"{name} is gone" for name in before if name not in files),
        *(f"{name} is another" for name in files if before.get(name, files[name]) != files[name]),
    ]
    if not differing:
        return None
    more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
    return differing[0] + more


def fingerprint(files: Mapping[str, str]) -> str:
    """Returns one checksum of all names and contents."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
