"""Deliveries: signed, retried, given up, sent to the address that was checked, and shared between processes."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import update
from standardwebhooks.webhooks import WebhookVerificationError

from jobs.database.connection import Database
from jobs.database.models import Webhook, WebhookDelivery
from jobs.database.notifications import Listener
from jobs.webhooks import claims, deliveries, schedule, sender, webhooks
from jobs.webhooks.addresses import Receivers
from jobs.webhooks.deliverer import Deliverer
from jobs.webhooks.lookups import LookupsBusy
from jobs.webhooks.schedule import HOUR, PAUSES, pause
from tests.webhooks.receiver import (
    LOOPBACK,
    add_webhook,
    claim,
    deliver,
    make_due,
    make_sender,
    messages,
    ping,
    receiving,
    record,
    row,
    send,
    status,
    wait_seconds,
    webhook_row,
)
from tests.worker.bench import OWNER, Bench, wait_for

NAME = "hooks.example.test"


def to_loopback(host: str) -> Sequence[str]:
    assert host == NAME
    return ["127.0.0.1"]


def test_a_message_is_signed_and_says_what_happened(bench: Bench) -> None:
    with receiving() as receiver:
        webhook = add_webhook(bench.database, receiver.url(path="/lit?x=1"), events=["job.queued"])
        job = bench.job()
        [result] = deliver(bench.database, make_sender(public_url="https://lit.example.com/"))
    [message] = receiver.messages
    said = message.verified(webhook.secret)
    [stored] = messages(bench.database, webhook)
    assert said["type"] == "job.queued"
    assert datetime.fromisoformat(said["timestamp"]) == stored.created_at
    assert said["data"] == stored.data | {"url": f"https://lit.example.com/v1/jobs/{job}"}
    assert (message.id, stored.state, stored.due_at) == (stored.id, "delivered", None)
    assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert message.headers["content-type"] == "application/json"
    assert (result.status, result.error) == (204, None)
    with pytest.raises(WebhookVerificationError):
        message.verified(webhooks.new_secret())


def test_what_fails_is_sent_again_with_the_same_id(database: Database) -> None:
    with receiving(status(500, b"oh\0no"), status(429, Retry_After="7200")) as receiver:
        webhook = add_webhook(database, receiver.url())
        message = ping(database, webhook)
        for least, most in ((4.0, 6.0), (7100.0, 7200.0)):
            assert len(deliver(database, make_sender())) == 1
            assert deliver(database, make_sender()) == []
            assert least < wait_seconds(database, message) < most
            assert webhook_row(database, webhook).failing_since is not None
            make_due(database)
        deliver(database, make_sender())
    assert [each.id for each in receiver.messages] == [message] * 3
    assert len({each.body for each in receiver.messages}) == 1
    assert all(each.verified(webhook.secret)["type"] == "ping" for each in receiver.messages)
    found = row(database, message)
    assert (found.state, found.failures) == ("delivered", 2)
    assert [each["status"] for each in found.attempts] == [500, 429, 204]
    assert [each["answer"] for each in found.attempts] == ["oh�no", "", ""]
    assert found.attempts[0]["error"] == "the receiver answered 500"
    assert webhook_row(database, webhook).failing_since is None


def test_after_the_last_attempt_a_message_is_dead_and_can_be_sent_again(database: Database) -> None:
    with receiving(*[status(500)] * (len(PAUSES) + 1)) as receiver:
        webhook = add_webhook(database, receiver.url())
        message = ping(database, webhook)
        for _ in PAUSES:
            make_due(database)
            deliver(database, make_sender())
            assert row(database, message).state == "pending"
        make_due(database)
        deliver(database, make_sender())
        dead = row(database, message)
        assert (dead.state, dead.due_at, len(dead.attempts)) == ("dead", None, len(PAUSES) + 1)
        with database.session() as session:
            deliveries.redeliver(session, OWNER, webhook.id, message)
        deliver(database, make_sender())
    again = row(database, message)
    assert (again.state, again.failures, len(again.attempts)) == ("delivered", 0, len(PAUSES) + 2)
    assert {each.id for each in receiver.messages} == {message}
    assert webhook_row(database, webhook).enabled


def test_pauses() -> None:
    assert 24 * HOUR < sum(PAUSES) < 36 * HOUR
    for number, seconds in enumerate(PAUSES, 1):
        found = [pause(number) or 0 for _ in range(20)]
        assert 0.9 * seconds <= min(found) < max(found) <= 1.1 * seconds
    assert pause(len(PAUSES) + 1, "60") is None
    assert pause(1, "120") == 120
    assert pause(1, "999999999999") == schedule.LONGEST_RETRY_AFTER
    at = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3590 < (pause(1, at) or 0) <= 3600
    for unreadable in ("", "soon", "-5", "1e3", "Mon, 99 Jan 2020", format_datetime(datetime(2020, 1, 1))):
        assert (pause(1, unreadable) or 0) < 6


def test_redirects_are_not_followed(database: Database) -> None:
    with receiving() as elsewhere, receiving(status(307, Location=elsewhere.url())) as receiver:
        message = ping(database, add_webhook(database, receiver.url()))
        [result] = deliver(database, make_sender())
    assert "redirect, which is not followed" in (result.error or "")
    assert (row(database, message).state, elsewhere.messages) == ("pending", [])


def test_gone_disables_the_webhook_and_keeps_what_waits(database: Database) -> None:
    with receiving(status(410)) as receiver:
        webhook = add_webhook(database, receiver.url())
        first, second = ping(database, webhook), ping(database, webhook)
        [claimed] = claim(database, 1)
        result = send(make_sender(), claimed)
        assert record(database, claimed, result) == "the receiver answered 410 Gone"
        found = webhook_row(database, webhook)
        assert (found.enabled, found.disabled_reason) == (False, "the receiver answered 410 Gone")
        assert row(database, first).state == "dead"
        assert (row(database, second).state, row(database, second).due_at) == ("pending", None)
        assert deliver(database, make_sender()) == []
        with database.session() as session:
            webhooks.change(session, OWNER, webhook.id, {"enabled": True})
        deliver(database, make_sender())
    assert [each.id for each in receiver.messages] == [first, second]
    assert webhook_row(database, webhook).disabled_reason is None


def test_a_webhook_that_fails_for_days_is_disabled(database: Database) -> None:
    with receiving(*[status(503)] * 3) as receiver:
        webhook = add_webhook(database, receiver.url())
        for days, enabled in ((deliveries.FAILING_DAYS - 1, True), (deliveries.FAILING_DAYS, False)):
            message = ping(database, webhook)
            since = datetime.now(UTC) - timedelta(days=days, minutes=1)
            with database.session() as session:
                session.execute(update(Webhook).values(failing_since=since))
                last = update(WebhookDelivery).where(WebhookDelivery.id == message)
                session.execute(last.values(failures=len(PAUSES)))
            deliver(database, make_sender())
            assert row(database, message).state == "dead"
            assert webhook_row(database, webhook).enabled is enabled
    assert "for 5 days; the newest error: the receiver answered 503" in (
        webhook_row(database, webhook).disabled_reason or ""
    )


def test_what_is_under_way_when_its_process_dies_is_sent_again(database: Database) -> None:
    with receiving() as receiver:
        message = ping(database, add_webhook(database, receiver.url()))
        [lost] = claim(database)
        result = send(make_sender(), lost)  # and then the process dies
        assert claim(database) == []
        assert 50 < wait_seconds(database, message) <= claims.LEASE_SECONDS
        make_due(database)
        [again] = claim(database)
        record(database, lost, result)  # or it only stood still
        assert row(database, message).state == "pending"
        record(database, again, send(make_sender(), again))
    assert [each.id for each in receiver.messages] == [message, message]
    found = row(database, message)
    assert (found.state, [each["number"] for each in found.attempts]) == ("delivered", [2])


def test_both_secrets_sign_for_a_day(database: Database) -> None:
    with receiving() as receiver:
        webhook = add_webhook(database, receiver.url())
        with database.session() as session:
            rotated = webhooks.rotate_secret(session, OWNER, webhook.id)
        ping(database, webhook)
        deliver(database, make_sender())
        with database.session() as session:
            session.execute(update(Webhook).values(previous_secret_until=datetime.now(UTC)))
        ping(database, webhook)
        deliver(database, make_sender())
    both, new = receiver.messages
    assert both.verified(webhook.secret) == both.verified(rotated.secret)
    assert new.verified(rotated.secret)
    with pytest.raises(WebhookVerificationError):
        new.verified(webhook.secret)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """An answer without an end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 100)


def test_an_endless_answer_is_not_read(database: Database) -> None:
    with receiving(drip) as receiver:
        message = ping(database, add_webhook(database, receiver.url()))
        deliver(database, make_sender())
    assert row(database, message).state == "delivered"
    assert row(database, message).attempts[0]["answer"] == "x" * sender.ANSWER_BYTES


def test_a_receiver_that_does_not_answer_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.2)
    over = threading.Event()
    with receiving(lambda _: over.wait(20) and None) as receiver:
        message = ping(database, add_webhook(database, receiver.url()))
        [result] = deliver(database, make_sender())
        over.set()
    assert (result.status, result.error) == (None, "no answer within 0 s")
    assert row(database, message).failures == 1


def test_a_name_that_resolves_otherwise_later_is_refused(database: Database) -> None:
    """DNS rebinding: public when the webhook was made, of this machine's metadata when it is used."""
    with receiving() as receiver:
        message = ping(database, add_webhook(database, receiver.url(NAME)))
        deliver(database, make_sender(lambda _: ["169.254.169.254"]))
        assert row(database, message).attempts[0]["error"] == (
            f"an address of {NAME} is not public: give a public receiver, or let the operator add its network to "
            "LIT_WEBHOOK_ALLOWED_NETWORKS"
        )
        make_due(database)
        looked_up = []

        def once(host: str) -> Sequence[str]:
            looked_up.append(host)
            return ["127.0.0.1"] if len(looked_up) == 1 else ["127.0.0.2"]

        deliver(database, make_sender(once))
    assert (row(database, message).state, looked_up) == ("delivered", [NAME])
    assert receiver.messages[0].headers["host"] == f"{NAME}:{receiver.port}"


def test_the_next_address_is_tried_if_one_does_not_listen(database: Database) -> None:
    with receiving() as receiver:
        message = ping(database, add_webhook(database, receiver.url(NAME)))
        deliver(database, make_sender(lambda _: ["127.0.0.9", "127.0.0.1"]))
    assert (row(database, message).state, len(receiver.messages)) == ("delivered", 1)


def test_nobody_listens(database: Database) -> None:
    with receiving() as receiver:
        pass
    message = ping(database, add_webhook(database, receiver.url()))
    [result] = deliver(database, make_sender())
    assert (result.error or "").startswith("ConnectError: ")
    assert row(database, message).state == "pending"


def test_proxies_of_the_environment_are_not_used(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with receiving() as receiver:
        message = ping(database, add_webhook(database, receiver.url()))
        deliver(database, make_sender())
    assert row(database, message).state == "delivered"


def certificate(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file = folder / f"{name}.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(("name", "state"), [(NAME, "delivered"), ("other.example.test", "pending")])
def test_tls_asks_for_the_name_and_not_for_the_address(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    file = certificate(tmp_path, name)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    asked: list[str | None] = []
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(file)
    tls.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)
    with receiving(tls=tls) as receiver:
        message = ping(database, add_webhook(database, receiver.url(NAME)))
        deliver(database, make_sender(to_loopback))
    assert asked == [NAME]
    assert row(database, message).state == state
    assert len(receiver.messages) == (state == "delivered")


async def run_until(deliverers: Sequence[tuple[Listener, Deliverer]], done: threading.Event) -> None:
    for listener, deliverer in deliverers:
        await listener.start()
        await deliverer.start()
    assert await asyncio.to_thread(done.wait, 20)
    for listener, deliverer in deliverers:
        await deliverer.stop()
        await listener.stop()


def make_deliverer(database: Database) -> tuple[Listener, Deliverer]:
    listener = Listener(database.engine.url.render_as_string(hide_password=False))
    return listener, Deliverer(database, listener, make_sender())


def test_two_processes_share_the_work(database: Database) -> None:
    with receiving() as receiver:
        webhook = add_webhook(database, receiver.url())
        expected = sorted(ping(database, webhook) for _ in range(12))
        done = threading.Event()

        def watch() -> None:
            wait_for(lambda: all(each.state == "delivered" for each in messages(database, webhook)), 20)
            done.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        asyncio.run(run_until([make_deliverer(database) for _ in range(2)], done))
        watcher.join(20)
    assert sorted(each.id for each in receiver.messages) == expected


def test_a_slow_receiver_does_not_hold_up_others(database: Database) -> None:
    """It gets no more than its share of one process, and the others are served meanwhile."""
    served, over = threading.Event(), threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        served.wait(20)
        status(204)(handler)

    def serve(handler: BaseHTTPRequestHandler) -> None:
        status(204)(handler)
        hanging.append(len(slow.messages))
        served.set()

    hanging: list[int] = []
    number = claims.PER_WEBHOOK + 3
    with receiving(*[hang] * number) as slow, receiving(serve) as quick:
        first = add_webhook(database, slow.url())
        for _ in range(number):
            ping(database, first)

        def watch() -> None:
            wait_for(lambda: len(slow.messages) == claims.PER_WEBHOOK)
            ping(database, add_webhook(database, quick.url()))
            assert served.wait(20)
            wait_for(lambda: all(each.state == "delivered" for each in messages(database, first)), 20)
            over.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        asyncio.run(run_until([make_deliverer(database)], over))
        watcher.join(20)
    assert hanging == [claims.PER_WEBHOOK]
    assert len(slow.messages) == number


def test_no_owner_takes_all_the_room(database: Database) -> None:
    urls = [f"http://127.0.0.1:9999/{number}" for number in range(6)]
    for url in urls:
        webhook = add_webhook(database, url)
        for _ in range(claims.PER_WEBHOOK + 1):
            ping(database, webhook)
    other = ping(database, add_webhook(database, urls[0], owner="key_other"))
    claimed = claim(database, 100)
    assert [each.id for each in claimed if each.owner == "key_other"] == [other]
    assert len(claimed) == claims.PER_OWNER + 1
    assert claim(database, 100, claimed) == []
    assert len(claim(database, 100)) > 0


class BrokenSender(sender.Sender):
    async def send(self, claim: claims.DeliveryClaim) -> deliveries.AttemptResult:
        raise RuntimeError("a mistake in this program")


def test_a_mistake_of_the_service_itself_is_not_repeated_for_ever(database: Database) -> None:
    message = ping(database, add_webhook(database, "https://hooks.example.com/"))
    listener = Listener(database.engine.url.render_as_string(hide_password=False))
    over = threading.Event()

    def watch() -> None:
        wait_for(lambda: row(database, message).failures == 1)
        over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    broken = BrokenSender(Receivers(LOOPBACK), None)
    asyncio.run(run_until([(listener, Deliverer(database, listener, broken))], over))
    watcher.join(20)
    assert "the service failed to send it" in row(database, message).attempts[0]["error"]


class BusySender(sender.Sender):
    """Finds no free thread, the first time."""

    asked = 0

    async def send(self, claim: claims.DeliveryClaim) -> deliveries.AttemptResult:
        self.asked += 1
        if self.asked == 1:
            raise LookupsBusy
        return await super().send(claim)


def test_what_could_not_be_looked_up_stays_due_without_a_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PUT_OFF_SECONDS", 0.1)
    listener = Listener(database.engine.url.render_as_string(hide_password=False))
    over = threading.Event()
    with receiving() as receiver:
        webhook = add_webhook(database, receiver.url())
        message = ping(database, webhook)

        def watch() -> None:
            wait_for(lambda: row(database, message).state == "delivered")
            over.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        busy = BusySender(Receivers(LOOPBACK), None)
        asyncio.run(run_until([(listener, Deliverer(database, listener, busy))], over))
        watcher.join(20)
    found = row(database, message)
    assert (found.failures, len(found.attempts), busy.asked) == (0, 1, 2)
    assert webhook_row(database, webhook).failing_since is None
