"""Wakeups: sent by API and worker alike, not without end, and never in anybody's way."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator

import pytest
import redis
from celery import Celery

import api.broker
import worker.training.celery_app
from jobs.broker.wakeups import MAX_WAKEUPS_IN_QUEUE, Wakeups

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(params=[api.broker.make_app, worker.training.celery_app.make_app], ids=["api", "worker"])
def make_app(request: pytest.FixtureRequest) -> Callable[[str], Celery]:
    made: Callable[[str], Celery] = request.param
    return made


@pytest.fixture
def broker(service_urls: tuple[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(service_urls[1]) as client:
        yield client


def test_a_queue_that_nobody_reads_is_not_filled_without_end(
    make_app: Callable[[str], Celery], service_urls: tuple[str, str], broker: redis.Redis
) -> None:
    queue = f"lit.test.{secrets.token_hex(4)}"
    app = make_app(service_urls[1])
    wakeups = Wakeups(app, service_urls[1])
    try:
        for _ in range(MAX_WAKEUPS_IN_QUEUE + 5):
            wakeups(queue)
        assert broker.llen(queue) == MAX_WAKEUPS_IN_QUEUE
        message = json.loads(broker.lindex(queue, 0) or b"")
        assert message["headers"]["task"] == "lit.work"
        broker.rpop(queue)
        wakeups(queue)
        assert broker.llen(queue) == MAX_WAKEUPS_IN_QUEUE
    finally:
        broker.delete(queue)
        wakeups.close()
        app.close()


def test_a_broker_that_is_away_is_nobodys_problem(
    make_app: Callable[[str], Celery], service_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", pauses.append)
    # Away from the start, and away between the look and the message.
    for sender, counter in ((NOWHERE, NOWHERE), (NOWHERE, service_urls[1])):
        app = make_app(sender)
        wakeups = Wakeups(app, counter)
        wakeups("lit.test")
        wakeups.close()
        app.close()
    with pytest.raises(redis.ConnectionError):
        Wakeups(make_app(NOWHERE), NOWHERE).ping()
    assert pauses == []
