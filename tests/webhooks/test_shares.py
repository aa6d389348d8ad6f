"""Slow receivers, failing receivers and floods of messages leave room for other owners, and end."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, func, insert, literal, select, update

from api.webhooks.schemas import show_delivery
from jobs.database.connection import Database
from jobs.database.models import Webhook, WebhookDelivery
from jobs.errors import TooManyRequests
from jobs.webhooks import deliveries, limits
from jobs.webhooks.claims import FAILING_PER_OWNER, FAILING_PER_WEBHOOK, PER_OWNER, PER_WEBHOOK
from jobs.webhooks.deliverer import AT_A_TIME
from lit_spec.states import DeliveryState
from tests.webhooks.receiver import add_webhook, claim, messages, ping
from tests.worker.bench import OWNER

URL = "https://hooks.example.com/"


def add_messages(database: Database, webhook: Webhook, number: int) -> None:
    place = func.generate_series(1, number).column_valued("place")
    columns = ["id", "webhook_id", "owner", "type", "data", "state", "due_at"]
    values = [
        func.concat(f"{webhook.id}_", place),
        literal(webhook.id),
        literal(webhook.owner),
        literal("job.queued"),
        func.jsonb_build_object(),
        literal("pending"),
        func.clock_timestamp(),
    ]
    with database.session() as session:
        session.execute(insert(WebhookDelivery).from_select(columns, select(*values)))


def test_a_few_owners_with_slow_receivers_leave_room_for_the_next(database: Database) -> None:
    for owner in "abcd":
        for _ in range(PER_OWNER // PER_WEBHOOK):
            add_messages(database, add_webhook(database, URL, owner=owner), PER_WEBHOOK + 1)
    under_way = claim(database, AT_A_TIME)
    by_owner = Counter(each.owner for each in under_way)
    assert set(by_owner) == set("abcd")
    assert max(by_owner.values()) - min(by_owner.values()) <= 1
    assert claim(database, AT_A_TIME - len(under_way), under_way) == []
    other = ping(database, add_webhook(database, URL, owner="other"))
    assert [each.id for each in claim(database, AT_A_TIME - len(under_way), under_way)] == [other]


def test_owners_take_turns_whatever_is_due_the_longest(database: Database) -> None:
    add_messages(database, add_webhook(database, URL, owner="a"), 20)
    add_messages(database, add_webhook(database, URL, owner="b"), 20)
    assert [each.owner for each in claim(database, 6)] == ["a", "b", "a", "b"]


def test_failing_receivers_get_little_room(database: Database) -> None:
    hooks = [add_webhook(database, URL) for _ in range(FAILING_PER_OWNER + 2)]
    for each in hooks:
        add_messages(database, each, PER_WEBHOOK)
    with database.session() as session:
        session.execute(update(Webhook).values(failing_since=datetime.now(UTC)))
    under_way = claim(database, AT_A_TIME)
    assert len(under_way) == FAILING_PER_OWNER
    assert max(Counter(each.webhook_id for each in under_way).values()) == FAILING_PER_WEBHOOK
    assert claim(database, AT_A_TIME, under_way) == []
    well = ping(database, add_webhook(database, URL))
    assert [each.id for each in claim(database, AT_A_TIME, under_way)] == [well]


def test_a_look_takes_the_same_few_statements_whatever_it_claims(database: Database) -> None:
    for owner in "abcd":
        add_messages(database, add_webhook(database, URL, owner=owner), 30)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert len(claim(database, AT_A_TIME)) == 4 * PER_WEBHOOK
    assert len([each for each in statements if each.startswith("SELECT")]) <= 4


def test_of_too_many_that_wait_the_oldest_are_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_WAITING", 3)
    flooded, other = add_webhook(database, URL), add_webhook(database, URL)
    sent = [ping(database, flooded) for _ in range(5)]
    waits = ping(database, other)
    with database.session() as session:
        limits.give_up_backlogs(session)
    found = messages(database, flooded)
    assert [each.id for each in found if each.state == "dead"] == sent[:2]
    assert [each.id for each in found if each.state == "pending"] == sent[2:]
    shown = show_delivery(found[0])
    assert (shown.state, shown.next_attempt_at) == (DeliveryState.DEAD, None)
    assert shown.attempts[-1].error == "given up without an attempt: more than 3 messages waited for this webhook"
    assert abs((shown.attempts[-1].at - datetime.now(UTC)).total_seconds()) < 60
    assert {each.webhook_id for each in claim(database, 20)} == {flooded.id, other.id}
    assert [each.id for each in messages(database, other) if each.state == "pending"] == [waits]


def test_an_owner_can_not_ask_for_any_number_of_messages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TESTS_PER_MINUTE", 2)
    webhook = add_webhook(database, URL)
    sent = [ping(database, webhook) for _ in range(2)]
    with pytest.raises(TooManyRequests, match="2 times within a minute"):
        ping(database, webhook)
    ping(database, add_webhook(database, URL))
    monkeypatch.setattr(limits, "MOST_DUE", 2)
    with pytest.raises(TooManyRequests, match=r"2 messages .* due already"), database.session() as session:
        deliveries.redeliver(session, OWNER, webhook.id, sent[0])
