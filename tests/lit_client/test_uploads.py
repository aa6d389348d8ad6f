"""Resumable uploads over connections that break."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from jobs.database.models import Upload as UploadRow
from lit_client import Client, ProblemError, TransferError
from lit_client.models import Upload
from tests.lit_client.faults import Fault, FaultyTransport, busy, lost_answer
from tests.small_disks import files_up_to
from tests.worker.bench import Bench

SIZE = 35_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return path


def stored(bench: Bench, upload: Upload) -> bytes:
    with bench.storage.open(f"uploads/{upload.id}/data") as content:
        return content.read()


def test_an_upload_arrives_whole_and_reports_progress(client: Client, bench: Bench, file: Path) -> None:
    progress: list[tuple[int, int]] = []
    upload = client.upload(file, "dataset", lambda done, total: progress.append((done, total)))
    assert upload.complete
    assert upload.kind == "dataset"
    assert stored(bench, upload) == file.read_bytes()
    assert progress == [(0, SIZE), (10_000, SIZE), (20_000, SIZE), (30_000, SIZE), (SIZE, SIZE)]


def test_broken_connections_cost_only_what_had_not_arrived(
    client: Client, transport: FaultyTransport, bench: Bench, file: Path
) -> None:
    transport.faults["PATCH"].extend([None, Fault(cut_after=4_321), Fault(cut_after=0), None, Fault(cut_after=1)])
    upload = client.upload(file, "dataset")
    assert upload.complete
    assert stored(bench, upload) == file.read_bytes()
    assert transport.count("HEAD", upload.id) == 3
    assert transport.unasked == 0, "no byte that the service had was sent again"


def test_a_full_disk_of_the_service_is_told_at_once_and_the_next_call_goes_on(
    client: Client, transport: FaultyTransport, bench: Bench, file: Path
) -> None:
    with files_up_to(15_000), pytest.raises(ProblemError, match="the disk of the storage is full") as refused:
        client.upload(file, "dataset")
    assert (refused.value.status, refused.value.type) == (507, "insufficient-storage")
    assert transport.count("PATCH", "/v1/uploads") == 2
    upload = client.upload(file, "dataset")
    assert stored(bench, upload) == file.read_bytes()
    assert transport.sent_bytes == SIZE + 10_000, "only the piece that did not fit was sent again"


def test_bytes_that_the_service_has_lost_are_sent_again(client: Client, bench: Bench, file: Path) -> None:
    lost: list[int] = []

    def lose(done: int, _total: int) -> None:
        if done == 20_000 and not lost:
            lost.append(done)
            bench.storage.delete_prefix("uploads/")

    upload = client.upload(file, "dataset", lose)
    assert (lost, upload.complete) == ([20_000], True)
    assert stored(bench, upload) == file.read_bytes()


def test_a_lost_answer_to_the_last_piece_is_no_failure(client: Client, transport: FaultyTransport, file: Path) -> None:
    transport.faults["PATCH"].extend([None, None, None, lost_answer()])
    upload = client.upload(file, "dataset")
    assert upload.complete
    assert transport.sent_bytes == SIZE
    assert transport.count("PATCH", upload.id) == 4


def test_a_lost_answer_to_a_piece_in_the_middle_sends_nothing_again(
    client: Client, transport: FaultyTransport, bench: Bench, file: Path
) -> None:
    transport.faults["PATCH"].extend([None, lost_answer()])
    upload = client.upload(file, "dataset")
    assert stored(bench, upload) == file.read_bytes()
    assert transport.sent_bytes == SIZE


def test_an_offset_mismatch_goes_on_where_the_service_is(
    client: Client, transport: FaultyTransport, bench: Bench, file: Path
) -> None:
    def lose_tail(done: int, total: int) -> None:
        if done == 20_000 and not lost:
            lost.append(True)
            with bench.database.session() as session:
                session.execute(update(UploadRow).values(received=12_345))

    lost: list[bool] = []
    upload = client.upload(file, "dataset", lose_tail)
    assert lost
    assert upload.complete
    assert stored(bench, upload) == file.read_bytes()
    offsets = [request.headers["Upload-Offset"] for request in transport.requests if request.method == "PATCH"]
    assert offsets == ["0", "10000", "20000", "12345", "22345", "32345"]


def test_a_busy_service_is_asked_again(client: Client, transport: FaultyTransport, file: Path) -> None:
    transport.faults["PATCH"].extend([busy(503), None, busy(502)])
    transport.faults["POST"].append(busy(503, retry_after="0"))
    assert client.upload(file, "dataset").complete


def test_gives_up_after_bounded_tries_and_a_later_call_goes_on(
    client: Client, transport: FaultyTransport, bench: Bench, file: Path
) -> None:
    transport.faults["PATCH"].extend([None, *(Fault(cut_after=0) for _ in range(4))])
    with pytest.raises(TransferError, match=r"stopped at 10000 of 35000 bytes.*Send it again"):
        client.upload(file, "dataset")
    assert transport.count("PATCH", "/v1/uploads") == 1 + 1 + 3, "the first try and as many retries as asked for"
    (unfinished,) = client.uploads()

    again = FaultyTransport()
    with Client(client.base_url, chunk_bytes=10_000, transport=again) as later:
        upload = later.upload(file, "dataset")
    assert upload.id == unfinished.id
    assert stored(bench, upload) == file.read_bytes()
    assert transport.sent_bytes + again.sent_bytes == SIZE


def test_the_same_file_is_not_sent_twice(client: Client, transport: FaultyTransport, file: Path) -> None:
    first = client.upload(file, "dataset")
    progress: list[tuple[int, int]] = []
    second = client.upload(file, "dataset", lambda done, total: progress.append((done, total)))
    assert second.id == first.id
    assert transport.sent_bytes == SIZE
    assert progress == [(SIZE, SIZE)]


def test_a_file_that_changes_underway_is_refused_in_the_services_words(client: Client, file: Path) -> None:
    def overwrite(done: int, total: int) -> None:
        if done == 10_000:
            file.write_bytes(bytes(SIZE))

    with pytest.raises(ProblemError) as caught:
        client.upload(file, "dataset", overwrite)
    assert caught.value.type == "checksum-mismatch"
    assert caught.value.status == 422


def test_a_file_that_shrinks_underway_is_named(client: Client, file: Path) -> None:
    def cut(done: int, total: int) -> None:
        file.write_bytes(b"short")

    with pytest.raises(TransferError, match=r"data\.npz became shorter"):
        client.upload(file, "dataset", cut)


def test_an_unknown_kind_is_refused_before_anything_is_sent(
    client: Client, transport: FaultyTransport, file: Path
) -> None:
    with pytest.raises(ValueError, match="student"):
        client.upload(file, "student")
    assert not transport.requests


def test_a_service_that_is_gone_is_named(client: Client, transport: FaultyTransport, file: Path) -> None:
    transport.faults["PATCH"].extend(Fault(refused=httpx.ConnectError("connection refused")) for _ in range(4))
    with pytest.raises(TransferError, match="No LIT service answers"):
        client.upload(file, "dataset")
