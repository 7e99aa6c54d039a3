"""Adds the documents of the top folder to the site, as `mkdocs.yml` lists them.

mkdocs reads `docs/` only. Links are written for the repository: here they get the site's paths, and
links to files that are not on the site, such as sources, become plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

# file in the repository → page of the site
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s#:]+)(#[^()\s]*)?\)")


def on_files(files, config):
    """Adds the pages of `OUTSIDE`."""
    root = Path(config.config_file_path).parent
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links of one page."""
    root = Path(config.config_file_path).parent
    inside = {page: name for name, page in OUTSIDE.items()}
    source = page.file.src_uri
    folder = posixpath.dirname(inside.get(source, f"docs/{source}"))

    def rewrite(match):
        text, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(folder, path))
        if target in OUTSIDE:
            target = OUTSIDE[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif (root / target).exists():
            return text
        else:
            return match[0]
        relative = posixpath.relpath(target, posixpath.dirname(source) or ".")
        return f"[{text}]({relative}{anchor})"

    return LINK.sub(rewrite, markdown)
