"""Reads how a person sorted images on the page of a prediction; checks that they are there."""

import dataclasses
import hashlib
from pathlib import Path

from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.files import read_json

GOOD, DEFECTIVE = "good", "defective"  # values of 'sorted' in the file
KIND = "vtadl_jax sorted images"


@dataclasses.dataclass(frozen=True)
class SortedImages:
    """good: paths of images that a person calls good; defective: of missed defects.

    missing: paths that are no files now; changed: those of other content than was scored.
    """

    good: tuple[Path, ...]
    defective: tuple[Path, ...]
    missing: tuple[Path, ...]
    changed: tuple[Path, ...]


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sorted(file: Path) -> SortedImages:
    """Reads a file that the page of `predict` saved.

    Raises UserError for another file, and if none of its good images is there as it was scored.
    """
    try:
        stored = read_json(file)
        if stored.get("kind") != KIND:
            raise ValueError("it was not saved by the page of a prediction")
        root = Path(stored["root"])
        entries = [(root / e["name"], e["sha256"], e["sorted"]) for e in stored["images"]]
        if unknown := {verdict for *_, verdict in entries} - {GOOD, DEFECTIVE}:
            raise ValueError(f"'sorted' is {sorted(map(str, unknown))[0]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--sorted {printable(file)} can't be read ({error}): give the file that the page "
            f"report.html of vtadl_jax.predict saves"
        ) from error
    found: dict[str, list[Path]] = {GOOD: [], DEFECTIVE: [], "missing": [], "changed": []}
    for path, digest, verdict in entries:
        try:
            found[verdict if checksum(path) == digest else "changed"].append(path)
        except OSError:
            found["missing"].append(path)
    images = SortedImages(*map(tuple, found.values()))
    if not images.good:
        lost = len(images.missing) + len(images.changed)
        example = next(iter((*images.missing, *images.changed)), None)
        more = f", {lost} are gone or changed, for example {printable(example)}" if lost else ""
        raise UserError(
            f"--sorted {printable(file)}: no good image to add of {len(entries)}{more}: mark "
            f"images as good after all on the page, and keep their files where they were scored"
        )
    return images
