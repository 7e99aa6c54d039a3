"""The shell commands of the documents: `sh` blocks of README.md, CONTRIBUTING.md and docs."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.cli import ROOT

README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^ *```(?:sh|bash|shell)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"^(\w+)=(.*)$")
_PYTHON = re.compile(r"^(?:\S*/)?python3?$")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a document: its words after variables, comments and line ends are dealt with."""

    file: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.words)

    @property
    def module(self) -> str:
        """The module of `python -m MODULE`, '' for other commands."""
        if len(self.words) > 2 and _PYTHON.match(self.words[0]) and self.words[1] == "-m":
            return self.words[2]
        return ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[3:] if self.module else self.words[1:]

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


def commands_of(document: Path) -> list[Command]:
    """Returns all commands of a document's shell blocks, in order."""
    blocks = _BLOCK.findall(document.read_text(encoding="utf-8"))
    return [command for block in blocks for command in read_block(block, document.name)]


def read_block(block: str, file: str) -> Iterator[Command]:
    """Yields a block's commands: lines joined, `NAME="..."` put in for `$NAME`, split at `&&`."""
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (found := _ASSIGNMENT.match(words[0])):
            variables[found.group(1)] = found.group(2)
            continue
        command: list[str] = []
        for word in [*words, "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                yield Command(file, tuple(command))
                command = []
