"""The page at `/`: one file with its styles and its script, which loads nothing from elsewhere.

Its policy lets the browser run this script and no other, and send images to this service only.
"""

from pathlib import Path

from vtadl_jax.report.template import digest

_HERE = Path(__file__).parent


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


_STYLE, _SCRIPT = _read("page.css"), _read("page.js")
PAGE = _read("page.html").replace("/*STYLE*/", _STYLE).replace("/*SCRIPT*/", _SCRIPT)
PAGE_POLICY = (
    f"default-src 'none'; style-src '{digest(_STYLE)}'; script-src '{digest(_SCRIPT)}'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
