"""The files that a watcher is done with, on disk: a line for each, appended and never changed."""

import hashlib
import json
import os
from pathlib import Path

from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import writing

JOURNAL = "journal.jsonl"


def key_of(name: str, size: int, mtime_ns: int) -> str:
    """Returns 16 digits that stand for a file: of its name below the folder, size and time."""
    text = os.fsencode(name) + b"\0" + f"{size} {mtime_ns}".encode()
    return hashlib.sha256(text).hexdigest()[:16]


class Journal:
    """Keys of `key_of` in a file of lines; a line that a crash cut short counts as none.

    Raises UserError if the file can't be read or written.
    """

    def __init__(self, path: Path):
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._path = path
        with writing(path):
            self._file = os.open(path, flags, 0o666)
            with open(self._file, "rb", closefd=False) as file:
                lines = file.read().split(b"\n")
        self._cut = bool(lines[-1])  # the last line has no end
        keys = [_key(line) for line in lines if line]
        self._done = {key for key in keys if key}
        if damaged := keys.count(""):
            say(f"note: {path}: {damaged} lines that were cut short are left out")

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __len__(self) -> int:
        return len(self._done)

    def add(self, key: str, name: str, outcome: str, file: str) -> None:
        """Appends a line and waits until it is on disk."""
        line = json.dumps({"key": key, "outcome": outcome, "name": name, "file": file}) + "\n"
        with writing(self._path):
            start = b"\n" if self._cut else b""
            self._cut = True  # until the whole line is written
            content = start + line.encode()
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)
        self._cut = False
        self._done.add(key)

    def close(self) -> None:
        os.close(self._file)


def _key(line: bytes) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    key = found.get("key") if isinstance(found, dict) else None
    return key if isinstance(key, str) else ""
