"""What each scope opens: every route of the OpenAPI document is asked with keys that lack its scope."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.ledger import keys
from lit_spec.scopes import Scope
from tests.worker.bench import Bench


def header_of(bench: Bench, *scopes: Scope, owner: str = "team") -> dict[str, str]:
    with bench.database.session() as session:
        _, secret = keys.create(session, "ci", owner=owner, scopes=scopes)
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def operations(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Method, path and scope of every operation that needs a caller."""
    return [
        (method.upper(), path.replace("{", "").replace("}", ""), operation["security"][0]["key"][0])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "security" in operation
    ]


def test_every_route_refuses_a_key_without_its_scope(
    api: TestClient, bench: Bench, operations: list[tuple[str, str, str]]
) -> None:
    headers = {
        "none": {},
        "read": header_of(bench, Scope.READ),
        "submit": header_of(bench, Scope.SUBMIT),
        "both": header_of(bench, Scope.READ, Scope.SUBMIT),
        "admin": header_of(bench, Scope.ADMIN),
    }
    lets_in = {"read": {"read", "both", "admin"}, "submit": {"submit", "both", "admin"}, "admin": {"admin"}}
    assert len(operations) > 35
    assert {scope for _, _, scope in operations} == set(lets_in)
    for method, path, scope in operations:
        for name, header in headers.items():
            # A body of a kind that no route takes: what is let in is refused for that, or does nothing.
            answer = api.request(method, path, headers=header | {"Content-Type": "text/x"}, content=b"")
            told = (method, path, name, answer.status_code)
            if name == "none":
                assert answer.status_code == 401, told
            elif name in lets_in[scope]:
                assert answer.status_code not in {401, 403}, told
            else:
                assert answer.status_code == 403, told
                wanted = f'Bearer error="insufficient_scope", scope="{scope}"'
                assert answer.headers["WWW-Authenticate"] == wanted, told
                if method != "HEAD":
                    assert answer.json()["type"] == "/problems/insufficient-scope"
                    assert f"the scope {scope}:" in answer.json()["detail"]


def test_every_route_under_v1_needs_a_caller(document: dict[str, Any], operations: list[tuple[str, str, str]]) -> None:
    under_v1 = {(m.upper(), p) for p, methods in document["paths"].items() for m in methods if p.startswith("/v1/")}
    assert len(under_v1) == len(operations)


def test_a_key_says_who_its_caller_is(api: TestClient, bench: Bench) -> None:
    local = api.get("/v1/me").json()
    assert (local["owner"], local["key"], local["scopes"]) == ("local", None, ["admin", "read", "submit"])
    assert local["quotas"] == {"jobs_queued": None, "jobs_running": None, "bytes": None}
    bench.job()
    with bench.database.session() as session:
        key, secret = keys.create(session, "laptop", owner="team", scopes=[Scope.READ])
    me = api.get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()
    assert (me["owner"], me["scopes"], me["subject"]) == ("team", ["read"], None)
    assert me["key"] == {"id": key.id, "name": "laptop"}
    assert me["usage"] == {"jobs_queued": 0, "jobs_running": 0, "bytes": 0}


def test_keys_of_one_owner_share_what_they_make(api: TestClient, bench: Bench) -> None:
    one, two = header_of(bench, Scope.READ, Scope.SUBMIT), header_of(bench, Scope.READ)
    stranger = header_of(bench, Scope.ADMIN, owner="others")
    body = {"kind": "dataset", "filename": "d.npz", "size": 9}
    made = api.post("/v1/uploads", json=body, headers=one).json()["id"]
    assert api.get(f"/v1/uploads/{made}", headers=two).status_code == 200
    # To administer is not to own.
    assert api.get(f"/v1/uploads/{made}", headers=stranger).status_code == 404
