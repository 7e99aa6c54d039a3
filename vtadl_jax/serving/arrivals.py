"""Finds files that arrived in a folder and are whole. Reads no content but what it is asked to."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from vtadl_jax.data.formats import EXTENSIONS, OTHER_EXTENSIONS, open_file
from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.console import say
from vtadl_jax.serving.journal import key_of
from vtadl_jax.serving.limits import Refused

_NAMED = 20  # files passed over that have a line of their own


class Changed(Exception):
    """A file was changed or removed since it was looked at."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A file below the folder. name: its path there, with forward slashes."""

    path: Path
    name: str
    size: int
    mtime_ns: int
    inode: int

    @property
    def key(self) -> str:
        return key_of(self.name, self.size, self.mtime_ns)

    def read(self, most: int) -> bytes:
        """Returns the content.

        Raises Changed if it is no longer that of this arrival, Refused if it has more than `most`
        bytes or is no plain file, OSError if it can't be read.
        """
        if self.size > most:
            raise Refused(413, f"the file has {self.size} bytes, more than the {most} of "
                               f"--max_bytes")  # fmt: skip
        try:
            with open_file(self.path) as file:
                content = file.read(most + 1)
                state = os.fstat(file.fileno())
            if self._differs(state) or self._differs(self.path.stat()):
                raise Changed
        except FileNotFoundError as error:
            raise Changed from error
        except UserError as error:
            raise Refused(400, str(error)) from error
        return content

    def _differs(self, state: os.stat_result) -> bool:
        now = (state.st_size, state.st_mtime_ns, state.st_ino)
        return now != (self.size, self.mtime_ns, self.inode)


class Arrivals:
    """Images in a folder and its sub-folders, known by their endings.

    A file is whole once its size and time are the same at two looks. Hidden files are not looked
    at; other files are passed over, which a line says once.
    """

    def __init__(self, folder: Path):
        self._folder, self._before = folder, dict[str, Arrival]()
        self._passed_over: set[str] = set()
        self._away = False

    def look(self, done: Callable[[str], bool]) -> list[Arrival]:
        """Returns the whole files, the oldest first. done: tells keys that are not needed."""
        faults: list[OSError] = []
        now = {}
        for folder, folders, files in os.walk(self._folder, onerror=faults.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in files:
                arrival = self._arrival(Path(folder, file))
                if arrival is not None and not done(arrival.key):
                    now[arrival.name] = arrival
        self._tell_away(faults)
        found = [each for name, each in now.items() if self._before.get(name) == each]
        self._before = now
        return sorted(found, key=lambda each: (each.mtime_ns, each.name))

    def _arrival(self, path: Path) -> Arrival | None:
        name = path.relative_to(self._folder).as_posix()
        if path.name.startswith("."):
            return None
        if path.suffix.lower() not in EXTENSIONS | OTHER_EXTENSIONS:
            self._pass_over(name)
            return None
        try:
            state = path.stat()
        except OSError:  # removed meanwhile
            return None
        return Arrival(path, name, state.st_size, state.st_mtime_ns, state.st_ino)

    def _pass_over(self, name: str) -> None:
        if name in self._passed_over or len(self._passed_over) > _NAMED:
            return
        self._passed_over.add(name)
        if len(self._passed_over) > _NAMED:
            say("more files are passed over, as their names are not of images")
        else:
            say(f"passed over, as its name is not of an image: {printable(name)}")

    def _tell_away(self, faults: list[OSError]) -> None:
        away = bool(faults)
        if away and not self._away:
            fault = faults[0]
            say(f"{printable(fault.filename)} can't be listed ({fault.strerror}): waiting for it")
        if self._away and not away:
            say(f"{printable(self._folder)} can be listed again")
        self._away = away
