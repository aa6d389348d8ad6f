"""Serves the API on a socket."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.http.context import Context
from service.errors import BadAddress

SECONDS_TO_STOP = 10
"""How long running requests may take to finish. An upload that is cut off can be continued from its offset."""
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises BadAddress."""
    return _bound(host, port, shared=False, listens=True)


def reserve(host: str, port: int) -> socket.socket:
    """A socket that holds a port for processes that each `listen_shared` on it; port 0 takes a free one.

    It takes no connections itself. Raises BadAddress, also if another service listens there.
    """
    with listen(host, port) as alone:
        port = alone.getsockname()[1]
    return _bound(host, port, shared=True, listens=False)


def listen_shared(host: str, port: int) -> socket.socket:
    """A listening socket beside those of other processes of this user: the kernel spreads the connections over them.

    Raises BadAddress.
    """
    return _bound(host, port, shared=True, listens=True)


def _bound(host: str, port: int, *, shared: bool, listens: bool) -> socket.socket:
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        if listens:
            listening.listen(BACKLOG)
    except (OSError, UnicodeError) as failure:  # a name that can't be encoded is a UnicodeError
        reason = getattr(failure, "strerror", None) or failure
        raise BadAddress(
            f"can't listen on {host} port {port} ({reason}): choose another with --host or --port"
        ) from failure
    listening.set_inheritable(False)
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, except that it answers all long polls as soon as it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        application = self.config.app
        context: Context | None = getattr(getattr(application, "state", None), "context", None)
        if context is not None:
            context.long_polls.stop()


def run(app: FastAPI, listening: socket.socket, trusted_proxies: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT. `trusted_proxies` is as in the settings."""
    Server(configuration(app, trusted_proxies)).run(sockets=[listening])


def configuration(app: FastAPI, trusted_proxies: str | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SECONDS_TO_STOP,
        server_header=False,
        ws="none",
        # uvicorn itself would believe whoever calls from this machine.
        proxy_headers=trusted_proxies is not None,
        forwarded_allow_ips=trusted_proxies or "",
    )
