"""If-Match: nothing is changed that has changed since the caller looked at it."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.api.test_jobs import claim, finish
from tests.api.test_studies import make
from tests.api.test_uploads import BINARY, begin
from tests.worker.bench import Bench

FAILED = (412, "/problems/precondition-failed")


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


def job(api: TestClient, bench: Bench) -> str:
    return f"/v1/jobs/{bench.job()}"


def finished_job(api: TestClient, bench: Bench) -> str:
    return f"/v1/jobs/{finish(bench)}"


def study(api: TestClient, bench: Bench) -> str:
    return str(make(api, bench.teacher(), methods=["lit"])["links"]["self"])


def cancelled_study(api: TestClient, bench: Bench) -> str:
    path = study(api, bench)
    assert api.post(f"{path}/cancel").json()["state"] == "cancelled"
    return path


def upload(api: TestClient, bench: Bench) -> str:
    return f"/v1/uploads/{begin(api, b'12345')}"


def teacher(api: TestClient, bench: Bench) -> str:
    return f"/v1/uploads/{bench.teacher()}"


PIECE = {"content": b"123", "headers": {"Upload-Offset": "0", "Content-Type": BINARY}}
NETWORK = {"json": {"library": "timm", "name": "vit_tiny_patch16_224"}}


@pytest.mark.parametrize(
    ("thing", "method", "action", "sent", "status"),
    [
        (job, "POST", "/cancel", {}, 202),
        (job, "POST", "/rerun", {"json": {}}, 202),
        (finished_job, "DELETE", "", {}, 204),
        (study, "POST", "/cancel", {}, 202),
        (cancelled_study, "POST", "/resume", {}, 202),
        (cancelled_study, "DELETE", "", {}, 204),
        (upload, "PATCH", "", PIECE, 204),
        (upload, "DELETE", "", {}, 204),
        (teacher, "PUT", "/architecture", NETWORK, 202),
        (teacher, "DELETE", "/architecture", {}, 202),
        (teacher, "PUT", "/weights", {"json": {"teacher_weights": "ema"}}, 202),
        (teacher, "DELETE", "/weights", {}, 202),
    ],
)
def test_a_change_is_made_only_to_what_the_caller_saw(
    api: TestClient, bench: Bench, thing: Any, method: str, action: str, sent: dict[str, Any], status: int
) -> None:
    path = thing(api, bench)
    before = api.get(path)
    etag = before.headers["ETag"]

    def ask(if_match: str) -> httpx.Response:
        headers = {**sent.get("headers", {}), "If-Match": if_match}
        answer: httpx.Response = api.request(method, path + action, **{**sent, "headers": headers})
        return answer

    for other in ('"another"', f"W/{etag}", '"a", "b"', ""):
        refused = ask(other)
        assert told(refused) == FAILED, other
        assert refused.headers["ETag"] == etag
    same = api.get(path)
    assert (same.headers["ETag"], same.json()) == (etag, before.json())
    assert ask(f'"another", {etag}').status_code == status


@pytest.mark.parametrize("thing", [job, study, upload])
def test_any_version_is_named_by_a_star(api: TestClient, bench: Bench, thing: Any) -> None:
    path = thing(api, bench)
    assert api.get(path, headers={"If-Match": "*"}).status_code == 200
    if thing is not upload:
        assert api.post(f"{path}/cancel", headers={"If-Match": "*"}).status_code == 202
    assert api.delete(path, headers={"If-Match": "*"}).status_code == 204
    assert api.delete(path, headers={"If-Match": "*"}).status_code == 404


def test_a_job_that_has_moved_on_is_not_cancelled(api: TestClient, bench: Bench) -> None:
    path = job(api, bench)
    seen = api.get(path).headers["ETag"]
    claim(bench)
    assert told(api.post(f"{path}/cancel", headers={"If-Match": seen})) == FAILED
    now = api.get(path)
    assert (now.json()["state"], now.json()["cancel_requested"]) == ("running", False)
    assert api.post(f"{path}/cancel", headers={"If-Match": now.headers["ETag"]}).json()["cancel_requested"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("thing", [job, study, upload])
def test_looking_has_the_same_condition(api: TestClient, bench: Bench, thing: Any, method: str) -> None:
    path = thing(api, bench)
    etag = api.get(path).headers["ETag"]
    assert api.request(method, path).headers["ETag"] == etag
    assert api.request(method, path, headers={"If-Match": etag}).status_code == 200
    assert api.request(method, path, headers={"If-Match": '"another"'}).status_code == 412
    # If-Match comes before If-None-Match (RFC 9110, section 13.2.2).
    both = {"If-Match": '"another"', "If-None-Match": etag}
    assert api.request(method, path, headers=both).status_code == 412
    assert api.request(method, path, headers={"If-None-Match": etag}).status_code == 304


def test_a_download_has_the_same_condition(api: TestClient, bench: Bench) -> None:
    path = f"{finished_job(api, bench)}/artifacts/model.safetensors"
    etag = f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    for method in ("GET", "HEAD"):
        assert api.request(method, path, headers={"If-Match": etag}).status_code == 200
        assert api.request(method, path, headers={"If-Match": '"another"'}).status_code == 412
    ranged = api.get(path, headers={"If-Match": etag, "Range": "bytes=0-3"})
    assert (ranged.status_code, ranged.content) == (206, b"0123")
    assert told(api.get(path, headers={"If-Match": '"another"', "Range": "bytes=0-3"})) == FAILED
    assert api.get(path, headers=[("If-Match", '"another"'), ("If-Match", etag)]).status_code == 200
    assert api.get(path, headers=[("If-None-Match", '"another"'), ("If-None-Match", etag)]).status_code == 304


@pytest.mark.parametrize("thing", [job, study, upload])
def test_a_condition_may_have_several_lines(api: TestClient, bench: Bench, thing: Any) -> None:
    path = thing(api, bench)
    etag = api.get(path).headers["ETag"]
    for lines in ([etag, '"another"'], ['"another"', etag], ['"a", "b"', etag, '"c"']):
        assert api.get(path, headers=[("If-None-Match", line) for line in lines]).status_code == 304
        assert api.get(path, headers=[("If-Match", line) for line in lines]).status_code == 200
    assert api.get(path, headers=[("If-Match", '"a"'), ("If-Match", '"b"')]).status_code == 412
    if thing is not upload:
        lines = [("If-Match", '"another"'), ("If-Match", etag)]
        assert api.post(f"{path}/cancel", headers=lines).status_code == 202


def test_an_upload_tells_whether_it_has_changed(api: TestClient, bench: Bench) -> None:
    path = upload(api, bench)
    etag = api.get(path).headers["ETag"]
    assert api.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert api.get(path, params={"wait": 1}, headers={"If-None-Match": etag}).status_code == 304
    api.patch(path, **PIECE)
    changed = api.get(path, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json()["received"]) == (200, 3)
