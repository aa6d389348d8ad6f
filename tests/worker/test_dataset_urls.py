"""Data sets by URL: the worker fetches them from a store that the operator allows, on a real S3 server."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobs.settings import Settings
from jobs.storage import dataset_stores
from jobs.storage.dataset_stores import DatasetRefused, fetch_dataset
from jobs.storage.faults import StorageFault
from jobs.storage.object_stores import open_store
from lit_spec.trainer.run import DatasetOrigin
from tests.s3 import S3Server
from tests.worker.bench import Bench

Put = Callable[[str, bytes], Any]


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture
def settings(bucket: str) -> Settings:
    return Settings(dataset_stores=f"s3://{bucket}/team", storage_retry_seconds=0, max_upload_bytes=10_000_000)


@pytest.fixture
def put(bucket: str, settings: Settings) -> Put:
    store = open_store(f"s3://{bucket}", settings)
    return lambda key, content: obstore.put(store, key, content)


def fetch(settings: Settings, url: str, path: Path) -> DatasetOrigin:
    return fetch_dataset(settings, url, path, lambda: None)


def test_a_file_is_fetched_and_its_etag_noted(settings: Settings, put: Put, bucket: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    put("team/a set.npz", content)
    url = f"s3://{bucket}/team/a set.npz"
    origin = fetch(settings, url, tmp_path / "dataset")
    assert (tmp_path / "dataset").read_bytes() == content
    assert (origin.url, origin.files, origin.bytes) == (url, 1, len(content))
    put("team/a set.npz", content)
    assert fetch(settings, url, tmp_path / "dataset") == origin
    put("team/a set.npz", content[::-1])
    assert fetch(settings, url, tmp_path / "dataset").etag != origin.etag


def test_a_folder_becomes_an_archive(
    settings: Settings, put: Put, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_stores, "SMALL_BYTES", 1000)
    files = {f"{split}/{name}.png": f"{split} {name}".encode() * 40 for split in ("train", "test") for name in "abc"}
    files["train/large.png"] = bytes(range(256)) * 10
    for name, content in files.items():
        put(f"team/pictures/{name}", content)
    put("team/pictures2/other.png", b"of another folder")
    url = f"s3://{bucket}/team/pictures/"
    origin = fetch(settings, url, tmp_path / "dataset")
    with zipfile.ZipFile(tmp_path / "dataset") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
    assert (origin.files, origin.bytes) == (7, sum(map(len, files.values())))
    packed = (tmp_path / "dataset").read_bytes()
    assert fetch(settings, url, tmp_path / "dataset") == origin
    assert (tmp_path / "dataset").read_bytes() == packed
    put("team/pictures/train/a.png", b"another")
    assert fetch(settings, url, tmp_path / "dataset").etag != origin.etag


def test_what_can_not_be_fetched_is_refused(settings: Settings, put: Put, bucket: str, tmp_path: Path) -> None:
    put("team/large", bytes(2000))
    put("team-2/other", b"x")
    small = settings.model_copy(update={"max_upload_bytes": 1000})
    bare = settings.model_copy(update={"dataset_stores": "s3://no-such-bucket/"})
    refused = [
        (settings, f"s3://{bucket}/team/nothing", "there is no object"),
        (settings, f"s3://{bucket}/team/nothing/", "there is no object"),
        (settings, f"s3://{bucket}/team-2/other", "LIT_DATASET_STORES"),
        (small, f"s3://{bucket}/team/large", "2000 bytes"),
        (small, f"s3://{bucket}/team/", "2000 bytes"),
        (bare, "s3://no-such-bucket/a", "there is no object"),
        (bare, "s3://no-such-bucket/a/", "there is no object"),
    ]
    for used, url, reason in refused:
        with pytest.raises(DatasetRefused, match=reason):
            fetch(used, url, tmp_path / "dataset")


def test_an_outage_is_no_refusal(
    settings: Settings, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageFault, match="can't be reached"):
        fetch(settings, f"s3://{bucket}/team/a", tmp_path / "dataset")


def test_a_job_whose_data_set_is_missing_fails_and_one_during_an_outage_waits(
    bench: Bench, settings: Settings, put: Put, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket}/team/data.npz"
    bench.settings = bench.settings.model_copy(
        update={"dataset_stores": settings.dataset_stores, "storage_retry_seconds": 0}
    )
    missing = bench.job(dataset_url=url)
    assert bench.work("succeed") == 1
    row = bench.row(missing)
    assert row.state == "failed"
    assert row.error is not None
    assert (row.error["type"], row.error["field"]) == ("bad-dataset", "dataset.url")
    assert f"there is no object {url}" in row.error["detail"]


def test_the_api_takes_only_urls_in_allowed_stores(bench: Bench, bucket: str, settings: Settings) -> None:
    teacher = bench.teacher()

    def ask(used: Settings, url: str) -> tuple[int, str]:
        with TestClient(create_app(used, keyless=True), base_url="http://127.0.0.1:8000") as api:
            job = {"teacher": teacher, "student": {"depth": 14}, "dataset": {"url": url}}
            answer = api.post("/v1/jobs", json=job)
            return answer.status_code, answer.text

    allowing = bench.settings.model_copy(update={"dataset_stores": settings.dataset_stores})
    assert ask(allowing, f"s3://{bucket}/team/data.npz")[0] == 202
    for url in (f"s3://{bucket}/team-2/data.npz", f"s3://{bucket}/", "gs://elsewhere/a"):
        status, told = ask(allowing, url)
        assert (status, f"only from s3://{bucket}/team/" in told) == (422, True), told
    assert "LIT_DATASET_STORES is not set" in ask(bench.settings, f"s3://{bucket}/team/data.npz")[1]
    for url in (f"https://{bucket}/team", f"s3://{bucket}/team/../b", f"s3://{bucket}", f"s3://{bucket}/a?b"):
        status, told = ask(allowing, url)
        assert (status, "is not the URL of a data set" in told) == (422, True), told
