"""Names of result files and cells of tables, from names of images that may be anything."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from vtadl_jax.errors import printable

LONGEST = 150  # bytes of a part of a path, of 255 that file systems have
_BEHIND_SEMICOLON = re.compile(r";(?=\s*[=+\-@＝＋－＠])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def cell(text: object) -> str:
    """Returns a text as a cell of a CSV file: printable, and no formula in a spreadsheet.

    An apostrophe stands before = + - @ at the start of the cell, and behind a semicolon, which
    starts a cell where the comma is the decimal sign.
    """
    shown = _BEHIND_SEMICOLON.sub(";'", printable(text))
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def png_name(name: str) -> str:
    """Returns the name of a picture of an image: its own, with '.png' behind another ending."""
    return name if name.lower().endswith(".png") else f"{name}.png"


def flat_name(name: str) -> str:
    """Returns the name of a picture of an image without folders: 'dent_0.png' of 'dent/0.bmp'."""
    return f"{PurePosixPath(name.replace('/', '_')).stem}.png"


def file_names(names: Sequence[str], name_of: Callable[[str], str]) -> list[str]:
    """Returns a file for each image: `name_of` its name where that is plain and no other's.

    Names that are the same in lower case, that hold unprintable characters or a backslash, that
    start as a formula (`cell`), or that are too long, get '-' and 10 digits of the SHA-256 of the
    image's name before the ending. The files do not depend on the order of the names, which differ.
    """
    wanted = [_plain(name_of(name)) for name in names]
    keys = [_key(name) for name, _ in wanted]
    folders = {str(parent) for key in keys for parent in PurePosixPath(key).parents}
    count: dict[str, int] = {}
    for key in keys:
        count[key] = count.get(key, 0) + 1
    taken = {
        key
        for key, (_, changed) in zip(keys, wanted, strict=True)
        if count[key] == 1 and key not in folders and not changed
    }
    found = []
    for name, key, (file, _) in zip(names, keys, wanted, strict=True):
        if key not in taken:
            file = _marked(file, name, taken | folders)
            taken.add(_key(file))
        found.append(file)
    return found


def _plain(name: str) -> tuple[str, bool]:
    """Returns a relative path of printable parts that are not too long; whether that changed it."""
    parts = []
    for part in name.split("/"):
        plain = printable(part).replace("\\", "_")
        if plain in ("", ".", ".."):
            plain = "_" * max(len(plain), 1)
        if len(plain.encode()) > LONGEST:
            stem, dot, ending = plain.rpartition(".")
            ending = f".{ending}" if dot and len(ending) < 10 else ""
            plain = (stem if ending else plain).encode()[: LONGEST - 30].decode("utf-8", "ignore")
            plain += ending
        parts.append(plain)
    plain = "/".join(parts)
    plain = _BEHIND_SEMICOLON.sub("_", plain)
    plain = f"_{plain}" if plain.startswith(_FORMULA) else plain
    return plain, plain != name


def _marked(file: str, name: str, taken: set[str]) -> str:
    """Returns a file name with digits of the image's name, more than 10 if these are taken."""
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    path = PurePosixPath(file)
    for length in range(10, len(digits)):
        marked = str(path.with_name(f"{path.stem}-{digits[:length]}{path.suffix}"))
        if _key(marked) not in taken:
            return marked
    raise AssertionError("names differ")


def _key(name: str) -> str:
    """Returns what file systems that ignore case and composition take a name for."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
