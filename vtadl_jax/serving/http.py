"""Runs the HTTP interface in a thread of its own, from its port to its end."""

import math
import socket
import threading
import time

import uvicorn

from vtadl_jax.errors import UserError
from vtadl_jax.serving.app import make_app
from vtadl_jax.serving.measured import Measured
from vtadl_jax.serving.state import Service

END_SECONDS = 2  # beyond the time limit of a request


class Server:
    """HTTP server of a service in a thread; the main thread keeps the signals.

    port: 0 takes a free one. Raises UserError if the address can't be taken.
    """

    def __init__(self, service: Service, measured: Measured, host: str, port: int):
        self._socket = _listening(host, port)
        self.address = f"http://{_shown(host)}:{self._socket.getsockname()[1]}"
        self._seconds = service.limits.timeout_s + END_SECONDS
        config = uvicorn.Config(
            make_app(service, measured),
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=math.ceil(self._seconds),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="http", daemon=True
        )

    def start(self) -> None:
        """Starts to answer. Raises UserError if that fails."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise UserError(f"{self.address}: the HTTP server ended: see its lines above")
            time.sleep(0.005)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> bool:
        """Takes no more requests and answers those that it has; returns whether all in time."""
        self._server.should_exit = True
        self._thread.join(self._seconds + END_SECONDS)
        self._socket.close()
        return not self._thread.is_alive()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(512)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host {host} --port {port} can't be taken ({reason}): give another address or port"
        ) from error
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
