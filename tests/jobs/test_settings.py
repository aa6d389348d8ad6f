"""The settings, by the names that they have in the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from jobs.database.connection import Database, connection_string, database_url
from jobs.settings import Settings

ROOT = Path.cwd()
HUGE = str(2**63 - 1)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("LIT_") or name.upper() in {"DATABASE_URL", "REDIS_URL", "MLFLOW_TRACKING_URI"}:
            monkeypatch.delenv(name)


def test_the_environment_names_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "DATABASE_URL": "postgresql://user@host/lit",
        "REDIS_URL": "redis://host:6379/0",
        "LIT_DATA_DIR": "/data",
        "LIT_STORAGE_DIR": "/shared",
        "LIT_STORAGE_URL": "s3://bucket/prefix",
        "LIT_STORAGE_ENCRYPTION": "aws:kms",
        "LIT_STORAGE_KMS_KEY": "a-key",
        "LIT_STORAGE_TIMEOUT_SECONDS": "20.0",
        "LIT_STORAGE_RETRY_SECONDS": "10.0",
        "LIT_PRESIGNED_SECONDS": "60",
        "LIT_DATASET_STORES": "s3://data/,gs://more/of/it/",
        "LIT_DATASETS_DIR": "/datasets",
        "LIT_DATASETS_DOWNLOAD": "True",
        "LIT_DATA_STORE_BYTES": "8000",
        "LIT_DATA_STORE_DAYS": "2.0",
        "LIT_DISK_RESERVE_BYTES": "9000",
        "LIT_FEATURE_NETWORK": "/features.pt2",
        "LIT_HOST": "0.0.0.0",
        "LIT_PORT": "0",
        "LIT_API_WORKERS": "3",
        "LIT_TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8",
        "LIT_NODE_ADDRESS": "10.0.0.7",
        "LIT_JOIN_SECONDS": "60.0",
        "LIT_LEASE_SECONDS": "20.0",
        "LIT_HOUSEKEEPING_SECONDS": "0.5",
        "LIT_RESTART_SECONDS": "0.25",
        "LIT_MAX_UPLOAD_BYTES": "1000",
        "LIT_WORKER_DEVICES": "cpu,cuda",
        "LIT_THREADS": "2",
        "LIT_INSPECT_TIMEOUT_SECONDS": "30.5",
        "LIT_INSPECT_MEMORY_BYTES": "2000",
        "LIT_TRAINER_MEMORY_BYTES": "3000",
        "LIT_TRAINER_DATA_BYTES": "4000",
        "LIT_TRAINER_CPU_SECONDS": "60",
        "LIT_TRAINER_FILE_BYTES": "5000",
        "LIT_TRAINER_DISK_BYTES": "6000",
        "LIT_TEACHER_CACHE_BYTES": "8000",
        "LIT_TEACHER_CACHE_JOB_BYTES": "7000",
        "LIT_PUBLIC_URL": "https://lit.example.com/base",
        "LIT_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/8,fd00::/8",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "LIT_MLFLOW_TRACKING_URIS": "https://user:secret@mlflow.example.org,http://other:5000",
        "LIT_TRACKING_GIVE_UP_SECONDS": "60.0",
        "LIT_QUOTA_JOBS_QUEUED": "100",
        "LIT_QUOTA_JOBS_RUNNING": "3",
        "LIT_QUOTA_BYTES": "7000",
        "LIT_AUDIT_DAYS": "30",
        "LIT_OIDC_ISSUER": "https://issuer.example/realm",
        "LIT_OIDC_AUDIENCE": "lit",
        "LIT_OIDC_OWNER_CLAIM": "team",
        "LIT_OIDC_SCOPE_CLAIM": "realm_access.roles",
        "LIT_OIDC_SCOPES": "read=*,admin=operators",
        "LIT_WARM_TRAINER": "False",
        "LIT_RETENTION_DAYS": "90.0",
        "LIT_UPLOAD_RETENTION_DAYS": "0.5",
        "LIT_LOG_FORMAT": "json",
        "LIT_METRICS_TOKEN": "a-token-of-prometheus",
        "LIT_WORKER_METRICS_PORT": "9464",
        "LIT_WORKER_METRICS_HOST": "0.0.0.0",
    }
    defaults = Settings().model_dump(mode="json")
    assert (defaults["database_url"], defaults["redis_url"], defaults["data_dir"]) == (None, None, ".lit")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    read = Settings().model_dump(mode="json")
    plain = {"database_url", "redis_url", "mlflow_tracking_uri"}
    names = {field: field.upper() if field in plain else f"LIT_{field.upper()}" for field in read}
    assert sorted(names.values()) == sorted(environment)
    for field, value in read.items():
        assert str(value) == environment[names[field]]
        assert value != defaults[field]


def test_another_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Settings(
        DATABASE_URL="postgresql://user@host/lit",
        REDIS_URL="redis://host",
        data_dir=Path("d"),
        datasets_download=True,
        port=0,
        worker_devices="cpu",
        public_url="https://lit.example.com",
    )
    # What an option has replaced is not read again.
    monkeypatch.setenv("LIT_PORT", "many")
    for name, value in given.as_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    folders = {"data_dir": ROOT / "d", "storage_dir": ROOT / "d/storage"}
    assert Settings().model_dump() == given.model_dump() | folders


def test_files_lie_in_the_data_folder_unless_said_otherwise() -> None:
    assert Settings(data_dir=Path("d")).storage_root == Path("d/storage")
    assert Settings(data_dir=Path("d"), storage_dir=Path("s")).storage_root == Path("s")


@pytest.mark.parametrize("seconds", ["1", "15", "3600"])
def test_the_lease_can_be_set_alone(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("LIT_LEASE_SECONDS", seconds)
    assert Settings().lease_seconds == float(seconds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIT_PORT", "65536"),
        ("LIT_QUOTA_JOBS_RUNNING", "0"),
        ("LIT_AUDIT_DAYS", "0"),
        ("LIT_OIDC_ISSUER", "http://issuer.example"),
        ("LIT_OIDC_AUDIENCE", "lit"),
        ("LIT_OIDC_SCOPES", "root=operators"),
        ("LIT_OIDC_SCOPES", "admin"),
        ("LIT_HOST", ""),
        ("LIT_HOST", "http://127.0.0.1"),
        ("LIT_HOST", "127.0.0.1:8000"),
        ("LIT_HOST", "[::1]"),
        ("LIT_WORKER_DEVICES", "tpu"),
        ("LIT_WORKER_DEVICES", ","),
        ("LIT_HOUSEKEEPING_SECONDS", "inf"),
        ("LIT_THREADS", "0"),
        ("LIT_LEASE_SECONDS", "soon"),
        ("LIT_LEASE_SECONDS", "nan"),
        ("LIT_LEASE_SECONDS", "0.9"),
        ("LIT_PUBLIC_URL", "lit.example.com"),
        ("LIT_PUBLIC_URL", "https:///path"),
        ("LIT_PUBLIC_URL", "https://lit.example.com/?a=1"),
        ("LIT_WEBHOOK_ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("LIT_WEBHOOK_ALLOWED_NETWORKS", "localhost"),
        ("LIT_LOG_FORMAT", "xml"),
        ("LIT_STORAGE_URL", "/srv/lit"),
        ("LIT_STORAGE_ENCRYPTION", "rot13"),
        ("LIT_STORAGE_RETRY_SECONDS", "300"),
        ("LIT_PRESIGNED_SECONDS", "604801"),
        ("LIT_DATASET_STORES", "s3://data,https://host/data"),
        ("LIT_RETENTION_DAYS", "0"),
        ("LIT_RETENTION_DAYS", HUGE),
        ("LIT_UPLOAD_RETENTION_DAYS", "nan"),
        ("LIT_TRUSTED_PROXIES", "*"),
        ("LIT_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("LIT_THREADS", HUGE),
        ("LIT_LEASE_SECONDS", HUGE),
        ("LIT_HOUSEKEEPING_SECONDS", HUGE),
        ("LIT_RESTART_SECONDS", HUGE),
        ("LIT_INSPECT_TIMEOUT_SECONDS", HUGE),
        ("LIT_INSPECT_MEMORY_BYTES", HUGE),
        ("LIT_MAX_UPLOAD_BYTES", HUGE),
        ("LIT_TRAINER_MEMORY_BYTES", HUGE),
        ("LIT_TRAINER_DATA_BYTES", HUGE),
        ("LIT_TRAINER_CPU_SECONDS", HUGE),
        ("LIT_TRAINER_FILE_BYTES", HUGE),
        ("LIT_TRAINER_DISK_BYTES", HUGE),
        ("LIT_TEACHER_CACHE_BYTES", HUGE),
        ("LIT_TEACHER_CACHE_JOB_BYTES", HUGE),
        ("LIT_METRICS_TOKEN", "short"),
        ("LIT_METRICS_TOKEN", "with a blank in it, so"),
        ("LIT_WORKER_METRICS_PORT", "0"),
        ("LIT_WORKER_METRICS_PORT", "65535"),
        ("LIT_WORKER_METRICS_HOST", "http://worker"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("LIT_").lower()):
        Settings()


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "fe80::1%eth0", "gpu_1.lab.example.", "127.0.0.1"])
def test_hosts_are_names_and_addresses(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_database_url_is_read_however_its_scheme_is_spelled(scheme: str) -> None:
    url = f"{scheme}://user:p%40ss@host:5433/lit?sslmode=require"
    read = database_url(url)
    assert (read.drivername, read.password) == ("postgresql+psycopg", "p@ss")
    outside_the_pool = conninfo_to_dict(connection_string(url))
    assert outside_the_pool["password"] == "p@ss"
    assert (outside_the_pool["host"], outside_the_pool["port"], outside_the_pool["sslmode"]) == (
        "host",
        "5433",
        "require",
    )


@pytest.mark.parametrize("url", ["mysql://user:secret@host/lit", "sqlite:///lit.db", "postgresql+psycopg2://host/lit"])
def test_another_database_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match=r"DATABASE_URL has the scheme .*: it must be postgresql://") as refused:
        Database(url)
    assert f"scheme {url.split(':', maxsplit=1)[0]}:" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "host:5432/lit", "postgresql//host/lit"])
def test_what_is_no_url_is_refused_as_well(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        database_url(url)
