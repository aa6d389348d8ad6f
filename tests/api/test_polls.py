"""Polls that are answered from memory say what the ledger says, to those who may know it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from api.app import create_app
from api.http.context import Context
from api.jobs import shown_jobs
from jobs.database import notifications
from jobs.database.notifications import Listener
from jobs.ledger import attempts, keys, owned_jobs, retention
from jobs.ledger.attempts import Claim, Event
from tests.api.conftest import hear_all
from tests.api.test_jobs import claim, finish
from tests.api.test_studies import request as study_request
from tests.worker.bench import OWNER, Bench, wait_for
from tests.worker.outages import cut_off

FOREIGN = "somebody"


def bearer(bench: Bench, owner: str = OWNER) -> dict[str, str]:
    with bench.database.session() as session:
        _, secret = keys.create(session, "poller", owner=owner)
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def other_api(bench: Bench) -> Iterator[TestClient]:
    """The same service, another process."""
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
        yield client


def context(api: TestClient) -> Context:
    made: Context = api.app.state.context  # type: ignore[attr-defined]
    return made


def know(api: TestClient, path: str, headers: dict[str, str]) -> str:
    """Poll until the answer comes from memory; its ETag."""
    wait_for(lambda: context(api).long_polls._listener.is_live)
    etag = api.get(path, headers=headers).headers["ETag"]
    assert api.get(path, headers=headers).headers["ETag"] == etag
    return str(etag)


def claim_new(bench: Bench) -> Claim:
    bench.job()
    return claim(bench)


def record(bench: Bench, claimed: Claim, epoch: int) -> None:
    with bench.database.session() as session:
        progress = {"phase": "lit", "epoch": epoch, "epochs": 1000, "fraction": 0.5}
        attempts.record(session, claimed, [Event("epoch")], [], progress, None)


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_an_answer_from_memory_is_that_of_the_route(api: TestClient, bench: Bench, state: str) -> None:
    if state == "succeeded":
        path = f"/v1/jobs/{finish(bench)}"
    else:
        path = f"/v1/jobs/{bench.job()}"
        if state == "running":
            claim(bench)
    key = bearer(bench)
    etag = know(api, path, key)
    conditions: list[dict[str, str]] = [
        {},
        {"If-None-Match": etag},
        {"If-None-Match": f'"other", W/{etag}'},
        {"If-None-Match": "*"},
        {"If-None-Match": '"other"'},
        {"If-Match": etag},
        {"If-Match": f"W/{etag}"},
        {"If-Match": '"other"', "If-None-Match": etag},
    ]
    for method in ("GET", "HEAD"):
        for condition in conditions:
            polled = api.request(method, path, headers=key | condition)
            # A parameter keeps a request from being answered before it is routed.
            routed = api.request(method, f"{path}?wait=0", headers=key | condition)
            assert (polled.status_code, polled.content) == (routed.status_code, routed.content), condition
            left_out = ("x-request-id",)
            assert {name: value for name, value in polled.headers.items() if name not in left_out} == {
                name: value for name, value in routed.headers.items() if name not in left_out
            }


def test_a_poll_during_an_outage_is_told_to_come_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with cut_off(bench.database, "polled") as ledger:
        url = ledger.database.engine.url.render_as_string(False)
        settings = bench.settings.model_copy(update={"database_url": url})
        with TestClient(create_app(settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
            path, key = f"/v1/jobs/{bench.job()}", bearer(bench)
            know(client, path, key)
            with bench.database.session() as session:
                # The listener's connection lives on, so that what it tells of is still trusted.
                session.execute(text("ALTER ROLE polled NOLOGIN"))
                others = "FROM pg_stat_activity WHERE usename = 'polled' AND query NOT ILIKE 'LISTEN%'"
                session.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
            context(client).shown_jobs.forget_all()
            answer = client.get(path, headers=key)
            ledger.let_in()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


@contextmanager
def statements(api: TestClient) -> Iterator[list[str]]:
    """What the application asks the ledger meanwhile."""
    asked: list[str] = []
    engine = context(api).database.engine

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


def of_jobs(asked: list[str]) -> list[str]:
    """Housekeeping locks what it reads."""
    return [one for one in asked if "FROM jobs" in one and "WHERE jobs.id = " in one and "FOR " not in one]


def test_polls_of_unfinished_jobs_ask_the_ledger_once_for_all(api: TestClient, bench: Bench) -> None:
    running = bench.job()
    claim(bench)
    for job in (running, bench.job()):
        path, key = f"/v1/jobs/{job}", bearer(bench)
        know(api, path, key)
        context(api).shown_jobs.forget(job)
        with statements(api) as asked, ThreadPoolExecutor(8) as threads:
            polls = [threads.submit(api.get, path, headers=key) for _ in range(8)]
            assert {poll.result().status_code for poll in polls} == {200}
            first = len(of_jobs(asked))
            # The first poll of each thread may have come when another had been answered.
            assert 1 <= first < 8
            if job == running:
                assert {api.get(path, headers=key).status_code for _ in range(8)} == {200}
                assert len(of_jobs(asked)) == first


def test_the_place_in_the_queue_is_a_second_old_at_most(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, path, key = bench.job(), f"/v1/jobs/{bench.job()}", bearer(bench)
    monkeypatch.setattr(shown_jobs, "WAITING_SECONDS", 0.2)
    know(api, path, key)
    assert api.get(path, headers=key).json()["waiting"]["position"] == 2
    bench.cancel(first)
    # Nothing is notified of the second job.
    wait_for(lambda: api.get(path, headers=key).json()["waiting"]["position"] == 1)


@pytest.mark.parametrize("change", ["cancel", "keep", "delete", "cancel study", "delete study"])
def test_a_process_that_changes_a_job_knows_it_before_it_is_told(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    key = bearer(bench)
    if change.endswith("study"):
        asked = study_request(bench.teacher(), methods=["lit"], seeds=[0])
        study = f"/v1/studies/{api.post('/v1/studies', json=asked, headers=key).json()['id']}"
        job = str(api.get(f"/v1/jobs?study={study.rpartition('/')[2]}", headers=key).json()["items"][0]["id"])
    else:
        job = finish(bench) if change == "delete" else bench.job()
    path = f"/v1/jobs/{job}"
    if change == "delete study":
        api.post(f"{study}/cancel", headers=key)
    know(api, path, key)
    monkeypatch.setattr(Listener, "_tell", lambda *_: None)
    monkeypatch.setattr(shown_jobs, "WAITING_SECONDS", 60.0)
    context(api).shown_jobs.forget(job)
    api.get(path, headers=key)
    if change == "cancel":
        assert api.post(f"{path}/cancel", headers=key).status_code == 202
        assert api.get(path, headers=key).json()["state"] == "cancelled"
    elif change == "keep":
        assert api.post(f"{path}/keep", headers=key).status_code == 200
        assert api.get(path, headers=key).json()["kept"] is True
    elif change == "cancel study":
        assert api.post(f"{study}/cancel", headers=key).status_code == 202
        assert api.get(path, headers=key).json()["state"] == "cancelled"
    else:
        assert api.delete(path if change == "delete" else study, headers=key).status_code == 204
        assert api.get(path, headers=key).status_code == 404


def test_a_look_that_began_before_a_change_is_not_shared_after_it(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.job()
    path, key = f"/v1/jobs/{job}", bearer(bench)
    know(api, path, key)
    context(api).shown_jobs.forget(job)
    began, go_on, look = threading.Event(), threading.Event(), owned_jobs.get

    def slow_look(*arguments: Any, **options: Any) -> Any:
        found = look(*arguments, **options)
        if not began.is_set():
            began.set()
            assert go_on.wait(20)
        return found

    monkeypatch.setattr(owned_jobs, "get", slow_look)
    with ThreadPoolExecutor(1) as thread:
        early = thread.submit(api.get, path, headers=key)
        assert began.wait(20)
        assert api.post(f"{path}/cancel", headers=key).status_code == 202
        assert api.get(path, headers=key).json()["state"] == "cancelled"
        go_on.set()
        assert early.result().json()["state"] == "queued"
    assert api.get(path, headers=key).json()["state"] == "cancelled"


def test_without_notifications_polls_ask_the_ledger(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = claim_new(bench)
    path, key = f"/v1/jobs/{claimed.job_id}", bearer(bench)
    know(api, path, key)
    listener = context(api).long_polls._listener
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 60.0)
    with bench.database.session() as session:
        listening = "FROM pg_stat_activity WHERE query ILIKE 'LISTEN%' AND datname = current_database()"
        session.execute(text(f"SELECT pg_terminate_backend(pid) {listening}"))
    wait_for(lambda: not listener.is_live)
    for epoch in range(1, 4):
        record(bench, claimed, epoch)
        assert api.get(path, headers=key).json()["progress"]["epoch"] == epoch


def test_what_is_known_of_one_owner_is_not_told_to_another(api: TestClient, bench: Bench) -> None:
    path = f"/v1/jobs/{finish(bench)}"
    etag = know(api, path, bearer(bench))
    stranger = bearer(bench, FOREIGN)
    for condition in ({}, {"If-None-Match": etag}, {"If-None-Match": "*"}):
        assert [api.get(path, headers=stranger | condition).status_code for _ in range(2)] == [404, 404]
    assert api.get(path).status_code == 401
    assert api.get(path, headers={"Authorization": "Bearer lit_made_up"}).status_code == 401


def test_a_key_that_another_process_revokes_is_refused_once_that_is_told(
    api: TestClient, other_api: TestClient, bench: Bench
) -> None:
    path, key = f"/v1/jobs/{finish(bench)}", bearer(bench)
    know(other_api, path, key)
    know(api, path, key)
    with bench.database.session() as session:
        admin = keys.create(session, "admin", scopes=["admin"])[1]  # type: ignore[list-item]
        key_id = session.execute(text("SELECT id FROM api_keys WHERE name = 'poller'")).scalar_one()
    revoked = api.delete(f"/v1/keys/{key_id}", headers={"Authorization": f"Bearer {admin}"})
    assert revoked.status_code == 204
    # In the process that revokes it the next request is refused, without waiting for anything.
    assert api.get(path, headers=key).status_code == 401
    hear_all(other_api, bench)
    assert other_api.get(path, headers=key).status_code == 401


def test_a_revoked_key_is_refused_at_once_while_nobody_tells_of_changes(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = f"/v1/jobs/{finish(bench)}", bearer(bench)
    know(api, path, key)
    monkeypatch.setattr("jobs.database.notifications.TRUSTED_SECONDS", 0.0)
    assert api.get(path, headers=key).status_code == 200
    with bench.database.session() as session:
        session.execute(text("UPDATE api_keys SET revoked_at = clock_timestamp()"))
    assert api.get(path, headers=key).status_code == 401


def test_a_key_expires_while_it_is_known(api: TestClient, bench: Bench) -> None:
    path = f"/v1/jobs/{finish(bench)}"
    key = bearer(bench)
    with bench.database.session() as session:
        session.execute(text("UPDATE api_keys SET expires_at = clock_timestamp() + interval '2 seconds'"))
    hear_all(api, bench)
    know(api, path, key)
    wait_for(lambda: api.get(path, headers=key).status_code == 401)


def test_the_last_use_is_written_once_a_minute(api: TestClient, bench: Bench) -> None:
    path, key = f"/v1/jobs/{finish(bench)}", bearer(bench)

    def last_used() -> object:
        with bench.database.session() as session:
            return session.execute(text("SELECT last_used_at FROM api_keys")).scalar_one()

    know(api, path, key)
    first = last_used()
    assert first is not None
    know(api, path, key)
    assert last_used() == first


def test_what_a_worker_writes_is_seen_once_it_is_told(api: TestClient, bench: Bench) -> None:
    claimed = claim_new(bench)
    path, key = f"/v1/jobs/{claimed.job_id}", bearer(bench)
    for epoch in range(1, 10):
        know(api, path, key)
        record(bench, claimed, epoch)
        hear_all(api, bench)
        assert api.get(path, headers=key).json()["progress"]["epoch"] == epoch


def test_polls_never_go_back_and_an_etag_has_one_state(api: TestClient, bench: Bench) -> None:
    claimed = claim_new(bench)
    path, key = f"/v1/jobs/{claimed.job_id}", bearer(bench)
    record(bench, claimed, 0)
    know(api, path, key)
    stop = threading.Event()

    def write() -> None:
        for epoch in range(1, 60):
            record(bench, claimed, epoch)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: dict[str, int] = {}
    etag, newest = "", 0
    while not stop.is_set():
        answer = api.get(path, headers=key | {"If-None-Match": etag})
        if answer.status_code == 200:
            etag = answer.headers["ETag"]
            epoch = answer.json()["progress"]["epoch"]
            assert seen.setdefault(etag, epoch) == epoch
        assert seen[etag] >= newest
        newest = seen[etag]
    writer.join()
    hear_all(api, bench)
    assert api.get(path, headers=key).json()["progress"]["epoch"] == 59


def test_what_changes_of_a_finished_job_is_told(api: TestClient, other_api: TestClient, bench: Bench) -> None:
    job = finish(bench)
    path, key = f"/v1/jobs/{job}", bearer(bench)
    etags = [know(other_api, path, key), know(api, path, key)]
    assert api.post(f"{path}/keep", headers=key).json()["kept"] is True
    kept = api.get(path, headers=key | {"If-None-Match": etags[1]})
    assert (kept.status_code, kept.json()["kept"]) == (200, True)
    hear_all(other_api, bench)
    assert other_api.get(path, headers=key).json()["kept"] is True

    with bench.database.session() as session:
        retention.set_kept(session, OWNER, job, False)
    hear_all(api, bench)
    assert api.get(path, headers=key).json()["kept"] is False

    with bench.database.session() as session:
        owned_jobs.delete(session, OWNER, job)
    for process in (api, other_api):
        hear_all(process, bench)
        assert process.get(path, headers=key).status_code == 404
