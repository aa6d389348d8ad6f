"""What `litc doctor` finds of the services that the settings name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_client.checks import Check, Status
from service import checks
from service.checks import service_checks
from tests.api.issuers import AUDIENCE, issuing
from tests.s3 import S3Server
from tests.small_disks import MORE_THAN_A_DISK

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_DATA_DIR", str(tmp_path / "data"))


def found(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, list[Check]]:
    """The checks by name, with these variables beside those that are set already."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        each = list(service_checks())
    return {name: [check for check in each if check.name == name] for name in {check.name for check in each}}


def of(found: dict[str, list[Check]], name: str) -> tuple[Status, str]:
    [check] = found[name]
    assert bool(check.advice) == (check.status != Status.OK)
    return check.status, check.detail


def test_without_other_services_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(found(monkeypatch)) == {"settings", "database", "broker", "storage", "disk", "GPU"}


def test_a_disk_with_less_than_its_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "TOO_LITTLE_DISK", 0)
    [check] = found(monkeypatch, LIT_DISK_RESERVE_BYTES=str(MORE_THAN_A_DISK))["disk"]
    assert check.status == Status.WARN
    assert "lower LIT_DISK_RESERVE_BYTES" in check.advice


def test_object_stores(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.make_bucket()
    well = found(monkeypatch, LIT_STORAGE_URL=f"s3://{bucket}/lit", LIT_DATASET_STORES=f"s3://{bucket}/data")
    assert of(well, "storage") == (Status.OK, f"s3://{bucket}/lit can be written")
    assert of(well, "data sets") == (Status.OK, f"s3://{bucket}/data/ can be listed")
    missing = found(monkeypatch, LIT_STORAGE_URL="s3://no-such-bucket", LIT_DATASET_STORES="s3://no-such-bucket")
    assert of(missing, "storage")[0] == of(missing, "data sets")[0] == Status.FAIL
    assert "no such bucket" in of(missing, "storage")[1]
    away = found(monkeypatch, LIT_STORAGE_URL=f"s3://{bucket}", AWS_ENDPOINT_URL=NOWHERE)
    assert "can't be reached" in of(away, "storage")[1]


def test_the_issuer_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with issuing() as issuer:
        issuer.add_key("one", elliptic=True)
        variables = {"LIT_OIDC_ISSUER": issuer.url, "LIT_OIDC_AUDIENCE": AUDIENCE}
        well = found(monkeypatch, **variables)
        assert of(well, "issuer") == (Status.OK, f"{issuer.url}: its 1 keys can be fetched")
        assert of(well, "metrics")[0] == Status.WARN
        assert of(found(monkeypatch, LIT_METRICS_TOKEN="0123456789abcdef", **variables), "metrics")[0] == Status.OK
        issuer.named = "https://other.example.org"
        assert "of another issuer" in of(found(monkeypatch, **variables), "issuer")[1]
    status, detail = of(found(monkeypatch, **variables), "issuer")
    assert (status, issuer.url in detail) == (Status.FAIL, True)


@contextmanager
def refusing_server(asked: list[str | None]) -> Iterator[str]:
    """Answers 401 and notes the Authorization headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_tracking_servers_get_only_their_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    with refusing_server(asked) as server:
        variables = {
            "MLFLOW_TRACKING_URI": f"http://{server}",
            "MLFLOW_TRACKING_TOKEN": "secret",
            "LIT_MLFLOW_TRACKING_URIS": f"http://a:b@{server}/other,http://{server}/third,{NOWHERE}",
        }
        checks = [check for check in found(monkeypatch, **variables)["MLflow"] if "installed" not in check.detail]
        signed = found(monkeypatch, MLFLOW_TRACKING_URI=f"http://{server}", MLFLOW_TRACKING_AWS_SIGV4="true")
    assert asked[:3] == ["Bearer secret", "Basic YTpi", None]
    assert [check.status for check in checks] == [Status.FAIL] * 4
    assert checks[1].detail == f"http://{server}/other refuses the credentials (401)"
    assert "no answer" in checks[3].detail
    assert "docs/tracking.md" in checks[0].advice
    assert signed["MLflow"][-1].status == Status.WARN


def test_an_address_that_is_open_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = found(monkeypatch, LIT_HOST="0.0.0.0")
    assert of(opened, "public URL") == (Status.WARN, "LIT_PUBLIC_URL is not set")
    assert of(opened, "metrics")[0] == Status.WARN
    away = found(monkeypatch, LIT_PUBLIC_URL=NOWHERE)
    assert of(away, "public URL") == (Status.WARN, f"{NOWHERE}: no answer (ConnectError)")
    worker = found(monkeypatch, LIT_WORKER_METRICS_PORT="9100", LIT_WORKER_METRICS_HOST="0.0.0.0")
    assert of(worker, "metrics")[0] == Status.FAIL
