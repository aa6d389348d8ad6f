"""Lists in pages, and the cursors that lead from one page to the next."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.ledger import keys
from tests.worker.bench import Bench


def announce(api: TestClient, number: int, **options: Any) -> list[str]:
    """Ids of new uploads, oldest first."""
    bodies = [{"kind": "dataset", "filename": "file", "size": n + 1} for n in range(number)]
    return [api.post("/v1/uploads", json=body, **options).json()["id"] for body in bodies]


def cursor_of(api: TestClient, path: str, **params: Any) -> str:
    cursor = api.get(path, params={"limit": 1, **params}).json()["next_cursor"]
    assert isinstance(cursor, str)
    return cursor


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode()


def with_position(cursor: str, position: bytes) -> str:
    """The cursor of the same list for another position."""
    list_id, _ = json.loads(base64.urlsafe_b64decode(cursor))
    return encoded(b"[" + json.dumps(list_id).encode() + b", " + position + b"]")


def test_lists_go_by_pages(api: TestClient) -> None:
    made = announce(api, 5)
    found: list[str] = []
    cursor = None
    while True:
        page = api.get("/v1/uploads", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [upload["id"] for upload in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == made[::-1]


def test_pages_may_have_different_sizes(api: TestClient) -> None:
    made = announce(api, 4)
    cursor = cursor_of(api, "/v1/uploads", limit=1)
    rest = api.get("/v1/uploads", params={"limit": 3, "cursor": cursor}).json()
    assert [upload["id"] for upload in rest["items"]] == made[-2::-1]


def test_a_cursor_belongs_to_its_list_and_filters(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    for _ in range(2):
        bench.job(teacher=teacher, tags=["a"], name="n")
    of_all = cursor_of(api, "/v1/jobs")
    of_tag = cursor_of(api, "/v1/jobs", tag="a")
    of_networks = cursor_of(api, "/v1/architectures", search="vit")
    for path, params, cursor, status in (
        ("/v1/jobs", {}, of_all, 200),
        ("/v1/jobs", {"tag": "a"}, of_tag, 200),
        ("/v1/architectures", {"search": "vit"}, of_networks, 200),
        ("/v1/uploads", {}, of_all, 422),
        ("/v1/studies", {}, of_all, 422),
        ("/v1/architectures", {}, of_all, 422),
        ("/v1/jobs", {"tag": "a"}, of_all, 422),
        ("/v1/jobs", {"name": "a"}, of_tag, 422),
        ("/v1/jobs", {}, of_tag, 422),
        ("/v1/jobs", {}, of_networks, 422),
        ("/v1/architectures", {"search": "resnet"}, of_networks, 422),
        ("/v1/architectures", {"search": "vit", "library": "timm"}, of_networks, 422),
    ):
        answer = api.get(path, params={**params, "cursor": cursor})
        assert answer.status_code == status, (path, params)
        if status == 422:
            assert answer.json()["errors"][0]["field"] == "cursor"


def test_a_cursor_belongs_to_its_owner(api: TestClient, bench: Bench) -> None:
    headers = []
    for name in ("one", "another"):
        with bench.database.session() as session:
            _, secret = keys.create(session, name)
        headers.append({"Authorization": f"Bearer {secret}"})
        announce(api, 2, headers=headers[-1])
    cursor = api.get("/v1/uploads", params={"limit": 1}, headers=headers[0]).json()["next_cursor"]
    assert api.get("/v1/uploads", params={"cursor": cursor}, headers=headers[0]).status_code == 200
    assert api.get("/v1/uploads", params={"cursor": cursor}, headers=headers[1]).status_code == 422


@pytest.mark.parametrize(
    "position",
    [
        b"nonsense",
        b"[" * 20_000,
        b"null",
        b'["2026-01-01T00:00:00Z"]',
        b'["2026-01-01T00:00:00Z", "upl_a", 1]',
        b'["2026-01-01T00:00:00", "upl_a"]',
        b'["2026-13-01T00:00:00Z", "upl_a"]',
        b'[1767225600, "upl_a"]',
        b'["2026-01-01T00:00:00Z", "upl_\\ud800"]',
        b'["2026-01-01T00:00:00Z", "upl_\\u0000"]',
        b'["2026-01-01T00:00:00Z", 5]',
        b'["2026-01-01T00:00:00Z", null]',
        b'{"2026-01-01T00:00:00Z": 1, "upl_a": 2}',
        b"\xff\xfe",
        b"1" * 5000,
    ],
)
def test_a_cursor_without_a_position(api: TestClient, position: bytes) -> None:
    announce(api, 2)
    own = with_position(cursor_of(api, "/v1/uploads"), position)
    for cursor in (own, encoded(position)):
        bad = api.get("/v1/uploads", params={"cursor": cursor})
        assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "cursor")


@pytest.mark.parametrize("year", [1, 9999])
@pytest.mark.parametrize("offset", ["Z", "+14:00", "-12:00"])
def test_a_cursor_from_the_ends_of_time(api: TestClient, year: int, offset: str) -> None:
    """Nobody was given it, but it is one."""
    announce(api, 2)
    position = f'["{year:04}-12-31T23:59:59.999999{offset}", "upl_a"]'
    cursor = with_position(cursor_of(api, "/v1/uploads"), position.encode())
    assert api.get("/v1/uploads", params={"cursor": cursor}).status_code == 200


@pytest.mark.parametrize("cursor", ["", "é", "====", "bm9uc2Vuc2U", "\ud83d", "IiI=", "NQ==", "bnVsbA=="])
def test_a_cursor_in_other_letters(api: TestClient, cursor: str) -> None:
    bad = api.get("/v1/uploads", params={"cursor": cursor.encode(errors="surrogatepass")})
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "cursor")
