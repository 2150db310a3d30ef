"""The server process: its socket, its signals, its end. Knows uvicorn, no application."""

from __future__ import annotations

import signal
import socket
from typing import Any


def open_socket(host: str, port: int) -> socket.socket:
    """Bind a socket, so that a port that is taken is known before a model is loaded.

    Raises:
        OSError: If the address is not one of this machine, or the port is taken or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise OSError(
            f"Cannot serve on port {port} of {host!r}: {error.strerror or error}. Choose another --port (0 takes any "
            "that is free) or --host."
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: Any, bound: socket.socket, *, patience: int | None = None) -> None:
    """Serve an ASGI application until SIGTERM or Ctrl-C; what was accepted is answered first, a second one ends that.

    Args:
        app: The application.
        bound: What `open_socket` returned.
        patience: Seconds that it waits for what is not answered; by default, as long as it takes.

    Raises:
        ImportError: If uvicorn is not installed.
    """
    import uvicorn

    quiet: dict[str, Any] = {"access_log": False, "log_config": None, "log_level": "warning", "server_header": False}
    config = uvicorn.Config(app, ws="none", timeout_graceful_shutdown=patience, **quiet)
    # uvicorn raises the signal again when it has stopped, which would end this process as if it had been killed
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
