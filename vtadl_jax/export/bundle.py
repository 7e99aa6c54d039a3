"""Files of an export: a zip of named members with a manifest and checksums. Runs no code of it.

Members are read into memory and checked before anything uses them; no pickle, no paths outside.
"""

import dataclasses
import hashlib
import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax import __version__
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import replacing
from vtadl_jax.runtime.versions import compiler_versions

FORMAT = 1  # of the files; a larger one is of a newer version
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
MAX_BYTES = 2**35  # of all members together
MOMENT = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal contents are equal files


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A file of an export that was read and checked.

    path: where it is. manifest: what it says of itself; 'kind' is 'saved' or 'stablehlo'. members:
    the contents of the other members by name.
    """

    path: Path
    manifest: dict[str, Any]
    members: dict[str, bytes]

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    def json(self, name: str) -> dict[str, Any]:
        """Returns the object in a JSON member. Raises UserError if it is none."""
        try:
            found = json.loads(self.members[name])
        except (KeyError, ValueError) as error:
            raise UserError(f"{self.path}: {name} is missing or no JSON: export again") from error
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {name} holds no fields: export again")
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the weights by name. Raises UserError if they can't be read."""
        from safetensors.numpy import load

        try:
            return load(self.members[WEIGHTS])
        except Exception as error:  # the library's errors have no common base class
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.path}: {WEIGHTS} can't be read ({reason})") from error


def write_bundle(
    path: Path, kind: str, about: Mapping[str, Any], members: Mapping[str, bytes]
) -> None:
    """Writes a file of an export, whole or not at all.

    about: what the manifest holds in addition to kind, format, versions, time and checksums. Raises
    UserError if it can't be written.
    """
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"vtadl_jax": __version__, **compiler_versions()},
        **about,
        "members": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        },
    }
    contents = {MANIFEST: json.dumps(manifest, indent=2).encode() + b"\n", **members}
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, MOMENT), content)


def read_bundle(path: Path) -> Bundle:
    """Reads a file of `write_bundle` and checks it.

    Raises UserError if it is missing, of another program, of a newer version, or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: give one that vtadl_jax.export wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise UserError(f"{path} was packed again by another program: export again")
            contents = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is damaged or not a file of vtadl_jax.export ({error}): export again"
        ) from error
    manifest = _manifest(path, contents.pop(MANIFEST, b""))
    _check(path, manifest, contents)
    return Bundle(path, manifest, contents)


def _manifest(path: Path, content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
        number, kind, members = manifest["format"], manifest["kind"], manifest["members"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(
            f"{path} has no manifest of vtadl_jax.export: give a file that it wrote"
        ) from error
    if type(number) is not int or number < 1 or not isinstance(members, dict):
        raise UserError(f"{path} has a manifest of format {number!r}: export again")
    if number > FORMAT or kind not in ("saved", "stablehlo"):
        version = (manifest.get("versions") or {}).get("vtadl_jax", "unknown")
        raise UserError(
            f"{path} is of format {number}, kind {kind!r}, of vtadl_jax {version}; this is "
            f"{__version__}, which reads formats up to {FORMAT}: install that version"
        )
    return manifest


def _check(path: Path, manifest: dict[str, Any], contents: Mapping[str, bytes]) -> None:
    members = manifest["members"]
    if contents.keys() != members.keys():
        names = ", ".join(sorted(contents.keys() ^ members.keys()))
        raise UserError(f"{path} has not the members of its manifest ({names}): export again")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != members[name].get("sha256"):
            raise UserError(f"{path} is damaged: {name} has another checksum: copy it again")


def to_safetensors(arrays: Mapping[str, Any]) -> bytes:
    """Returns named arrays as the content of a .safetensors file."""
    from safetensors.numpy import save

    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})
