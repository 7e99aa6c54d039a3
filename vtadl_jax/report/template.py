"""What the pages of a report share: parts, a template that is filled once, figures, tables.

A page is one file with one style sheet, one script, and a content security policy that blocks
everything else. Texts reach it escaped.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np


def part(name: str) -> str:
    """Returns a file of this folder as text."""
    return resources.files("vtadl_jax.report").joinpath(name).read_text(encoding="utf-8")


def parts(page: str) -> tuple[str, str, str]:
    """Returns the template, the style sheet and the script of a page, with what all pages share."""
    html, js = (
        part(shared) + part(f"{page}.{kind}")
        for shared, kind in (("head.html", "html"), ("common.js", "js"))
    )
    return html, part("page.css"), js


def digest(text: str) -> str:
    """Returns the hash source of an inline script or style for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def filled(template: str, values: Mapping[str, str]) -> str:
    """Fills a template in one pass, so that no value is interpreted as a placeholder."""
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: values[match[1]], template)


def as_json(value: Any) -> str:
    """Returns JSON that is safe inside <script>: ASCII, without "<", without NaN."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def number(value: float) -> float | str | None:
    """Returns a number for JSON, which has no infinity: as text for the page. NaN becomes null."""
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def figure(name: str, value: str, explanation: str) -> str:
    """Returns a number with its name and one line of explanation."""
    return (
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b>"
        f"<span>{escape(explanation)}</span></dd></div>"
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a section with a table; columns of numbers are aligned right."""
    numeric = [_is_numeric(row[i] for row in rows) for i in range(len(header))]
    classes = [' class="number"' if is_number else "" for is_number in numeric]

    def row_of(tag: str, cells: Iterable[Any]) -> str:
        made = (
            f"<{tag}{kind}>{escape(_cell(c))}</{tag}>"
            for c, kind in zip(cells, classes, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    name = escape(title)
    body = "".join(row_of("td", row) for row in rows)
    return (
        f'<section><h2>{name}</h2><div class="wide" tabindex="0" role="region" aria-label="{name}">'
        f"<table><thead>{row_of('th', header)}</thead><tbody>{body}</tbody></table></div></section>"
    )


def _is_numeric(cells: Iterable[Any]) -> bool:
    shown = [_cell(cell) for cell in cells]
    return any(s not in "-–" for s in shown) and all(
        s in "-–" or re.fullmatch(r"[-+−]?[\d.,]+(e[-+]?\d+)?\s*%?", s) for s in shown
    )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def policy(css: str, js: str) -> str:
    """Returns the content security policy of a page with this style sheet and script."""
    return (
        f"default-src 'none'; img-src data:; style-src '{digest(css)}'; script-src '{digest(js)}'; "
        f"base-uri 'none'; form-action 'none'"
    )
