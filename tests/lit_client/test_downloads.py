"""Resumable, verified downloads over connections that break."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact
from lit_client import ChecksumError, Client, LitError, TransferError
from tests.jobs.study_bench import take
from tests.lit_client.faults import Fault, FaultyTransport
from tests.lit_client.scripted_worker import RESULT, store
from tests.worker.bench import Bench

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MODEL = "model.safetensors"
PART = f".{MODEL}.{SHA256[:16]}.part"


def finished(bench: Bench, stored: bytes | None = None) -> str:
    """A job with two files."""
    job = bench.job()
    claim = take(bench)
    files = [store(bench, claim, MODEL, CONTENT, stored), store(bench, claim, "config.json", b"{}")]
    with bench.database.session() as session:
        attempts.succeed(session, claim, RESULT, files)
    return job


@pytest.fixture
def job(bench: Bench) -> str:
    return finished(bench)


def cut_file(transport: FaultyTransport, *after: int) -> None:
    """The listing comes first; what follows is the file."""
    transport.faults["GET"].extend([None, *(Fault(cut_answer_after=count) for count in after)])


def ranges(transport: FaultyTransport) -> list[str | None]:
    return [request.headers.get("Range") for request in transport.requests if request.url.path.endswith(MODEL)]


def test_a_download_verifies_and_leaves_only_the_files(client: Client, job: str, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    files = client.download(job, tmp_path / "new", progress=lambda done, total: progress.append((done, total)))
    assert [file.path.name for file in files] == [MODEL, "config.json"]
    assert files[0].path.read_bytes() == CONTENT
    assert files[0].sha256 == SHA256
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", MODEL]
    assert progress[-1] == (3_000_002, 3_000_002)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_a_broken_connection_is_resumed_by_range(
    client: Client, transport: FaultyTransport, job: str, tmp_path: Path
) -> None:
    cut_file(transport, 1_000_000, 500_000, 0)
    files = client.download(job, tmp_path, [MODEL])
    assert files[0].path.read_bytes() == CONTENT
    assert ranges(transport) == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]
    assert transport.received_bytes == 3_000_000, "no byte was fetched twice"


def test_stops_after_bounded_tries_and_a_later_call_goes_on(
    client: Client, transport: FaultyTransport, job: str, tmp_path: Path
) -> None:
    cut_file(transport, 1_000_000, 0, 0, 0, 0)
    with pytest.raises(TransferError, match="stopped at 1000000 of 3000000 bytes"):
        client.download(job, tmp_path, [MODEL])
    assert not (tmp_path / MODEL).exists(), "half a file never has the whole one's name"
    client.download(job, tmp_path, [MODEL])
    assert (tmp_path / MODEL).read_bytes() == CONTENT
    assert transport.received_bytes == 3_000_000


def test_a_proxy_without_ranges_starts_again(
    client: Client, transport: FaultyTransport, job: str, tmp_path: Path
) -> None:
    transport.dropped_headers = {"Range", "If-Range"}
    cut_file(transport, 1_000_000)
    client.download(job, tmp_path, [MODEL])
    assert (tmp_path / MODEL).read_bytes() == CONTENT
    assert transport.received_bytes == 4_000_000


def test_a_damaged_rest_of_an_earlier_run_is_fetched_anew(client: Client, job: str, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(bytes(1_000_000))
    client.download(job, tmp_path, [MODEL])
    assert (tmp_path / MODEL).read_bytes() == CONTENT
    assert not (tmp_path / PART).exists()


def test_a_rest_that_is_too_long_is_fetched_anew(client: Client, job: str, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT + b"x")
    client.download(job, tmp_path, [MODEL])
    assert (tmp_path / MODEL).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_not_kept(client: Client, bench: Bench, tmp_path: Path) -> None:
    job = finished(bench, stored=b"x" + CONTENT[1:])
    (tmp_path / MODEL).write_bytes(b"an earlier student")
    with pytest.raises(ChecksumError, match=SHA256):
        client.download(job, tmp_path, [MODEL])
    assert (tmp_path / MODEL).read_bytes() == b"an earlier student"
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]


def test_a_whole_file_is_left_alone(client: Client, transport: FaultyTransport, job: str, tmp_path: Path) -> None:
    client.download(job, tmp_path)
    fetched = transport.received_bytes
    client.download(job, tmp_path)
    assert transport.received_bytes == fetched == 3_000_002


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a\\b", "", ".hidden", ".."])
def test_names_that_leave_the_folder_are_refused(client: Client, bench: Bench, tmp_path: Path, name: str) -> None:
    job = bench.job()
    with bench.database.session() as session:
        attempts.succeed(session, take(bench), RESULT, [Artifact(name, "anywhere", 1, "0" * 64)])
    with pytest.raises(TransferError, match="not a plain file name"):
        client.download(job, tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_unknown_names_say_what_there_is(client: Client, job: str, tmp_path: Path) -> None:
    with pytest.raises(LitError, match=r"no report\.json; it has model\.safetensors, config\.json"):
        client.download(job, tmp_path, ["report.json"])
