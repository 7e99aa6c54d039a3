"""The documents: links lead somewhere, commands in the text name what there is.

The site has every page of docs.
"""

import importlib
import importlib.util
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from vtadl_jax import experiment

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)|<img src=\"([^\"]+)\"")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors_of(path: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a file."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        assert slug not in found, f"{name_of(path)} has two headings with the anchor {slug}"
        found.add(slug)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_of_a_document_lead_to_files_and_headings(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target = match[1] or match[2]
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{name_of(path)}: {target}"
        assert found.is_relative_to(ROOT), f"{name_of(path)}: {target}"
        if anchor and name_of(found) != "CHANGELOG.md":  # its sections repeat their names
            assert anchor in anchors_of(found), f"{name_of(path)}: {target}"


def test_every_page_is_in_the_navigation_of_the_site():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = set(re.findall(r"([\w/-]+\.md)$", site, re.MULTILINE))
    assert listed == pages | {"contributing.md", "changelog.md"}


def commands_of(text: str) -> set[str]:
    """Returns the command lines of this program in code spans, for example of a table."""
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    matches = (re.search(r"python -m (vtadl_jax\.[^&|]*)", span) for span in spans)
    return {match[1] for match in matches if match}


def flags_of(module: str) -> Any:
    """Returns the flags of a command."""
    spec = importlib.util.find_spec(module)
    assert spec, f"no module {module}"
    entry = f"{module}.__main__" if spec.submodule_search_locations else module
    return importlib.import_module(entry).FLAGS


def check_command(command: str) -> None:
    """Fails if the program has no such command, flag, config or field."""
    module, *words = shlex.split(command, comments=True)
    if module.count(".") > 1 or module.endswith(("import_torch", "export_torch")):
        assert importlib.util.find_spec(module), f"no module {module}"
        return  # benchmarks need other packages; the other two are former names
    known = {*flags_of(module), *getattr(importlib.import_module(module), "FETCH_FLAGS", ())}
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and not name.startswith("--config"):
            assert {name[2:], name[2:].removeprefix("no")} & {*known, "help"}, word
    config = next((b for a, b in itertools.pairwise(words) if a == "--config"), "")
    if config.startswith("configs/") and "…" not in command:
        experiment.load(config, [word for word in words if word.startswith("--config.")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_in_the_text_name_what_there_is(path):
    if path.name == "CHANGELOG.md":
        pytest.skip("it names what there was")
    for command in sorted(commands_of(path.read_text(encoding="utf-8"))):
        try:
            check_command(command)
        except Exception as error:
            raise AssertionError(f"{name_of(path)}: {command}: {error}") from error


def test_docstrings_of_arguments_become_lists_on_the_site():
    pytest.importorskip("griffe")  # of the extra `docs`
    spec = importlib.util.spec_from_file_location("fields", ROOT / "docs" / "site" / "fields.py")
    fields = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fields)
    text = "Adds.\n\nx, y: two\nnumbers, [N]. step: 0 is first. Raises UserError for none."
    listed = (
        "Adds.\n\n- `x, y`: two numbers, [N].\n- `step`: 0 is first.\n\nRaises UserError for none."
    )
    assert fields.as_list(text, ["x", "y", "step"]) == listed
    assert fields.as_list("x is: no. step", ["x", "step"]) == "x is: no. step"
