"""Headers that every route reads in the same way: Host, headers with one value, Range."""

from __future__ import annotations

import socket

import pytest
from fastapi.testclient import TestClient

from tests.api.test_jobs import finish
from tests.worker.bench import Bench


def raw(address: tuple[str, int], *lines: str, version: str = "1.1", path: str = "/v1/jobs") -> tuple[int, str]:
    """Status and content type of a GET with exactly these header lines."""
    head = "\r\n".join((f"GET {path} HTTP/{version}", *lines, "Connection: close", "", ""))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head.encode("latin-1"))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    first, *others = answer.split(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in others)
    return int(first.split()[1]), headers["content-type"]


@pytest.mark.parametrize(
    "hosts",
    [
        ["127.0.0.1", "evil.example"],
        ["127.0.0.1", "127.0.0.1"],
        ["127.0.0.1, evil.example"],
        ["evil.example,127.0.0.1"],
        ["user@127.0.0.1"],
        ["evil.example@localhost:8000"],
        ["user:password@localhost"],
        ["http://127.0.0.1"],
        ["127.0.0.1/v1"],
        ["127.0.0.1 evil.example"],
        ["127.0.0.1:80:80"],
        ["127.0.0.1:65536"],
        ["127.0.0.1:http"],
        ["127.0.0.1?x"],
        ["localhost#x"],
        ["[::1"],
        ["[127.0.0.1]"],
        ["[::g]"],
        ["::1"],
        ["h\xf6st"],
        ["loc%61lhost"],
        [""],
        [],
    ],
)
def test_a_host_that_is_not_one_is_refused(address: tuple[str, int], hosts: list[str]) -> None:
    for path in ("/v1/jobs", "/healthz", "/docs", "/nowhere"):
        answer = raw(address, *(f"Host: {host}" for host in hosts), path=path)
        assert answer == (400, "application/problem+json"), path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "LOCALHOST", "localhost:", "[::1]:8000", "127.1.2.3"])
def test_one_host_is_taken(address: tuple[str, int], host: str) -> None:
    assert raw(address, f"Host: {host}") == (200, "application/json")


def test_blanks_around_a_value_are_no_part_of_it(address: tuple[str, int]) -> None:
    host = "Host: \t 127.0.0.1:8000 \t "
    assert raw(address, host) == (200, "application/json")
    assert raw(address, host, "Origin: http://127.0.0.1:8000 \t") == (200, "application/json")
    assert raw(address, host, "Origin: http://evil.example ")[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "api_1.internal:8000", "192.0.2.1", "[2001:db8::1]", "localhost."])
def test_another_host_is_a_host(address: tuple[str, int], host: str) -> None:
    assert raw(address, f"Host: {host}") == (403, "application/problem+json")
    assert raw(address, f"Host: {host}", path="/healthz") == (200, "application/json")


def test_a_probe_of_http_1_0_needs_no_host(address: tuple[str, int]) -> None:
    assert raw(address, version="1.0", path="/healthz") == (200, "application/json")
    assert raw(address, version="1.0") == (403, "application/problem+json")


@pytest.mark.parametrize(
    "name", ["Authorization", "Content-Type", "Idempotency-Key", "If-Range", "Origin", "Range", "Upload-Offset"]
)
def test_a_header_with_one_value_comes_once(address: tuple[str, int], name: str) -> None:
    assert raw(address, "Host: 127.0.0.1", f"{name}: a", f"{name}: a", path="/healthz")[0] == 400


@pytest.mark.parametrize("range", ["bytes=0-3", "bytes=4-", "bytes=-3", "bytes=10-", "bytes=-0", "lines=1-2"])
@pytest.mark.parametrize("condition", [None, "same", '"other"'])
def test_only_get_reads_a_range(api: TestClient, bench: Bench, range: str, condition: str | None) -> None:
    path = f"/v1/jobs/{finish(bench)}/artifacts/model.safetensors"
    whole = api.get(path)
    etag = whole.headers["ETag"]
    headers = {
        "Range": range,
        **({} if condition is None else {"If-Range": etag if condition == "same" else condition}),
    }
    head = api.head(path, headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    assert "Content-Range" not in head.headers
    for name in ("Content-Length", "ETag", "Repr-Digest", "Content-Type", "Accept-Ranges"):
        assert head.headers[name] == whole.headers[name]
    known = api.head(path, headers={**headers, "If-None-Match": etag})
    assert (known.status_code, known.headers["ETag"]) == (304, etag)


def test_the_files_of_the_documentation_have_whole_heads(api: TestClient) -> None:
    path = "/static-offline-docs/swagger-ui.css"
    size = api.get(path).headers["Content-Length"]
    assert api.get(path, headers={"Range": "bytes=0-3"}).headers["Content-Length"] == "4"
    head = api.head(path, headers={"Range": "bytes=0-3"})
    assert (head.status_code, head.headers["Content-Length"]) == (200, size)
