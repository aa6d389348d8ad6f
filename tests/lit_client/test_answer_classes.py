"""The client reads every answer into the class that the route answers with."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from lit_client import Client
from lit_spec.answers.base import Answer
from lit_spec.scopes import Scope
from tests.api.test_studies import request as study_request
from tests.jobs.study_bench import look
from tests.lit_client.faults import FaultyTransport
from tests.lit_client.scripted_worker import ScriptedWorker
from tests.lit_spec.test_answers import routes
from tests.webhooks.receiver import receiving
from tests.worker.bench import Bench


def route_of(request: httpx.Request) -> APIRoute:
    """The first that matches, as in the application."""
    for route in routes():
        if request.method in route.methods and route.path_regex.fullmatch(request.url.path):
            return route
    raise AssertionError(f"no route: {request.method} {request.url.path}")


def test_every_answer_is_read_into_the_class_of_its_route(
    client: Client,
    transport: FaultyTransport,
    worker: ScriptedWorker,
    bench: Bench,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: dict[tuple[str, str], type[Answer]] = {}
    original = Answer.read.__func__  # type: ignore[attr-defined]

    def recording(answer: type[Answer], content: bytes) -> Answer:
        route = route_of(transport.requests[-1])
        read[transport.requests[-1].method, route.path] = answer
        assert answer is route.response_model
        return original(answer, content)  # type: ignore[no-any-return]

    monkeypatch.setattr(Answer, "read", classmethod(recording))

    upload = client.wait_inspection(client.upload(teacher, "teacher").id, timeout=20)
    list(client.uploads())
    list(client.architectures(search="resnet18"))
    client.architecture("timm", "resnet18")
    job = client.create_job({"teacher": upload.id, "dataset": {"builtin": "digits"}, "student": {"depth": 14}})
    client.events(client.wait_job(job.id).id)
    client.metrics(job.id)
    client.artifacts(job.id)
    client.keep(job.id)
    client.unkeep(job.id)
    list(client.jobs())
    client.cancel(client.rerun(bench.job(teacher=upload.id, device="cuda")).id)
    study = client.create_study(study_request(upload.id, methods=["lit"], job={"device": "cuda"}))
    list(client.studies())
    client.study_table(study.id)
    client.cancel_study(study.id)
    look(bench, study.id)
    client.resume_study(client.study(study.id).id)
    client.inspect_as(upload.id, {"library": "timm", "name": "resnet18"})
    client.inspect_as(upload.id, None)
    client.inspect_with(upload.id, "ema")
    client.inspect_with(upload.id, None)

    with receiving() as receiver:
        webhook = client.create_webhook(receiver.url())
        list(client.webhooks())
        client.change_webhook(client.webhook(webhook.id).id, name="mine")
        client.rotate_webhook_secret(webhook.id)
        sent = client.test_webhook(webhook.id)
        list(client.deliveries(webhook.id))
        client.redeliver(webhook.id, client.delivery(webhook.id, sent.id).id)
        client.delete_webhook(webhook.id)

    client.me()
    administration = client.administration
    key = administration.create_key("ci", owner="team", scopes=[Scope.ADMIN])
    # The first key ends the time without keys.
    monkeypatch.setitem(client._connection._http.headers, "Authorization", f"Bearer {key.secret}")
    administration.key(administration.rotate_key(key.id, grace_seconds=60).id)
    list(administration.keys(owner="team"))
    administration.set_quotas("a/team", {"bytes": 5})
    administration.quotas("a/team")
    list(administration.audit(action="key.rotate"))

    answering = {(method, route.path) for route in routes() if route.response_model for method in route.methods}
    assert set(read) == answering
