"""Reads the images of a request, in memory and within its limit: raw bytes, or a form of files."""

import asyncio
import logging
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vtadl_jax.serving.limits import MAX_FILES, Limits, Refused

# Its warnings repeat what the client is told.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


async def images_of(request: Request, limits: Limits, name: str) -> list[tuple[str, bytes]]:
    """Returns name and bytes of each image. A raw body has the given name.

    Raises Refused: 400 for a form without files or one that is damaged, 408 if the body does not
    arrive in time, 413 for too many bytes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(limits.timeout_s):
            if kind == "multipart/form-data":
                return await _form(request, limits)
            return [(name, b"".join([chunk async for chunk in _within(request, limits)]))]
    except TimeoutError as error:
        raise Refused(
            408, f"the request did not arrive within {limits.timeout_s:g} seconds: send it again"
        ) from error


async def _within(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yields the chunks of the body up to its limit, which its header may tell beforehand."""
    told = request.headers.get("content-length", "")
    size = int(told) if told.isascii() and told.isdigit() else 0
    if size <= limits.max_bytes:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limits.max_bytes:
                break
            yield chunk
    if size > limits.max_bytes:
        raise Refused(413, f"the request has more than the {limits.max_bytes} bytes of --max_bytes")


class _InMemory(MultiPartParser):
    """Keeps files in memory: images are never written to a disk."""

    def __init__(self, request: Request, limits: Limits):
        self.spool_max_size = limits.max_bytes + 1
        stream = _within(request, limits)
        super().__init__(request.headers, stream, max_files=MAX_FILES, max_fields=16)


async def _form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    try:
        form = await _InMemory(request, limits).parse()
    except Refused:
        raise
    except (MultiPartException, LookupError, ValueError) as error:
        reason = getattr(error, "message", "") or "it is damaged"
        raise Refused(400, f"the form can't be read ({reason}): send multipart files") from error
    found = []
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            found.append((value.filename or "image", await value.read()))
    await form.close()
    if not found:
        raise Refused(400, "the form has no file: send one or more, as curl -F file=@part.png does")
    return found
