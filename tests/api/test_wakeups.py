"""Wake-ups that the API asks for: all of them come, and nobody waits for the broker."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest
import redis

from api import broker
from api.http import wakeups
from api.http.wakeups import BackgroundWakeups
from jobs.broker.wakeups import MAX_WAKEUPS_IN_QUEUE, Wakeups
from tests.worker.bench import wait_for


@pytest.fixture
def queue(service_urls: tuple[str, str]) -> Iterator[str]:
    name = f"lit.test.{secrets.token_hex(4)}"
    yield name
    with redis.Redis.from_url(service_urls[1]) as client:
        client.delete(name)


def test_a_full_queue_gets_its_wake_ups_once_it_is_read(
    service_urls: tuple[str, str], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "PAUSE_SECONDS", 0.05)
    app = broker.make_app(service_urls[1])
    sender = Wakeups(app, service_urls[1])
    background = BackgroundWakeups(sender)
    background.start()
    with redis.Redis.from_url(service_urls[1]) as client:
        for _ in range(3):
            background.send([queue])
        wait_for(lambda: client.llen(queue) == 3, 20)
        background.send([queue] * (MAX_WAKEUPS_IN_QUEUE + 5))
        wait_for(lambda: client.llen(queue) == MAX_WAKEUPS_IN_QUEUE, 20)
        client.delete(queue)
        background.send([queue, queue])
        wait_for(lambda: client.llen(queue) == 2, 20)
        background.send([queue])
        background.stop()
        assert client.llen(queue) == 3
    sender.close()
    app.close()


def test_nobody_waits_for_a_broker_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    stands_still, goes_on = threading.Event(), threading.Event()
    sent: list[tuple[str, int]] = []

    class Slow(Wakeups):
        def __init__(self) -> None:
            """Without a broker."""

        def send(self, queue: str, count: int) -> bool:
            stands_still.set()
            assert goes_on.wait(20)
            sent.append((queue, count))
            return True

    background = BackgroundWakeups(Slow())
    background.start()
    background.send(["a"])
    assert stands_still.wait(20)
    background.send(["a", "b"])
    background.send(["b"])
    assert sent == []
    goes_on.set()
    background.stop()
    # What came meanwhile is sent together.
    assert sent == [("a", 1), ("a", 1), ("b", 2)]
