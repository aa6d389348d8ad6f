"""Resumable, verified downloads over connections that break."""

from __future__ import annotations

import hashlib
import random

import pytest

from lit_client import ChecksumError, LitError, TransferError

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PART = f".model.safetensors.{SHA256[:16]}.part"


@pytest.fixture
def service(faulty):
    faulty.add_file("model.safetensors", CONTENT)
    faulty.add_file("config.json", b"{}")
    return faulty


def cut_file(service, fault, *after):
    """The listing comes first; what follows is the file."""
    service.faults["GET"].extend([None, *(fault(after_bytes=n) for n in after)])


def test_download_verifies_and_leaves_only_the_files(client, service, tmp_path):
    seen = []
    files = client.download("job_0", tmp_path / "new", progress=lambda done, total: seen.append((done, total)))
    assert [file.path.name for file in files] == ["model.safetensors", "config.json"]
    assert files[0].path.read_bytes() == CONTENT
    assert files[0].sha256 == SHA256
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    assert seen[-1] == (3_000_002, 3_000_002)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_broken_connection_is_resumed_by_range(client, service, fault, tmp_path):
    cut_file(service, fault, 1_000_000, 500_000, 0)
    files = client.download("job_0", tmp_path, ["model.safetensors"])
    assert files[0].path.read_bytes() == CONTENT
    ranges = [headers.get("Range") for method, path, headers in service.requests if path.endswith("model.safetensors")]
    assert ranges[0] is None
    assert ranges[1] == "bytes=1000000-"
    assert ranges[2:] == ["bytes=1500000-", "bytes=1500000-"]
    assert service.body_bytes == 3_000_000, "no byte was fetched twice"


def test_stops_after_bounded_tries_and_a_later_call_goes_on(client, service, fault, tmp_path):
    cut_file(service, fault, 1_000_000, 0, 0, 0, 0)
    with pytest.raises(TransferError, match="stopped at 1000000 of 3000000 bytes"):
        client.download("job_0", tmp_path, ["model.safetensors"])
    assert not (tmp_path / "model.safetensors").exists(), "half a file never has the whole one's name"
    client.download("job_0", tmp_path, ["model.safetensors"])
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT
    assert service.body_bytes == 3_000_000


def test_service_without_ranges_starts_again(client, service, fault, tmp_path):
    service.ranges = False
    cut_file(service, fault, 1_000_000)
    client.download("job_0", tmp_path, ["model.safetensors"])
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


def test_damaged_rest_of_an_earlier_run_is_fetched_anew(client, service, tmp_path):
    (tmp_path / PART).write_bytes(bytes(1_000_000))
    client.download("job_0", tmp_path, ["model.safetensors"])
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT
    assert not (tmp_path / PART).exists()


def test_rest_that_is_too_long_is_fetched_anew(client, service, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT + b"x")
    client.download("job_0", tmp_path, ["model.safetensors"])
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_not_kept(client, service, tmp_path):
    service.manifest = service.artifacts()
    service.files["model.safetensors"] = b"x" + CONTENT[1:]
    (tmp_path / "model.safetensors").write_bytes(b"an earlier student")
    with pytest.raises(ChecksumError, match=SHA256):
        client.download("job_0", tmp_path, ["model.safetensors"])
    assert (tmp_path / "model.safetensors").read_bytes() == b"an earlier student"
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_whole_file_is_left_alone(client, service, tmp_path):
    client.download("job_0", tmp_path)
    fetched = service.body_bytes
    client.download("job_0", tmp_path)
    assert service.body_bytes == fetched


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a\\b", "", ".hidden", ".."])
def test_names_that_leave_the_folder_are_refused(client, service, tmp_path, name):
    service.manifest = [{"name": name, "size": 1, "sha256": "0" * 64}]
    with pytest.raises(TransferError, match="not a plain file name"):
        client.download("job_0", tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_unknown_names_say_what_there_is(client, service, tmp_path):
    with pytest.raises(LitError, match=r"no report\.json; it has model\.safetensors, config\.json"):
        client.download("job_0", tmp_path, ["report.json"])
