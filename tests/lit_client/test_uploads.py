"""Resumable uploads over connections that break."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lit_client import Client, ProblemError, TransferError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    path.write_bytes(random.Random(0).randbytes(35_000))
    return path


def test_upload_arrives_whole_and_reports_progress(client, faulty, file):
    seen = []
    upload = client.upload(file, "dataset", lambda done, total: seen.append((done, total)))
    assert upload.complete
    assert upload.kind == "dataset"
    assert bytes(faulty.data[upload.id]) == file.read_bytes()
    assert seen == [(0, 35_000), (10_000, 35_000), (20_000, 35_000), (30_000, 35_000), (35_000, 35_000)]


def test_broken_connections_cost_only_what_had_not_arrived(client, faulty, fault, file):
    faulty.faults["PATCH"].extend([None, fault(after_bytes=4_321), fault(after_bytes=0), None, fault(after_bytes=1)])
    upload = client.upload(file, "dataset")
    assert upload.complete
    assert bytes(faulty.data[upload.id]) == file.read_bytes()
    assert faulty.body_bytes == 35_000, "no byte that the service had was sent again"
    assert faulty.count("HEAD", upload.id) == 3


def test_lost_answer_to_the_last_piece_is_no_failure(client, faulty, fault, file):
    faulty.faults["PATCH"].extend([None, None, None, fault(lose_answer=True)])
    upload = client.upload(file, "dataset")
    assert upload.complete
    assert faulty.body_bytes == 35_000
    assert faulty.count("PATCH", upload.id) == 4


def test_offset_mismatch_goes_on_where_the_service_stands(client, faulty, file):
    def lose_tail(done: int, total: int) -> None:
        if done == 20_000 and not lost:
            lost.append(True)
            del faulty.data["upl_0"][12_345:]

    lost: list[bool] = []
    upload = client.upload(file, "dataset", lose_tail)
    assert lost
    assert bytes(faulty.data[upload.id]) == file.read_bytes()


def test_busy_service_is_asked_again(client, faulty, fault, file):
    faulty.faults["PATCH"].extend([fault(status=503), None, fault(status=502)])
    faulty.faults["POST"].append(fault(status=503, headers={"Retry-After": "0"}))
    assert client.upload(file, "dataset").complete


def test_gives_up_after_bounded_tries_and_a_later_call_goes_on(client, faulty, fault, file):
    faulty.faults["PATCH"].extend([None, *(fault(after_bytes=0) for _ in range(4))])
    with pytest.raises(TransferError, match=r"stopped at 10000 of 35000 bytes.*Send it again"):
        client.upload(file, "dataset")
    assert faulty.count("PATCH", "upl_0") == 1 + 1 + 3, "the first try and as many retries as asked for"

    with Client(client.base_url, chunk_bytes=10_000) as later:
        upload = later.upload(file, "dataset")
    assert upload.id == "upl_0"
    assert bytes(faulty.data["upl_0"]) == file.read_bytes()
    assert faulty.body_bytes == 35_000


def test_the_same_file_is_not_sent_twice(client, faulty, file):
    first = client.upload(file, "dataset")
    seen = []
    second = client.upload(file, "dataset", lambda done, total: seen.append((done, total)))
    assert second.id == first.id
    assert faulty.body_bytes == 35_000
    assert seen == [(35_000, 35_000)]


def test_file_that_changes_underway_is_refused_in_the_services_words(client, file):
    def overwrite(done: int, total: int) -> None:
        if done == 10_000:
            file.write_bytes(bytes(35_000))

    with pytest.raises(ProblemError) as caught:
        client.upload(file, "dataset", overwrite)
    assert caught.value.type == "checksum-mismatch"
    assert caught.value.status == 422


def test_file_that_shrinks_underway_is_named(client, file):
    def cut(done: int, total: int) -> None:
        file.write_bytes(b"short")

    with pytest.raises(TransferError, match=r"data\.npz became shorter"):
        client.upload(file, "dataset", cut)


def test_unknown_kind_is_refused_here(client, faulty, file):
    with pytest.raises(ValueError, match="student"):
        client.upload(file, "student")
    assert not faulty.requests
