"""Serves /metrics of one worker process, on a port of its own. Off unless the port is set."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry, Gauge

from jobs.exposition import DiskCollector, exposition, is_token
from jobs.settings import Settings
from worker.host.startup import refuse_to_start

READ_SECONDS = 10.0
"""How long a request may take to arrive."""

log = structlog.get_logger()


def ready_gauge(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "lit_worker_ready",
        "1 if the worker takes work, else 0: it starts, or has found a fault of its own and pauses.",
        registry=registry,
    )


@contextmanager
def serve_metrics(settings: Settings, registry: CollectorRegistry) -> Iterator[str | None]:
    """Serve the registry while `with` lasts; the address, or None if no port is set.

    Ends the process with a sentence if the port can't be opened, or would be open to others without a token.
    """
    port, host = settings.worker_metrics_port, settings.worker_metrics_host
    if port is None:
        yield None
        return
    if settings.metrics_token is None and not _is_loopback(host):
        refuse_to_start(
            f"LIT_WORKER_METRICS_HOST is {host}, which other machines can reach: set LIT_METRICS_TOKEN, or listen on "
            "127.0.0.1"
        )
    try:
        server = _Server((host, port), _handler(registry, settings.metrics_token))
    except OSError as failure:
        refuse_to_start(
            f"the metrics can't be served on {host} port {port} ({failure.strerror}): choose another "
            "LIT_WORKER_METRICS_PORT, or unset it"
        )
    registry.register(DiskCollector({"work": settings.data_dir}))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics are served", host=host, port=port)
    try:
        yield f"http://{host}:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A connection that broke is no failure of the worker."""
        log.debug("a request for metrics failed", client=str(client_address), exc_info=True)


def _handler(registry: CollectorRegistry, token: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = READ_SECONDS

        def do_GET(self) -> None:
            if token is not None and not is_token(self.headers.get("Authorization"), token):
                self._refuse(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"})
            elif token is None and not _names_loopback(self.headers.get_all("Host", [])):
                # A page whose name resolves to this machine reaches it through a browser.
                self._refuse(HTTPStatus.FORBIDDEN, {})
            elif self.path.partition("?")[0] != "/metrics":
                self._refuse(HTTPStatus.NOT_FOUND, {})
            else:
                content, media_type = exposition(registry, self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, {"Content-Type": media_type}, content)

        def _refuse(self, status: HTTPStatus, headers: dict[str, str]) -> None:
            self._answer(status, {"Content-Type": "text/plain", **headers}, f"{status.phrase}\n".encode())

        def _answer(self, status: HTTPStatus, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are not logged."""

    return Handler


def _names_loopback(hosts: list[str]) -> bool:
    """Whether the Host headers of a request are one, and it names this machine. HTTP/1.0 has none."""
    try:
        names = [urlsplit(f"//{host}").hostname or "" for host in hosts]
    except ValueError:
        return False
    return len(names) <= 1 and all(map(_is_loopback, names))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
