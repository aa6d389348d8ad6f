"""A real receiver of webhooks on this machine, whose answers are scripted, and one delivering process, step by step."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import func, select, update
from standardwebhooks import Webhook as Verifier

from jobs.database.connection import Database
from jobs.database.models import Webhook, WebhookDelivery
from jobs.webhooks import claims, deliveries, webhooks
from jobs.webhooks.addresses import Receivers
from jobs.webhooks.claims import DeliveryClaim
from jobs.webhooks.deliveries import AttemptResult
from jobs.webhooks.lookups import Resolve, resolve
from jobs.webhooks.networks import AllowedNetworks
from jobs.webhooks.sender import Sender
from tests.worker.bench import OWNER

LOOPBACK = AllowedNetworks.parse("127.0.0.0/8")


@dataclass
class Message:
    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> dict[str, Any]:
        """The message, as a receiver reads it. Raises WebhookVerificationError."""
        read: dict[str, Any] = Verifier(secret).verify(self.body, self.headers)
        return read

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass
class Receiver:
    """Keeps what it was sent. Answers in the order of `script`, then 204."""

    script: list[Answer] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    def url(self, host: str = "127.0.0.1", path: str = "/lit") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@contextmanager
def receiving(*script: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(list(script))
    turns = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with turns:
                receiver.messages.append(Message({k.lower(): v for k, v in self.headers.items()}, body))
                answer = receiver.script.pop(0) if receiver.script else status(204)
            with suppress(OSError):  # the sender may have hung up
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver.scheme = "https"
        server.handle_error = lambda *_: None  # type: ignore[method-assign] - refused handshakes
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)
        assert not thread.is_alive()


def make_sender(resolver: Resolve = resolve, public_url: str | None = None) -> Sender:
    return Sender(Receivers(LOOPBACK, resolver), public_url)


def add_webhook(
    database: Database,
    url: str,
    *,
    owner: str = OWNER,
    events: Sequence[str] | None = None,
    tags: Sequence[str] = (),
    enabled: bool = True,
) -> Webhook:
    with database.session() as session:
        return webhooks.create(session, owner, url=url, name=None, events=events, tags=tags, enabled=enabled)


def ping(database: Database, webhook: Webhook) -> str:
    with database.session() as session:
        return deliveries.send_test(session, webhook.owner, webhook.id).id


def claim(database: Database, most: int = 10, under_way: Sequence[DeliveryClaim] = ()) -> list[DeliveryClaim]:
    with database.session() as session:
        return claims.claim(session, most, under_way)


def send(sender: Sender, claimed: DeliveryClaim) -> AttemptResult:
    return asyncio.run(sender.send(claimed))


def record(database: Database, claimed: DeliveryClaim, result: AttemptResult) -> str | None:
    with database.session() as session:
        return deliveries.record(session, claimed, result)


def deliver(database: Database, sender: Sender) -> list[AttemptResult]:
    """What a delivering process does once: everything that is due, one after another."""
    results = []
    for claimed in claim(database):
        results.append(send(sender, claimed))
        record(database, claimed, results[-1])
    return results


def row(database: Database, delivery_id: str) -> WebhookDelivery:
    with database.session() as session:
        return session.scalars(select(WebhookDelivery).where(WebhookDelivery.id == delivery_id)).one()


def webhook_row(database: Database, webhook: Webhook) -> Webhook:
    with database.session() as session:
        return session.scalars(select(Webhook).where(Webhook.id == webhook.id)).one()


def wait_seconds(database: Database, delivery_id: str) -> float:
    """Until the next attempt is due."""
    left = select(WebhookDelivery.due_at - func.clock_timestamp()).where(WebhookDelivery.id == delivery_id)
    with database.session() as session:
        found: timedelta = session.scalars(left).one()  # type: ignore[assignment]
        return found.total_seconds()


def make_due(database: Database) -> None:
    """As if the time until the next attempts had passed, and the leases of those under way."""
    with database.session() as session:
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.due_at.is_not(None))
            .values(due_at=func.clock_timestamp() - timedelta(seconds=1))
        )


def messages(database: Database, webhook: Webhook) -> list[WebhookDelivery]:
    """All that was recorded for a webhook, in order."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    with database.session() as session:
        return list(session.scalars(query.order_by(WebhookDelivery.created_at)))
