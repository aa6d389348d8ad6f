"""Uploads over HTTP: pieces, offsets, checksums, and who may delete what."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from lit_spec.networks.teacher_files import HEADER_BYTES, TENSORS
from tests.worker.bench import Bench, wait_for

BINARY = "application/octet-stream"


def begin(api: TestClient | httpx.Client, content: bytes, kind: str = "dataset", **more: Any) -> str:
    answer = api.post("/v1/uploads", json={"kind": kind, "filename": "file", "size": len(content), **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/uploads/{answer.json()['id']}"
    return str(answer.json()["id"])


def patch(api: TestClient | httpx.Client, upload_id: str, offset: int, content: bytes) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": BINARY}
    answer: httpx.Response = api.patch(f"/v1/uploads/{upload_id}", content=content, headers=headers)
    return answer


def safetensors_file(bytes_of_data: int = 8, announced: int | None = None) -> bytes:
    end = bytes_of_data if announced is None else announced
    header = json.dumps({"w": {"dtype": "F32", "shape": [end // 4], "data_offsets": [0, end]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * bytes_of_data


def test_a_safetensors_header_with_too_many_names_is_refused_with_its_first_bytes(api: TestClient) -> None:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(i): entry for i in range(TENSORS + 1)}).encode()
    upload = begin(api, content := len(header).to_bytes(8, "little") + header, kind="teacher")
    refused = patch(api, upload, 0, content)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-upload")
    assert f"at most {TENSORS}" in refused.json()["detail"]


def test_a_safetensors_header_that_is_too_long_is_not_parsed(api: TestClient) -> None:
    """Parsed in the API, one of 100 MB would take gigabytes of the process that serves everybody."""
    content = (HEADER_BYTES + 1).to_bytes(8, "little") + b"{" * (HEADER_BYTES + 1)
    upload = begin(api, content, kind="teacher")
    refused = patch(api, upload, 0, content)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-upload")
    assert f"at most {HEADER_BYTES}" in refused.json()["detail"]


def test_a_file_in_pieces(api: TestClient, bench: Bench) -> None:
    content = bytes(range(256)) * 40
    upload = begin(api, content)
    assert patch(api, upload, 0, content[:3000]).headers["Upload-Offset"] == "3000"
    assert api.head(f"/v1/uploads/{upload}").headers["Upload-Offset"] == "3000"
    wrong = patch(api, upload, 2000, content[2000:])
    assert (wrong.status_code, wrong.json()["type"]) == (409, "/problems/upload-offset-mismatch")
    assert wrong.headers["Upload-Offset"] == "3000"
    assert patch(api, upload, 3000, content[3000:]).status_code == 204
    shown = api.get(f"/v1/uploads/{upload}").json()
    assert (shown["state"], shown["received"], shown["inspection_state"]) == ("complete", len(content), "pending")
    assert shown["sha256"] == hashlib.sha256(content).hexdigest()
    with bench.storage.open(f"uploads/{upload}/data") as file:
        assert file.read() == content
    late = patch(api, upload, len(content), b"x")
    assert (late.status_code, late.json()["detail"]) == (409, "the upload is complete")


def test_a_known_file_needs_no_sending(api: TestClient) -> None:
    content = b"some data"
    sha256 = hashlib.sha256(content).hexdigest()
    upload = begin(api, content, sha256=sha256)
    patch(api, upload, 0, content)
    again = api.post(
        "/v1/uploads", json={"kind": "dataset", "filename": "other", "size": len(content), "sha256": sha256}
    )
    assert (again.status_code, again.json()["id"]) == (200, upload)
    # The same bytes as a teacher are another matter.
    assert begin(api, content, kind="teacher", sha256=sha256) != upload


def test_damaged_bytes_begin_anew(api: TestClient) -> None:
    content = b"some data"
    upload = begin(api, content, sha256=hashlib.sha256(content).hexdigest())
    damaged = patch(api, upload, 0, b"some dirt")
    assert (damaged.status_code, damaged.json()["type"]) == (422, "/problems/checksum-mismatch")
    assert api.head(f"/v1/uploads/{upload}").headers["Upload-Offset"] == "0"
    assert patch(api, upload, 0, content).status_code == 204


SIZE = 20 << 20
"""More than what is recorded at once."""


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [5, 3_000_000, SIZE])
def test_nothing_is_kept_of_a_request_with_more_bytes_than_announced(
    bench: Bench, address: tuple[str, int], chunked: bool, size: int
) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    too_long = content[2 : size + 1]
    parts = (too_long[start : start + 500_000] for start in range(0, len(too_long), 500_000))
    headers = {"Upload-Offset": "2", "Content-Type": BINARY}
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=60) as api:
        upload = begin(api, content[:size])
        assert patch(api, upload, 0, content[:2]).status_code == 204
        before = api.get(f"/v1/uploads/{upload}").json()
        answer = api.patch(f"/v1/uploads/{upload}", content=parts if chunked else too_long, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
        assert api.get(f"/v1/uploads/{upload}").json() == before
        assert bench.storage.size(f"uploads/{upload}/data") == 2
        assert patch(api, upload, 2, content[2:size]).status_code == 204
        assert api.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(content[:size]).hexdigest()


def test_a_request_that_is_too_long_takes_nothing_over(bench: Bench, address: tuple[str, int]) -> None:
    content = bytes(range(256)) * 8192
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        sending = send_first_part(bench, address, upload, content, 1_200_000)
        assert patch(api, upload, 0, content + b"x").status_code == 413
        sending.sendall(content[1_200_000:])
        assert b" 204 " in status_line(sending)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>not found</html>", "neither a safetensors file nor a .pt file of torch.save"),
        (b"tiny", "neither"),
        (safetensors_file(8)[:-3], "cut off or damaged"),
        (safetensors_file(8, announced=4), "differ in length"),
        ((9).to_bytes(8, "little") + b"not JSON!" + b"\0" * 8, "not a JSON object"),
    ],
)
def test_a_file_that_is_plainly_no_teacher(api: TestClient, content: bytes, said: str) -> None:
    upload = begin(api, content, kind="teacher")
    answer = patch(api, upload, 0, content)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-upload")
    assert said in answer.json()["detail"]
    assert api.get(f"/v1/uploads/{upload}").json()["state"] == "uploading"


@pytest.mark.parametrize("content", [safetensors_file(8), b"PK\x03\x04 zipped", b"\x80\x02 pickled"])
def test_a_teacher_then_waits_for_its_inspection(api: TestClient, content: bytes) -> None:
    upload = begin(api, content, kind="teacher")
    assert patch(api, upload, 0, content).status_code == 204
    assert api.get(f"/v1/uploads/{upload}").json()["inspection_state"] == "pending"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "model", "filename": "x", "size": 1}, "kind"),
        ({"kind": "teacher", "filename": "", "size": 1}, "filename"),
        ({"kind": "teacher", "filename": "x", "size": 0}, "size"),
        ({"kind": "teacher", "filename": "x", "size": 1, "sha256": "abc"}, "sha256"),
        ({"kind": "teacher", "filename": "x", "size": 1, "url": "http://x"}, "url"),
        ({"kind": "teacher", "filename": "x"}, "size"),
    ],
)
def test_bad_announcements(api: TestClient, body: dict[str, Any], field: str) -> None:
    answer = api.post("/v1/uploads", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("content", "kind", "status", "type"),
    [
        (b"{", "application/json", 400, "bad-request"),
        (b"[]", "application/json", 400, "bad-request"),
        (b"", "application/json", 400, "bad-request"),
        (b'{"filename": "a\\u0000b"}', "application/json", 400, "bad-request"),
        (b"[" * 100_000, "application/json", 400, "bad-request"),
        (b"{}", "text/plain", 415, "unsupported-media-type"),
        (b" " * ((1 << 20) + 1), "application/json", 413, "too-large"),
    ],
)
def test_announcements_that_are_none(api: TestClient, content: bytes, kind: str, status: int, type: str) -> None:
    answer = api.post("/v1/uploads", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{type}")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_too_large_a_file_is_refused_before_it_is_sent(api: TestClient, bench: Bench) -> None:
    size = bench.settings.max_upload_bytes + 1
    answer = api.post("/v1/uploads", json={"kind": "dataset", "filename": "x", "size": size})
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    assert str(bench.settings.max_upload_bytes) in answer.json()["detail"]


def test_headers_are_checked(api: TestClient) -> None:
    upload = begin(api, b"12345")
    no_offset = api.patch(f"/v1/uploads/{upload}", content=b"1", headers={"Content-Type": BINARY})
    assert no_offset.json()["errors"][0]["field"] == "upload-offset"
    form = api.patch(f"/v1/uploads/{upload}", content=b"1", headers={"Upload-Offset": "0", "Content-Type": "text/css"})
    assert form.status_code == 415
    assert patch(api, "upl_none", 0, b"1").status_code == 404


def test_an_upload_in_use_stays(api: TestClient, bench: Bench) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    job = bench.job(teacher=teacher, dataset=dataset)
    for upload in (teacher, dataset):
        answer = api.delete(f"/v1/uploads/{upload}")
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/upload-in-use")
        assert job in answer.json()["detail"]
    api.post(f"/v1/jobs/{job}/cancel")
    assert api.delete(f"/v1/uploads/{dataset}").status_code == 204
    assert not bench.storage.exists(f"uploads/{dataset}/data")
    assert api.get(f"/v1/uploads/{dataset}").status_code == 404


def send_part(address: tuple[str, int], upload: str, offset: int, content: bytes, announced: int) -> socket.socket:
    """Begin a PATCH and leave it hanging."""
    connection = socket.create_connection(address)
    head = (
        f"PATCH /v1/uploads/{upload} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpload-Offset: {offset}\r\n"
        f"Content-Type: {BINARY}\r\nContent-Length: {announced}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def send_first_part(bench: Bench, address: tuple[str, int], upload: str, content: bytes, size: int) -> socket.socket:
    """Begin a PATCH of all the content, and leave it hanging when its first bytes are in storage."""
    connection = send_part(address, upload, 0, content[:size], len(content))
    wait_for(lambda: bench.storage.exists(f"uploads/{upload}/data"))
    return connection


def status_line(connection: socket.socket) -> bytes:
    with connection:
        connection.settimeout(10)
        return connection.recv(1000).splitlines()[0]


def test_a_broken_connection_keeps_what_came(bench: Bench, address: tuple[str, int]) -> None:
    content = bytes(range(256)) * 4096
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        connection = send_part(address, upload, 0, content[:700_000], len(content))
        connection.close()
        offset = lambda: int(api.head(f"/v1/uploads/{upload}").headers["Upload-Offset"])  # noqa: E731
        wait_for(lambda: offset() > 0)
        start = offset()
        assert start <= 700_000
        assert patch(api, upload, start, content[start:]).status_code == 204
        assert api.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_newer_request_takes_over_from_one_that_hangs(bench: Bench, address: tuple[str, int]) -> None:
    content = bytes(range(256)) * 8192
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        hanging = send_first_part(bench, address, upload, content, 1_200_000)
        assert patch(api, upload, 0, content).status_code == 204
        # What the first still sends changes nothing.
        hanging.sendall(b"\0" * (len(content) - 1_200_000))
        assert b" 409 " in status_line(hanging)
        assert api.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(content).hexdigest()
        with bench.storage.open(f"uploads/{upload}/data") as file:
            assert file.read() == content


def test_a_newer_request_takes_over_from_another_process(
    bench: Bench, address: tuple[str, int], other_address: tuple[str, int]
) -> None:
    content = bytes(range(256)) * 16384
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        older = send_first_part(bench, address, upload, content, 1_200_000)
        newer = send_part(other_address, upload, 0, content[:3_000_000], len(content))
        wait_for(lambda: bench.storage.size(f"uploads/{upload}/data") > 2_000_000)
        # What the first still sends cuts nothing off.
        older.sendall(b"\0" * (len(content) - 1_200_000))
        assert b" 409 " in status_line(older)
        newer.sendall(content[3_000_000:])
        assert b" 204 " in status_line(newer)
        assert api.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(content).hexdigest()
        with bench.storage.open(f"uploads/{upload}/data") as file:
            assert file.read() == content


def test_a_request_at_the_wrong_offset_takes_nothing_over(bench: Bench, address: tuple[str, int]) -> None:
    content = bytes(range(256)) * 8192
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        sending = send_first_part(bench, address, upload, content, 1_200_000)
        assert patch(api, upload, 5, content[5:]).status_code == 409
        sending.sendall(content[1_200_000:])
        assert b" 204 " in status_line(sending)


def test_nothing_is_stored_for_an_upload_that_was_deleted(bench: Bench, address: tuple[str, int]) -> None:
    content = bytes(range(256)) * 16384
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        sending = send_first_part(bench, address, upload, content, 1_200_000)
        assert api.delete(f"/v1/uploads/{upload}").status_code == 204
        sending.sendall(content[1_200_000:])
        assert b" 404 " in status_line(sending)
        assert bench.storage.list(f"uploads/{upload}/") == []


def test_waiting_for_an_inspection(api: TestClient, bench: Bench) -> None:
    content = safetensors_file(8)
    upload = begin(api, content, kind="teacher")
    patch(api, upload, 0, content)

    def finish() -> None:
        time.sleep(0.5)
        bench.inspected(upload)

    thread = threading.Thread(target=finish)
    thread.start()
    shown = api.get(f"/v1/uploads/{upload}", params={"wait": 30}).json()
    thread.join()
    assert shown["inspection_state"] == "done"
    assert shown["inspection"]["students"][0]["depth"] == 8
