"""What every request passes: key, request id, security headers, log line, errors as JSON.

A plain ASGI layer around the application. No error leaves it as a traceback or with status 500.
"""

import asyncio
import contextlib
import hmac
import json
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vtadl_jax.serving.limits import Refused
from vtadl_jax.serving.logs import log
from vtadl_jax.serving.state import STOPPING, Service

OPEN = ("/", "/health", "/ready")  # need no key: they say nothing about models or images
LOCAL = ("127.0.0.1", "localhost", "::1")
_PROBES = ("/health", "/ready", "/metrics")  # asked for every few seconds: no line of the log
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
DRAIN_SECONDS = 2
NO_CONTENT = b"default-src 'none'; frame-ancestors 'none'"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Envelope:
    """ASGI application around another."""

    def __init__(self, app: Any, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, headers = time.perf_counter(), dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {}).update(request_id=request_id.decode(), logged={})
        status, body = 0, _Body(receive, headers)

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and status != 408:
                    await body.drain(self._service.limits.max_bytes)
                own = {name.lower() for name, _ in message["headers"]}
                added = [*_HEADERS, (b"x-request-id", request_id)]
                if b"content-security-policy" not in own:
                    added.append((b"content-security-policy", NO_CONTENT))
                if self._service.state == STOPPING:
                    added.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        fault: dict[str, str] = {}
        try:
            self._check(scope, headers)
            await self._app(scope, body, sending)
        except Refused as refused:
            await send_error(sending, refused, request_id.decode())
        except Exception as error:
            fault = {"error": type(error).__name__, "trace": traceback.format_exc()}
            if not status:
                text = "the service failed at this request: its log says why, under the request id"
                await send_error(sending, Refused(503, text), request_id.decode())
        finally:
            seconds = time.perf_counter() - start
            self._log(scope, request_id.decode(), status, seconds, fault)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises Refused for a request without the key, or of another site's page."""
        if scope["path"] not in OPEN and self._service.key and not self._has_key(headers):
            raise Refused(
                401, "the key is missing or wrong: send Authorization: Bearer KEY or X-API-Key: KEY"
            )
        own, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin")
        # A page of another site can have its name lead to this machine (DNS rebinding).
        if self._service.local and _split(f"//{own}").hostname not in LOCAL:
            raise Refused(
                403, f"the service answers at {', '.join(LOCAL)} only: set a key, or --host"
            )
        reads = scope["method"] in ("GET", "HEAD")
        if origin and not reads and _split(origin.decode("latin-1")).netloc != own:
            raise Refused(403, "a page of another site may not send images here")

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"x-api-key", b"")
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given = value.strip()
        return hmac.compare_digest(given, self._service.key.encode())

    def _log(
        self, scope: Scope, request_id: str, status: int, seconds: float, fault: dict[str, str]
    ) -> None:
        if scope["path"] in _PROBES and not fault:
            return
        client = scope.get("client") or ("", 0)
        route = getattr(scope.get("route"), "path", "")
        fields = {"route": route, **scope["state"]["logged"], **fault}
        log(
            "request",
            id=request_id,
            method=scope["method"][:10],
            status=status,  # 0: the client went away before its answer
            seconds=round(seconds, 6),
            client=client[0],
            **fields,
        )


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


class _Body:
    """Receives a request's body for the application, and drops what that leaves unread."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]):
        self._receive, self._ended = receive, False
        # Such a client sends nothing before it is asked to.
        self._waits = headers.get(b"expect", b"").lower() == b"100-continue"

    async def __call__(self) -> dict[str, Any]:
        message = await self._receive()
        self._ended |= message["type"] != "http.request" or not message.get("more_body")
        self._waits = False
        return message

    async def drain(self, most: int) -> None:
        """Reads the rest, up to `most` bytes and two seconds: a client that still sends would not
        read its answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while most > 0 and not self._ended and not self._waits:
                    most -= len((await self()).get("body", b""))


def error_body(text: str, request_id: str) -> bytes:
    """Returns the JSON of an error."""
    return json.dumps({"error": text, "request": request_id}).encode()


def error_headers(refused: Refused) -> dict[str, str]:
    """Returns the headers that belong to an error's status."""
    found = {"content-type": "application/json"}
    if refused.retry_after is not None:
        found["retry-after"] = str(refused.retry_after)
    if refused.status == 401:
        found["www-authenticate"] = "Bearer"
    return found


async def send_error(send: Send, refused: Refused, request_id: str) -> None:
    """Sends a whole response for a request that was refused."""
    body = error_body(refused.text, request_id)
    headers = [(k.encode(), v.encode()) for k, v in error_headers(refused).items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
