"""/v1/keys: made, rotated, revoked by administrators; and what the audit log keeps of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update

from jobs.database.models import ApiKey
from jobs.ledger import audit, keys
from lit_spec.scopes import Scope
from tests.api.conftest import hear_all
from tests.jobs.racing import together
from tests.worker.bench import Bench


@pytest.fixture
def admin(bench: Bench) -> dict[str, str]:
    with bench.database.session() as session:
        _, secret = keys.create(session, "operator", owner="operators", scopes=[Scope.ADMIN])
    return bearer(secret)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def entries(api: TestClient, admin: dict[str, str], **filters: str) -> list[dict[str, Any]]:
    answer = api.get("/v1/audit", headers=admin, params=filters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_the_life_of_a_key(api: TestClient, bench: Bench, admin: dict[str, str]) -> None:
    body = {"name": "ci", "owner": "vision", "scopes": ["submit", "read"]}
    made = api.post("/v1/keys", json=body, headers={**admin, "X-Request-ID": "req-1"})
    key = made.json()
    assert (made.status_code, made.headers["Location"]) == (201, f"/v1/keys/{key['id']}")
    assert made.headers["Cache-Control"] == "no-store"
    assert (key["owner"], key["scopes"], key["expires_at"]) == ("vision", ["read", "submit"], None)
    secret = key.pop("secret")
    assert api.get(f"/v1/keys/{key['id']}", headers=admin).json() == key
    assert [one["id"] for one in api.get("/v1/keys?owner=vision", headers=admin).json()["items"]] == [key["id"]]
    assert "secret" not in api.get("/v1/keys", headers=admin).text

    assert api.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    used = api.get(f"/v1/keys/{key['id']}", headers=admin).json()["last_used_at"]
    assert used is not None
    assert api.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    assert api.get(f"/v1/keys/{key['id']}", headers=admin).json()["last_used_at"] == used

    rotated = api.post(f"/v1/keys/{key['id']}/rotate", json={"grace_seconds": 600}, headers=admin)
    new = rotated.json()
    assert rotated.status_code == 201
    assert {name: new[name] for name in ("name", "owner", "scopes")} == {**body, "scopes": ["read", "submit"]}
    old = api.get(f"/v1/keys/{key['id']}", headers=admin).json()
    assert old["replaced_by"] == new["id"]
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=8) < left < timedelta(minutes=12)
    for one in (secret, new["secret"]):
        assert api.get("/v1/me", headers=bearer(one)).json()["owner"] == "vision"
    again = api.post(f"/v1/keys/{key['id']}/rotate", json={}, headers=admin)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/key-invalid")

    assert api.delete(f"/v1/keys/{new['id']}", headers=admin).status_code == 204
    assert api.delete(f"/v1/keys/{new['id']}", headers=admin).status_code == 204
    assert api.get("/v1/me", headers=bearer(new["secret"])).status_code == 401
    assert api.get("/v1/keys/key_none", headers=admin).status_code == 404

    mine = entries(api, admin, owner="operators")
    assert [(entry["action"], entry["object_id"]) for entry in mine] == [
        ("key.revoke", new["id"]),
        ("key.rotate", key["id"]),
        ("key.create", key["id"]),
    ]
    creation = mine[-1]
    assert (creation["kind"], creation["outcome"], creation["request_id"]) == ("key", "done", "req-1")
    assert creation["address"] == "127.0.0.1"
    assert creation["key_id"].startswith("key_")
    assert creation["detail"] == {"name": "ci", "owner": "vision", "scopes": ["read", "submit"]}
    assert [entry["id"] for entry in entries(api, admin, action="key.rotate")] == [mine[1]["id"]]
    assert [entry["id"] for entry in entries(api, admin, object=new["id"])] == [mine[0]["id"]]
    since, until = mine[1]["created_at"], mine[0]["created_at"]
    assert [entry["id"] for entry in entries(api, admin, since=since, until=until)] == [mine[1]["id"]]
    page = api.get("/v1/audit?limit=1", headers=admin).json()
    rest = api.get("/v1/audit", headers=admin, params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [page["items"][0]["id"], rest["items"][0]["id"]] == [mine[0]["id"], mine[1]["id"]]


def test_an_expired_key_is_told_so_and_does_not_open_the_service(api: TestClient, bench: Bench) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with bench.database.session() as session:
        key, secret = keys.create(session, "ci", expires_at=soon)
    assert api.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    with bench.database.session() as session:
        session.execute(update(ApiKey).values(created_at=ApiKey.created_at - timedelta(hours=2), expires_at=soon))
        session.execute(text("UPDATE api_keys SET expires_at = clock_timestamp()"))
    hear_all(api, bench)
    refused = api.get("/v1/jobs", headers=bearer(secret))
    assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
    assert f"{key.id} has expired" in refused.json()["detail"]
    assert api.get("/v1/jobs").status_code == 401


def test_a_rotated_key_lives_as_long_as_the_old_one_was_made_to(bench: Bench) -> None:
    with bench.database.session() as session:
        key, _ = keys.create(session, "ci", expires_at=datetime.now(UTC) + timedelta(days=30))
        session.execute(
            text(
                "UPDATE api_keys SET created_at = created_at - interval '29 days', "
                "expires_at = expires_at - interval '29 days'"
            )
        )
    with bench.database.session() as session:
        new, _ = keys.rotate(session, key.id, grace=timedelta(days=9))
        old = keys.get(session, key.id)
        assert new.expires_at is not None
        assert old.expires_at is not None
        assert timedelta(days=29) < new.expires_at - new.created_at < timedelta(days=31)
        # The grace period gives the old one no longer life.
        assert old.expires_at - new.created_at < timedelta(days=2)


def test_only_one_of_two_rotations_at_once_succeeds(api: TestClient, bench: Bench, admin: dict[str, str]) -> None:
    key = api.post("/v1/keys", json={"name": "ci"}, headers=admin).json()["id"]

    def rotate() -> int:
        return api.post(f"/v1/keys/{key}/rotate", json={}, headers=admin).status_code

    assert sorted(together([rotate, rotate])) == [201, 409]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x", "owner": "a b"}, "owner"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"name": "x", "secret": "mine"}, "secret"),
    ],
)
def test_what_a_key_can_not_be(api: TestClient, admin: dict[str, str], body: dict[str, Any], field: str) -> None:
    answer = api.post("/v1/keys", json=body, headers=admin)
    assert (answer.status_code, [wrong["field"] for wrong in answer.json()["errors"]]) == (422, [field])


def test_a_use_is_recorded_without_waiting_for_anybody(bench: Bench) -> None:
    with bench.database.session() as session:
        key, secret = keys.create(session, "ci")
    with bench.database.session() as holder:
        holder.execute(select(ApiKey.id).with_for_update())
        with bench.database.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            keys.record_use(session, key.id)
            found = keys.authenticate(session, secret)
            assert found is not None
            assert found.use_unrecorded


def test_changes_and_their_entries_come_and_go_together(
    api: TestClient, bench: Bench, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = api.post("/v1/keys", json={"name": "r", "owner": "team", "scopes": ["read"]}, headers=admin).json()
    member = api.post("/v1/keys", json={"name": "m", "owner": "team"}, headers=admin).json()
    header = bearer(member["secret"])
    body = {"kind": "dataset", "filename": "d.npz", "size": 3}
    upload = api.post("/v1/uploads", json=body, headers=header).json()["id"]
    sent = {**header, "Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert api.patch(f"/v1/uploads/{upload}", content=b"abc", headers=sent).status_code == 204
    assert api.delete(f"/v1/uploads/{upload}", headers=bearer(reader["secret"])).status_code == 403
    assert api.delete(f"/v1/uploads/{upload}", headers=header).status_code == 204
    assert [(e["action"], e["outcome"], e["key_id"]) for e in entries(api, admin, owner="team")] == [
        ("upload.delete", "done", member["id"]),
        ("request.deny", "denied", reader["id"]),
        ("upload.complete", "done", member["id"]),
        ("upload.create", "done", member["id"]),
    ]
    # Without its entry there is no change.
    before = len(api.get("/v1/keys", headers=admin).json()["items"])

    def fail(*_args: object, **_options: object) -> None:
        raise OSError("no entry")

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(OSError, match="no entry"):
        api.post("/v1/keys", json={"name": "x"}, headers=admin)
    assert len(api.get("/v1/keys", headers=admin).json()["items"]) == before


def test_the_audit_log_forgets_in_time_and_keeps_no_secret(bench: Bench) -> None:
    with bench.database.session() as session:
        _, secret = keys.create(session, "ci")
        keys.create(session, "later")
        session.execute(
            text(
                "UPDATE audit_log SET created_at = created_at - interval '31 days' WHERE id = "
                "(SELECT id FROM audit_log ORDER BY created_at LIMIT 1)"
            )
        )
    with bench.database.session() as session:
        audit.forget_old(session, days=30)
        left = audit.list_page(session)
        assert [entry.detail["name"] for entry in left if entry.detail] == ["later"]
        rows = "\n".join(session.scalars(text("SELECT a::text FROM audit_log AS a")))
        assert secret[keys.SHOWN_CHARACTERS :] not in rows
