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
    if not manifest.keys() >= _FIELDS or not _is_sound(manifest):
        raise UserError(f"{path} is damaged: remove {folder} and prepare it again")
    names = {"category": [manifest["category"]], "dataset": [manifest["dataset"]]}
    for what, wanted in (names | {"shard": manifest["shards"]}).items():
        for name in wanted:
            if not is_name(name):
                raise UserError(
                    f"{path} has the {what} {name!r}, which is no plain name and may lead out of a "
                    f"folder: it is refused; remove {folder} and prepare it again"
                )
    for name, *_ in (row for rows in manifest["records"].values() for row in rows):
        if not stays_inside(name):
            raise UserError(
                f"{path} has the image {name!r}, a path out of the data set: it is refused; remove "
                f"{folder} and prepare it again"
            )
    return manifest


def is_name(text: str) -> bool:
    """Returns whether a text is the name of a file or folder: not empty, no path, no control
    characters."""
    odd = any(character in "/\\" or ord(character) < 32 for character in text)
    return stays_inside(text) and not odd and text != "."


def stays_inside(path: str) -> bool:
    """Returns whether a path stays in its folder, under both posix and Windows rules."""
    parts = path.replace("\\", "/").split("/")
    windows = len(parts[0]) == 2 and parts[0][1] == ":"
    return bool(path) and parts[0] != "" and ".." not in parts and not windows and "\0" not in path


def _is_sound(manifest: Manifest) -> bool:
    """Returns whether all values have the types that `write` gives them."""
    texts = all(isinstance(manifest[name], str) for name in ("dataset", "category"))
    size, shards, source = manifest["image_size"], manifest["shards"], manifest["source"]
    sized = size is None or (
        isinstance(size, list) and len(size) == 2 and all(map(_positive, size))
    )
    return (
        texts
        and sized
        and manifest["channels"] in (1, 3)
        and isinstance(manifest["counts"], dict)
        and all(
            isinstance(kinds, dict) and all(map(_count, kinds.values()))
            for kinds in manifest["counts"].values()
        )
        and isinstance(shards, dict)
        and all(map(_is_shard, shards.values()))
        and isinstance(source, dict)
        and _is_archive(source.get("archive", 0))
        and isinstance(source.get("files"), dict)
        and all(isinstance(digest, str) for digest in source["files"].values())
        and isinstance(manifest["records"], dict)
        and all(
            isinstance(rows, list) and all(map(_is_record, rows))
            for rows in manifest["records"].values()
        )
    )


def _is_archive(archive: Any) -> bool:
    if not isinstance(archive, dict):
        return archive is None
    categories = archive.get("categories")
    named = isinstance(categories, list) and all(isinstance(name, str) for name in categories)
    return named and isinstance(archive.get("sha256"), str)


def _is_shard(shard: Any) -> bool:
    return (
        isinstance(shard, dict)
        and all(isinstance(shard.get(name), str) for name in ("split", "sha256"))
        and all(_count(shard.get(name)) for name in ("records", "bytes"))
    )


def _is_record(row: Any) -> bool:
    """Returns whether a row is [name, defect, label, height, width, has_mask]."""
    return (
        isinstance(row, list)
        and len(row) == 6
        and all(isinstance(text, str) for text in row[:2])
        and row[2] in (0, 1)
        and all(map(_positive, row[3:5]))
        and isinstance(row[5], bool)
    )


def _count(number: Any) -> bool:
    return type(number) is int and number >= 0


def _positive(number: Any) -> bool:
    return _count(number) and number > 0


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
