"""Serves the drawing page on this machine's loopback address, by the standard library.

The page loads nothing from elsewhere. Requests need the key in the page's address, so that no other
page in the same browser can read the image or write the file.
"""

import hmac
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vtadl_jax.errors import UserError
from vtadl_jax.regions.drawing import Drawing
from vtadl_jax.report.template import digest

HOST = "127.0.0.1"
LARGEST_BODY = 2**23  # bytes
TIMEOUT = 30  # seconds for a request to arrive


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


_STYLE, _SCRIPT = _read("page.css"), _read("page.js")
PAGE = _read("page.html").replace("/*STYLE*/", _STYLE).replace("/*SCRIPT*/", _SCRIPT)
POLICY = (
    f"default-src 'none'; style-src '{digest(_STYLE)}'; script-src '{digest(_SCRIPT)}'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class DrawingServer(ThreadingHTTPServer):
    """Server of one drawing. key: the first part of every path."""

    daemon_threads = True

    def __init__(self, drawing: Drawing, port: int):
        self.drawing, self.key, self.saving = drawing, secrets.token_urlsafe(16), threading.Lock()
        super().__init__((HOST, port), Handler)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/{self.key}/"


def make_server(drawing: Drawing, port: int = 0) -> DrawingServer:
    """Returns a server that listens. port: 0 for a free one. Raises UserError if it is taken."""
    try:
        return DrawingServer(drawing, port)
    except OSError as error:
        raise UserError(
            f"--port {port}: can't listen at {HOST} ({error.strerror}): give another, or 0"
        ) from error


class Handler(BaseHTTPRequestHandler):
    """Answers the page's requests."""

    server: DrawingServer
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def do_GET(self) -> None:
        answers = {
            "": lambda: ("text/html; charset=utf-8", PAGE.encode()),
            "image": lambda: ("image/jpeg", self.server.drawing.picture),
            "state": lambda: _json(self.server.drawing.state()),
        }
        name = self._name()
        found = None if name is None else answers.get(name)
        if found is None:
            self._answer(404, *_json({"error": "there is nothing at this address"}))
        else:
            self._answer(200, *found())

    def do_POST(self) -> None:
        name, length = self._name(), self.headers.get("Content-Length", "")
        if name not in ("save", "end"):
            self._refuse(404, "there is nothing at this address")
        elif not length.isdecimal() or int(length) > LARGEST_BODY:
            self._refuse(413, f"a request of more than {LARGEST_BODY >> 20} MiB")
        elif name == "end":
            self.rfile.read(int(length))
            self._answer(200, *_json({}))
            threading.Thread(target=self.server.shutdown, daemon=True).start()
        else:
            self._save(self.rfile.read(int(length)))

    def _save(self, body: bytes) -> None:
        try:
            posted = json.loads(body)
            with self.server.saving:
                found = self.server.drawing.save(posted)
        except (ValueError, RecursionError) as error:
            self._answer(400, *_json({"error": f"no JSON: {error}"}))
        except UserError as error:
            self._answer(422, *_json({"error": str(error)}))
        else:
            self._answer(200, *_json(found))

    def _name(self) -> str | None:
        """Returns what is asked for, None for a request that does not come from the page."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        key, slash, name = urlsplit(self.path).path.lstrip("/").partition("/")
        known = hmac.compare_digest(key.encode(), self.server.key.encode())
        return name if known and slash and host in (HOST, "localhost") else None

    def _refuse(self, status: int, reason: str) -> None:
        """Answers without reading the body, and closes."""
        self.close_connection = True
        self._answer(status, *_json({"error": reason}))

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", POLICY),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: each request is one of the page."""


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()
