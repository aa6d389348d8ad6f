"""Bearer tokens of an issuer: whose they are, what they may do, and all the ways in which they are refused."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.http import issuer as issuer_keys
from jobs.ledger import keys
from lit_spec.scopes import Scope
from service.commands.api import prepared_api
from tests.api.issuers import AUDIENCE, Issuer, issuing
from tests.worker.bench import Bench


@pytest.fixture(scope="module")
def trusted() -> Iterator[Issuer]:
    with issuing() as made:
        made.add_key("rsa")
        made.add_key("ec", elliptic=True)
        yield made


@pytest.fixture
def issuer(trusted: Issuer) -> Iterator[Issuer]:
    """The same for all tests of this file, with its first keys."""
    private, published = dict(trusted.private), list(trusted.published)
    trusted.asked.clear()
    yield trusted
    trusted.private, trusted.published, trusted.named = private, published, None


def serving(bench: Bench, url: str, **settings: Any) -> TestClient:
    changed = {"oidc_issuer": url, "oidc_audience": AUDIENCE, **settings}
    made = create_app(bench.settings.model_copy(update=changed), keyless=True)
    return TestClient(made, base_url="http://127.0.0.1:8000")


@pytest.fixture
def api(bench: Bench, issuer: Issuer) -> Iterator[TestClient]:
    with serving(bench, issuer.url) as client:
        yield client


def me(api: TestClient, token: str) -> Any:
    return api.get("/v1/me", headers={"Authorization": f"Bearer {token}"})


def test_a_token_is_its_owner_with_its_scopes(api: TestClient, bench: Bench, issuer: Issuer) -> None:
    for token in (issuer.token("rsa", scope="lit:read openid"), issuer.token("ec", "ES256", scope="lit:read")):
        answer = me(api, token)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["owner"], found["subject"], found["scopes"], found["key"]) == ("alice", "alice", ["read"], None)
        assert found["expires_at"] is not None
    # The algorithm of a key is the token's, where the key set names none.
    assert me(api, issuer.token("rsa", "PS384", scope="lit:read")).status_code == 200
    assert me(api, issuer.token("rsa")).status_code == 403
    # Keys work beside tokens, and nobody gets in without either, also from this machine.
    with bench.database.session() as session:
        _, secret = keys.create(session, "operator", scopes=[Scope.ADMIN])
    assert me(api, secret).status_code == 200
    assert api.get("/v1/me").status_code == 401
    # The discovery document and the keys were fetched once.
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]

    body = {"kind": "dataset", "filename": "d.npz", "size": 9}
    writer = {"Authorization": f"Bearer {issuer.token('rsa', scope='lit:submit')}", "X-Request-ID": "r"}
    upload = api.post("/v1/uploads", json=body, headers=writer).json()["id"]
    [entry] = api.get(f"/v1/audit?object={upload}", headers={"Authorization": f"Bearer {secret}"}).json()["items"]
    assert (entry["owner"], entry["subject"], entry["key_id"]) == ("alice", "alice", None)


def claims_for(issuer: Issuer) -> dict[str, Any]:
    return {"iss": issuer.url, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 60}


def without_signature(issuer: Issuer) -> str:
    return jwt.encode(claims_for(issuer), "", algorithm="none")


def signed_with_the_public_key(issuer: Issuer) -> str:
    """The classic confusion: the public key as the secret of a symmetric algorithm."""
    return jwt.encode(claims_for(issuer), issuer.published[0]["n"], algorithm="HS256", headers={"kid": "rsa"})


def for_another_key(issuer: Issuer) -> str:
    return jwt.encode(claims_for(issuer), issuer.private["ec"], algorithm="ES256", headers={"kid": "rsa"})


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def of_another_issuer(issuer: Issuer) -> str:
    with issuing() as other:
        other.add_key("rsa")
        other.url = issuer.url
        return other.token("rsa", scope="lit:admin")


def tampered(issuer: Issuer) -> str:
    head, _, signature = issuer.token("rsa", scope="lit:read").split(".")
    return ".".join([head, issuer.token("rsa", scope="lit:admin").split(".")[1], signature])


REFUSED: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "expired": (lambda issuer: issuer.token("rsa", exp=int(time.time()) - 60), "has expired"),
    "not yet valid": (lambda issuer: issuer.token("rsa", nbf=int(time.time()) + 900), "not valid yet"),
    "no expiry": (lambda issuer: issuer.token("rsa", exp=None), "exp"),
    "no audience": (lambda issuer: issuer.token("rsa", aud=None), "aud"),
    "another audience": (lambda issuer: issuer.token("rsa", aud="mail"), "Audience"),
    "no issuer": (lambda issuer: issuer.token("rsa", iss=None), "iss"),
    "another issuer": (lambda issuer: issuer.token("rsa", iss="https://evil.example"), "issuer"),
    "no subject": (lambda issuer: issuer.token("rsa", sub=None), "sub"),
    "the owner of callers without a key": (lambda issuer: issuer.token("rsa", sub="local"), "no token may name"),
    "the owner of a key": (lambda issuer: issuer.token("rsa", sub="key_abc"), "no token may name"),
    "an owner with blanks": (lambda issuer: issuer.token("rsa", sub="a b"), "not the name of one owner"),
    "an owner with NUL": (lambda issuer: issuer.token("rsa", sub="a\0"), "sub"),
    "an owner with a lone surrogate": (lambda issuer: issuer.token("rsa", sub="a\ud800"), "sub"),
    "too long a subject": (lambda issuer: issuer.token("rsa", sub="a" * 256), "sub"),
    "no signature": (without_signature, "'none'"),
    "a symmetric signature": (signed_with_the_public_key, "'HS256'"),
    "another's key": (of_another_issuer, "Signature"),
    "other claims than signed": (tampered, "Signature"),
    "another algorithm than the key's": (for_another_key, "key of the issuer"),
    "a strange algorithm": (lambda _: base64url(b'{"alg": [1]}') + ".e30.", "[1]"),
    "no JSON": (lambda _: "e30.e30.e30", "None"),
    "a long one": (lambda issuer: issuer.token("rsa", pad="x" * 20_000), "longer"),
}


def test_every_wrong_token_is_refused(api: TestClient, issuer: Issuer) -> None:
    for name, (make, why) in REFUSED.items():
        answer = me(api, make(issuer))
        assert answer.status_code == 401, (name, answer.text)
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"', name
        assert why in answer.json()["detail"], (name, answer.json()["detail"])
    # A little difference of the clocks is none.
    assert me(api, issuer.token("rsa", exp=int(time.time()) - 2, scope="lit:read")).status_code == 200
    assert me(api, "a.b").status_code == 401


def test_a_subject_that_is_not_the_owner_is_checked_too(bench: Bench, issuer: Issuer) -> None:
    with serving(bench, issuer.url, oidc_owner_claim="team") as api:
        for subject in ("a\0", "a\ud800", "a\x1b[2J"):
            assert me(api, issuer.token("rsa", sub=subject, team="t", scope="lit:read")).status_code == 401
        assert me(api, issuer.token("rsa", sub="Zoë B", team="t", scope="lit:read")).status_code == 200


def test_broken_keys_of_the_issuer_are_passed_over(bench: Bench, issuer: Issuer) -> None:
    good = issuer.published[0]
    bad: list[dict[str, Any]] = [{"alg": ["RS256"]}, {"alg": {}}, {"kty": 5}, {"kid": [1]}, {"n": 5}, {"e": None}]
    issuer.published = [{**good, "kid": "bad", **change} for change in bad] + [
        {**good, "kid": f"bad{number}", **change} for number, change in enumerate(bad) if "kid" not in change
    ]
    issuer.published += [good]
    with serving(bench, issuer.url) as api:
        for number in range(len(bad)):
            issuer.private[f"bad{number}"] = issuer.private["rsa"]
            assert me(api, issuer.token(f"bad{number}", scope="lit:read")).status_code == 401
        assert me(api, issuer.token("rsa", scope="lit:read")).status_code == 200


def test_rotated_keys_are_found_but_the_issuer_is_not_asked_for_every_name(
    api: TestClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert me(api, issuer.token("rsa", scope="lit:read")).status_code == 200
    issuer.add_key("new", elliptic=True)
    issuer.published = issuer.published[-1:]
    token = issuer.token("new", "ES256", scope="lit:read")
    # Within the pause, made-up key ids cause no request.
    assert [me(api, token).status_code for _ in range(3)] == [401] * 3
    assert issuer.asked.count("/keys") == 1
    monkeypatch.setattr(issuer_keys, "PAUSE_SECONDS", 0.0)
    assert me(api, token).status_code == 200
    assert issuer.asked.count("/keys") == 2
    # The withdrawn key is gone with it: a token that it has signed and that is not known yet is refused.
    assert me(api, issuer.token("rsa", scope="lit:read", jti="another")).status_code == 401


def test_without_the_issuer_keys_go_on_working(bench: Bench, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_keys, "PAUSE_SECONDS", 0.0)
    with bench.database.session() as session:
        _, secret = keys.create(session, "ci")
    token = issuer.token("rsa", scope="lit:read")
    with serving(bench, "http://127.0.0.1:9") as api:
        answer = me(api, token)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert "issuer" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) >= 0
        assert me(api, secret).status_code == 200
    issuer.named = "https://another.example"
    with serving(bench, issuer.url) as api:
        assert me(api, token).status_code == 503
        issuer.named = None
        assert me(api, token).status_code == 200
        # Known keys are used while the issuer is away, but not for ever.
        monkeypatch.setattr(issuer_keys, "FRESH_SECONDS", 0.0)
        issuer.named = "https://another.example"
        assert me(api, token).status_code == 200
        monkeypatch.setattr(issuer_keys, "USABLE_SECONDS", 0.0)
        assert me(api, issuer.token("rsa", scope="lit:read", jti="another")).status_code == 503
        assert me(api, secret).status_code == 200


def test_claims_of_other_names_give_owner_and_scopes(bench: Bench, issuer: Issuer) -> None:
    settings = {
        "oidc_owner_claim": "https://lit.example/team",
        "oidc_scope_claim": "realm_access.roles",
        "oidc_scopes": "read=*, submit=ml, admin=operators",
    }
    with serving(bench, issuer.url, **settings) as api:
        claims: dict[str, Any] = {"https://lit.example/team": ["vision"]}
        found = me(api, issuer.token("rsa", **claims)).json()
        assert (found["owner"], found["subject"], found["scopes"]) == ("vision", "alice", ["read"])
        for roles, scopes in ((["ml", 3], ["read", "submit"]), (["operators"], ["admin", "read", "submit"])):
            token = issuer.token("rsa", **claims, realm_access={"roles": roles})
            assert me(api, token).json()["scopes"] == scopes
        for teams in (["a", "b"], [], 3, None):
            answer = me(api, issuer.token("rsa", **{"https://lit.example/team": teams}))
            assert (answer.status_code, "not the name of one owner" in answer.json()["detail"]) == (401, True)


def test_with_an_issuer_the_service_may_listen_on_any_address_without_a_key(bench: Bench, issuer: Issuer) -> None:
    changed = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, "host": "0.0.0.0"}
    with TestClient(prepared_api(bench.settings.model_copy(update=changed)), base_url="http://127.0.0.1") as api:
        assert api.get("/v1/me").status_code == 401
        assert me(api, issuer.token("rsa", scope="lit:read")).status_code == 200
