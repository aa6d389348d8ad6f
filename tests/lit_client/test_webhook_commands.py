"""`litc webhooks` against the service and a real receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lit_client import Client
from lit_client.command.completion import complete_webhook
from tests.lit_client.command import Finished, litc
from tests.webhooks.receiver import Receiver, receiving, status
from tests.worker.bench import Bench, wait_for


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def answer(done: Finished) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def row(table: str, id: str) -> list[str]:
    """The cells of the line that begins with an id."""
    [line] = [line for line in table.splitlines() if id in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_from_a_webhook_to_what_came_of_its_messages(
    url: str, client: Client, bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.script.append(status(500, b"not now"))
    made = litc(url, "webhooks", "create", receiver.url(), "--event", "job.queued", "--tag", "a", "--name", "mine")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    [webhook] = client.webhooks()
    assert (webhook.name, webhook.events, webhook.tags, webhook.enabled) == ("mine", ["job.queued"], ["a"], True)
    assert webhook.id in made.stderr
    monkeypatch.setenv("LIT_URL", url)
    assert complete_webhook("webhook_") == [(webhook.id, receiver.url())]

    bench.job(tags=["b"])
    job = bench.job(tags=["a"])
    wait_for(lambda: any(one.attempts for one in client.deliveries(webhook.id)))
    [delivery] = client.deliveries(webhook.id, state="pending")
    told = row(litc(url, "webhooks", "deliveries", webhook.id).stdout, delivery.id)
    assert told[:5] == [delivery.id, "job.queued", "pending", "1", "the receiver answered 500"]
    assert all(told[5:])
    [listed] = answer(litc(url, "webhooks", "deliveries", webhook.id, "--state", "pending", "--json"))
    assert (listed["id"], listed["data"]["id"]) == (delivery.id, job)
    assert answer(litc(url, "webhooks", "deliveries", webhook.id, "--state", "dead", "--json")) == []
    assert "not now" in litc(url, "webhooks", "delivery", webhook.id, delivery.id).stdout

    again = litc(url, "webhooks", "redeliver", webhook.id, delivery.id)
    assert (again.returncode, "is pending" in again.stdout) == (0, True), again.stderr
    wait_for(lambda: client.delivery(webhook.id, delivery.id).state == "delivered")
    assert receiver.messages[-1].verified(secret)["data"]["id"] == job
    ping = answer(litc(url, "webhooks", "test", webhook.id, "--json"))
    assert ping["type"] == "ping"
    wait_for(lambda: client.delivery(webhook.id, ping["id"]).state == "delivered")

    rotated = litc(url, "webhooks", "rotate-secret", webhook.id)
    assert rotated.stdout.startswith("whsec_")
    assert rotated.stdout.strip() != secret
    assert "two secrets until" in litc(url, "webhooks", "show", webhook.id).stdout


def test_webhooks_are_changed_and_removed(url: str, receiver: Receiver) -> None:
    words = ("create", receiver.url(), "--event", "job.failed", "--tag", "a", "--disabled", "--json")
    made = answer(litc(url, "webhooks", *words))
    assert (made["enabled"], made["secret"][:6]) == (False, "whsec_")
    id = made["id"]
    shown = litc(url, "webhooks", "list").stdout
    assert row(shown, id) == [id, "", receiver.url(), "job.failed", "a", "no"]
    refused = litc(url, "webhooks", "test", id)
    assert (refused.returncode, "is disabled: enable it first" in refused.stderr) == (2, True)

    changed = answer(litc(url, "webhooks", "update", id, "--enable", "--all-events", "--no-tags", "--json"))
    assert (changed["enabled"], changed["events"], changed["tags"]) == (True, None, [])
    assert row(litc(url, "webhooks", "list").stdout, id) == [id, "", receiver.url(), "all", "all", "yes"]
    assert litc(url, "webhooks", "update", id).returncode == 2
    assert litc(url, "webhooks", "update", id, "--tag", "a", "--no-tags").returncode == 2

    deleted = litc(url, "webhooks", "delete", id, "webhook_x")
    assert (deleted.returncode, deleted.stdout) == (2, f"{id} deleted\n")
    assert litc(url, "webhooks", "show", id).returncode == 2
