"""/v1/webhooks, from the request to the message at a real receiver."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.app import create_app
from jobs.database.models import Webhook
from jobs.errors import Conflict
from jobs.ledger import keys
from jobs.webhooks import limits, lookups, webhooks
from jobs.webhooks.addresses import Receivers
from jobs.webhooks.networks import AllowedNetworks
from lit_spec.answers.webhooks import Webhook as WebhookModel
from lit_spec.answers.webhooks import WebhookDelivery, WebhookWithSecret
from lit_spec.requests.webhook import WebhookChange, WebhookRequest
from lit_spec.scopes import Scope
from tests.api.test_access import make_key
from tests.webhooks.receiver import Receiver, add_webhook, receiving, status
from tests.worker.bench import OWNER, Bench, wait_for

PATH = "/v1/webhooks"


@pytest.fixture
def api(bench: Bench) -> Iterator[TestClient]:
    settings = bench.settings.model_copy(
        update={"webhook_allowed_networks": "127.0.0.0/8", "public_url": "https://lit.example.com"}
    )
    with TestClient(create_app(settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def create(api: TestClient, receiver: Receiver, **fields: Any) -> dict[str, Any]:
    answer = api.post(PATH, json={"url": receiver.url(), **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{PATH}/{made['id']}" == made["links"]["self"]
    return made


def deliveries(api: TestClient, webhook: dict[str, Any], **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get(webhook["links"]["deliveries"], params=filters).json()["items"]
    return items


def test_from_a_webhook_to_its_messages(api: TestClient, bench: Bench, receiver: Receiver) -> None:
    receiver.script.append(status(500, b"not now"))
    webhook = create(api, receiver, name="ci", events=["job.queued"], tags=["a"])
    secret = webhook.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert api.get(webhook["links"]["self"]).json() == webhook
    assert api.get(PATH).json()["items"] == [webhook]
    assert (webhook["enabled"], webhook["disabled"], webhook["events"]) == (True, None, ["job.queued"])

    job = bench.job(tags=["a"])
    wait_for(lambda: deliveries(api, webhook) and deliveries(api, webhook)[0]["attempts"])
    [pending] = deliveries(api, webhook, state="pending")
    assert pending["attempts"][0] | {"at": 0, "seconds": 0} == {
        "number": 1,
        "at": 0,
        "seconds": 0,
        "status": 500,
        "error": "the receiver answered 500",
        "answer": "not now",
    }
    assert (pending["type"], pending["data"]["id"], pending["failures"]) == ("job.queued", job, 1)
    assert datetime.fromisoformat(pending["next_attempt_at"]) > datetime.now(UTC)
    path = f"{webhook['links']['deliveries']}/{pending['id']}"
    assert api.get(path).json() == pending
    again = api.post(f"{path}/redeliver")
    assert (again.status_code, again.json()["id"]) == (202, pending["id"])
    wait_for(lambda: deliveries(api, webhook, state="delivered"))

    tested = api.post(f"{PATH}/{webhook['id']}/test")
    assert (tested.status_code, tested.json()["type"], tested.json()["state"]) == (202, "ping", "pending")
    wait_for(lambda: len(receiver.messages) == 3)
    assert [each.id for each in receiver.messages] == [pending["id"], pending["id"], tested.json()["id"]]
    assert receiver.messages[1].verified(secret)["data"]["url"] == f"https://lit.example.com/v1/jobs/{job}"
    assert receiver.messages[2].verified(secret)["data"] == {"webhook_id": webhook["id"]}

    first = api.get(webhook["links"]["deliveries"], params={"limit": 1}).json()
    assert first["items"][0]["id"] == tested.json()["id"]
    rest = api.get(webhook["links"]["deliveries"], params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [each["id"] for each in rest["items"]] == [pending["id"]]

    rotated = api.post(f"{PATH}/{webhook['id']}/rotate-secret").json()
    assert rotated["secret"] not in (secret, "")
    assert datetime.fromisoformat(rotated["previous_secret_until"]) > datetime.now(UTC) + timedelta(hours=23)
    assert "secret" not in api.get(webhook["links"]["self"]).json()

    assert api.delete(webhook["links"]["self"]).status_code == 204
    for gone in (webhook["links"]["self"], webhook["links"]["deliveries"], path):
        assert api.get(gone).status_code == 404


def test_a_webhook_is_changed_field_by_field(api: TestClient, receiver: Receiver) -> None:
    webhook = create(api, receiver, name="ci", events=["job.failed", "job.failed"], tags=["a", "a"])
    own = webhook["links"]["self"]
    assert (webhook["events"], webhook["tags"]) == (["job.failed"], ["a"])
    changed = api.patch(own, json={"enabled": False}).json()
    assert (changed["enabled"], changed["disabled"], changed["name"]) == (False, None, "ci")
    refused = api.post(f"{own}/test")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/webhook-disabled")
    changed = api.patch(own, json={"name": None, "events": None, "tags": None, "url": receiver.url(path="/x")}).json()
    assert (changed["name"], changed["events"], changed["tags"]) == (None, None, [])
    assert changed["url"] == receiver.url(path="/x")
    assert api.patch(own, json={}).json() == changed
    assert api.patch(own, json={"enabled": None, "url": None}).json() == changed


def test_why_the_service_disabled_a_webhook(api: TestClient, bench: Bench, receiver: Receiver) -> None:
    receiver.script.append(status(410))
    webhook = create(api, receiver)
    own = webhook["links"]["self"]
    api.post(f"{own}/test")
    wait_for(lambda: not api.get(own).json()["enabled"])
    assert api.get(own).json()["disabled"]["reason"] == "the receiver answered 410 Gone"
    [dead] = deliveries(api, webhook, state="dead")
    again = f"{webhook['links']['deliveries']}/{dead['id']}/redeliver"
    assert api.post(again).json()["type"] == "/problems/webhook-disabled"
    assert api.patch(own, json={"enabled": True}).json()["disabled"] is None
    assert api.post(again).status_code == 202
    wait_for(lambda: deliveries(api, webhook, state="delivered"))


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"url": "https://10.0.0.1/"}, "url", "it is not public"),
    ({"url": "https://169.254.169.254/latest"}, "url", "it is not public"),
    ({"url": "http://1.1.1.1/"}, "url", "use https"),
    ({"url": "https://user:x@127.0.0.1/"}, "url", "user or password"),
    ({"url": "https://nobody.invalid/"}, "url", "has no address"),
    ({"url": "hooks"}, "url", "https://"),
    ({"url": "https://127.0.0.1/" + "x" * 2048}, "url", "2048"),
    ({"events": ["job.done"]}, "events.0", "job.queued"),
    ({"events": []}, "events", "at least 1"),
    ({"event": ["job.failed"]}, "event", "did you mean events?"),
    ({"enabled": "yes"}, "enabled", "boolean"),
    ({"tags": [""]}, "tags.0", "at least 1"),
]


def test_what_makes_no_sense_is_refused(api: TestClient, receiver: Receiver) -> None:
    webhook = create(api, receiver)
    for fields, field, message in MISTAKES:
        for answer in (
            api.post(PATH, json={"url": receiver.url(), **fields}),
            api.patch(webhook["links"]["self"], json=fields),
        ):
            assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request"), fields
            [error] = answer.json()["errors"]
            assert error["field"] == field
            assert message in error["message"]
    assert len(api.get(PATH).json()["items"]) == 1


def test_others_webhooks_are_not_there(api: TestClient, receiver: Receiver, bench: Bench) -> None:
    webhook, unrelated = create(api, receiver), create(api, receiver)
    message = api.post(f"{PATH}/{webhook['id']}/test").json()["id"]
    assert api.get(f"{unrelated['links']['deliveries']}/{message}").status_code == 404
    _, header = make_key(bench)
    own = webhook["links"]["self"]
    for method, path in (
        ("GET", own),
        ("PATCH", own),
        ("DELETE", own),
        ("POST", f"{own}/test"),
        ("POST", f"{own}/rotate-secret"),
        ("GET", f"{own}/deliveries"),
        ("GET", f"{own}/deliveries/{message}"),
        ("POST", f"{own}/deliveries/{message}/redeliver"),
    ):
        body = {"name": "mine"} if method == "PATCH" else None
        assert api.request(method, path, json=body, headers=header).status_code == 404, (method, path)
    assert api.get(PATH, headers=header).json()["items"] == []


def test_an_owner_has_a_limited_number(api: TestClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST_WEBHOOKS", 2)
    for _ in range(2):
        create(api, receiver)
    refused = api.post(PATH, json={"url": receiver.url()})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/too-many-webhooks")


def test_two_requests_at_once_are_not_both_the_last_that_fits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST_WEBHOOKS", 1)
    refused: list[str] = []

    def add() -> None:
        try:
            add_webhook(bench.database, "https://hooks.example.com/")
        except Conflict as conflict:
            refused.append(conflict.type)

    other = threading.Thread(target=add)
    with bench.database.session() as session:
        made = {"url": "https://hooks.example.com/", "name": None, "events": None, "tags": [], "enabled": True}
        webhooks.create(session, OWNER, **made)
        other.start()
        other.join(0.3)  # passes in any case: the turn only has to come after this transaction
    other.join(20)
    assert refused == ["too-many-webhooks"]


def test_only_who_may_change_a_webhook_sees_its_whole_url(api: TestClient, receiver: Receiver, bench: Bench) -> None:
    own = {"name": "ci", "owner": "team"}
    with bench.database.session() as session:
        secrets = [
            keys.create(session, **own, scopes=scopes)[1] for scopes in ([Scope.READ, Scope.SUBMIT], [Scope.READ])
        ]
    changes, reads = ({"Authorization": f"Bearer {secret}"} for secret in secrets)
    url = receiver.url(path="/services/T0/secret?token=hidden")
    path = api.post(PATH, json={"url": url}, headers=changes).json()["links"]["self"]
    assert api.get(path, headers=changes).json()["url"] == url
    assert api.get(path, headers=reads).json()["url"] == f"http://127.0.0.1:{receiver.port}/…"
    for header, shown in ((changes, True), (reads, False)):
        assert ("hidden" in api.get(PATH, headers=header).text) is shown


def test_a_url_that_could_not_be_checked_may_be_sent_again(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "RESOLVE_SECONDS", 0.0)
    receivers = Receivers(AllowedNetworks(), lambda _: [])
    app = cast(FastAPI, api.app)
    monkeypatch.setattr(app.state, "context", replace(app.state.context, receivers=receivers))
    monkeypatch.setattr(lookups, "PER_OWNER", 0)
    answer = api.post(PATH, json={"url": "https://hooks.example.com/"})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_webhook_is_not_tested_without_end(
    api: TestClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TESTS_PER_MINUTE", 1)
    path = f"{create(api, receiver)['links']['self']}/test"
    assert api.post(path).status_code == 202
    refused = api.post(path)
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-requests")
    assert refused.headers["Retry-After"] == "60"


def test_without_networks_of_the_operator_only_public_receivers_are_taken(bench: Bench, receiver: Receiver) -> None:
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as api:
        assert api.post(PATH, json={"url": receiver.url()}).status_code == 422
        taken = api.post(PATH, json={"url": "https://1.1.1.1/", "enabled": False})
        assert taken.status_code == 201


def test_an_event_of_a_newer_version_is_shown(api: TestClient, receiver: Receiver, bench: Bench) -> None:
    webhook = create(api, receiver)
    with bench.database.session() as session:
        session.execute(update(Webhook).values(events=["job.archived"]))
    assert api.get(webhook["links"]["self"]).json()["events"] == ["job.archived"]


def test_the_examples_of_the_document_are_right() -> None:
    for model in (WebhookRequest, WebhookChange, WebhookModel, WebhookWithSecret, WebhookDelivery):
        examples = model.model_json_schema()["examples"]
        assert examples
        for example in examples:
            model.model_validate(example)
    assert set(WebhookDelivery.model_json_schema()["examples"][0]) == set(WebhookDelivery.model_fields)
