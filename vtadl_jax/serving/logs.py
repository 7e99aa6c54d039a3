"""Writes the log of a service: one JSON object a line, without images, their names or keys."""

import contextlib
import datetime
import json
import sys
import threading
from typing import Any, TextIO

_lock = threading.Lock()


def log(event: str, stream: TextIO | None = None, **fields: Any) -> None:
    """Writes a line with the time, the event and its fields to stdout, whole."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "event": event, **fields}, ensure_ascii=True, default=str)
    stream = stream or sys.stdout
    with _lock, contextlib.suppress(OSError, ValueError):  # whoever read the log has closed it
        stream.write(line + "\n")
        stream.flush()
