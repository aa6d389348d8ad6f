"""Disks that are full or can't be written: which one it is, what is kept, and that everything goes on by itself."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

import api.broker
from api import readiness
from api.app import create_app
from api.readiness import Readiness
from jobs.broker.wakeups import Wakeups
from jobs.database.connection import Database
from jobs.settings import Settings
from jobs.storage.folder import FolderStorage
from tests.small_disks import MIB, files_up_to, fill, mounted, remount
from tests.worker.bench import Bench
from tests.worker.databases import DatabaseServer

PATCH_HEADERS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(autouse=True)
def fresh_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """/readyz looks whenever it is asked."""
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)


@contextmanager
def api_with(settings: Settings) -> Iterator[TestClient]:
    with TestClient(
        create_app(settings, keyless=True), base_url="http://127.0.0.1:8000", raise_server_exceptions=False
    ) as client:
        yield client


def announce(client: TestClient, size: int) -> str:
    answer = client.post("/v1/uploads", json={"kind": "dataset", "filename": "data.npz", "size": size})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def send(client: TestClient, upload: str, content: bytes, offset: int = 0) -> tuple[int, str, str]:
    """Status, type and detail of the answer."""
    headers = {**PATCH_HEADERS, "Upload-Offset": str(offset)}
    answer = client.patch(f"/v1/uploads/{upload}", content=content, headers=headers)
    problem = answer.json() if answer.content else {}
    return answer.status_code, problem.get("type", ""), problem.get("detail", "")


def received(client: TestClient, upload: str) -> int:
    return int(client.head(f"/v1/uploads/{upload}").headers["Upload-Offset"])


def readiness_of(client: TestClient) -> tuple[int, str]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json().get("detail", "")


def test_an_upload_to_a_full_storage_keeps_what_came_and_goes_on_when_there_is_space(
    bench: Bench, tmp_path: Path
) -> None:
    content = os.urandom(3 * MIB)
    with (
        mounted(tmp_path / "disk", 6 * MIB) as disk,
        api_with(bench.settings.model_copy(update={"storage_dir": disk})) as client,
    ):
        assert readiness_of(client) == (200, "")
        other, upload = announce(client, 2 * MIB), announce(client, len(content))
        assert send(client, other, bytes(2 * MIB))[0] == 204
        assert send(client, upload, content[:MIB])[0] == 204
        filler = fill(disk)
        full = (
            507,
            "/problems/insufficient-storage",
            "the disk of the storage is full: free space on it, then send the request again",
        )
        assert send(client, upload, content[MIB:], MIB) == full
        assert received(client, upload) == MIB
        assert readiness_of(client) == (503, "storage: its disk is full")
        # Space can be made through the service itself.
        assert client.delete(f"/v1/uploads/{other}").status_code == 204
        assert readiness_of(client) == (200, "")
        filler.unlink()
        assert send(client, upload, content[MIB:], MIB)[0] == 204
        assert client.get(f"/v1/uploads/{upload}").json()["state"] == "complete"

        remount(disk, "ro")
        status, kind, detail = send(client, announce(client, 1), b"x")
        assert (status, kind) == (503, "/problems/unavailable")
        assert detail.startswith("the storage can't be used (Read-only file system)")
        assert readiness_of(client) == (503, "storage: Read-only file system")
        remount(disk, "rw")
        assert readiness_of(client) == (200, "")


def test_an_upload_beyond_what_the_storage_takes(bench: Bench) -> None:
    with api_with(bench.settings) as client:
        upload = announce(client, 3 * MIB)
        assert send(client, upload, bytes(2 * MIB))[0] == 204
        with files_up_to(2 * MIB):
            status, kind, detail = send(client, upload, bytes(MIB), 2 * MIB)
        assert (status, kind) == (507, "/problems/insufficient-storage")
        assert detail.startswith("the disk of the storage is full")
        assert received(client, upload) == 2 * MIB
        with files_up_to(MIB // 2):
            assert readiness_of(client) == (503, "storage: its disk is full; temporary files: its disk is full")
        assert send(client, upload, bytes(MIB), 2 * MIB)[0] == 204


def send_form(client: TestClient, teacher: str) -> tuple[int, str]:
    job = f'{{"teacher": "{teacher}", "student": {{"depth": 8}}}}'
    answer = client.post("/v1/jobs", files={"dataset": ("data.npz", bytes(3 * MIB))}, data={"job": job})
    return answer.status_code, answer.json().get("detail", "")


@pytest.mark.usefixtures("inspected_datasets")
def test_a_form_that_does_not_fit_into_the_folder_for_temporary_files(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = bench.teacher()
    sentence = (
        "the disk of the folder for temporary files (TMPDIR) is full: free space on it, then send the request again"
    )
    with api_with(bench.settings) as client:
        with files_up_to(MIB // 2):
            assert send_form(client, teacher) == (507, sentence)
        with mounted(tmp_path / "disk", 2 * MIB) as disk:
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
            assert send_form(client, teacher) == (507, sentence)
            filler = fill(disk)
            assert readiness_of(client) == (503, "temporary files: its disk is full")
            filler.unlink()
            assert readiness_of(client) == (200, "")
            monkeypatch.undo()
        assert send_form(client, teacher)[0] == 202


def test_a_form_whose_files_do_not_fit_into_the_storage_leaves_nothing_there(bench: Bench, tmp_path: Path) -> None:
    teacher = bench.teacher()
    with (
        mounted(tmp_path / "disk", 2 * MIB) as disk,
        api_with(bench.settings.model_copy(update={"storage_dir": disk})) as client,
    ):
        assert readiness_of(client) == (200, "")
        status, detail = send_form(client, teacher)
        assert (status, detail.startswith("the disk of the storage is full")) == (507, True)
        assert [upload["id"] for upload in client.get("/v1/uploads").json()["items"]] == [teacher]
        assert readiness_of(client) == (200, "")


def test_a_full_disk_of_the_database_is_named(
    bench: Bench, database_server: DatabaseServer, migrated_template: str, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", 24 * MIB) as disk:
        owner = bench_owner(database_server)
        os.chown(disk, owner.pw_uid, owner.pw_gid)
        # Other users may pass through the folders of a test only if they are told.
        for folder in (disk, *disk.parents[:4]):
            folder.chmod(0o755)
        database_server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        database_server.execute(f"CREATE DATABASE on_small_disk TEMPLATE {migrated_template} TABLESPACE small")
        url = database_server.engine.url.set(database="on_small_disk").render_as_string(hide_password=False)
        try:
            with api_with(bench.settings.model_copy(update={"database_url": url})) as client:
                assert readiness_of(client) == (200, "")
                filler = fill(disk)
                answer = client.post("/v1/uploads", json={"kind": "dataset", "filename": "x", "size": 9})
                assert (answer.status_code, answer.json()["type"]) == (507, "/problems/insufficient-storage")
                assert answer.json()["detail"].startswith("the database's disk is full")
                assert readiness_of(client) == (503, "database: the database's disk is full")
                filler.unlink()
                announce(client, 9)
                assert readiness_of(client) == (200, "")
        finally:
            database_server.execute("DROP DATABASE on_small_disk WITH (FORCE)")
            database_server.execute("DROP TABLESPACE small")


def bench_owner(server: DatabaseServer) -> pwd.struct_passwd:
    """The user as whom PostgreSQL runs."""
    with server.engine.connect() as connection:
        folder = connection.scalar(text("SHOW data_directory"))
    return pwd.getpwuid(Path(str(folder)).stat().st_uid)


@pytest.mark.parametrize(
    ("sqlstate", "status", "said"),
    [
        ("53100", 507, "the database's disk is full, and only confirmed changes were made: free space"),
        ("53200", 503, "the database has no resources left"),
        ("58030", 503, "the database's disk has a fault"),
        ("25006", 503, "the database can only be read"),
        ("57P01", 503, "the database can't be reached"),
        ("XX000", 500, "the service failed"),
    ],
)
def test_what_the_database_reports_is_told_apart(bench: Bench, sqlstate: str, status: int, said: str) -> None:
    with bench.database.session() as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END $$"
            )
        )
        session.execute(text("CREATE TRIGGER refuse BEFORE INSERT ON uploads EXECUTE FUNCTION refuse()"))
    with api_with(bench.settings) as client:
        answer = client.post("/v1/uploads", json={"kind": "dataset", "filename": "x", "size": 9})
        assert answer.status_code == status
        assert answer.json()["detail"].startswith(said)
        with bench.database.session() as session:
            session.execute(text("DROP TRIGGER refuse ON uploads"))
        announce(client, 9)


def test_a_database_that_can_only_be_read_is_not_ready(bench: Bench) -> None:
    with bench.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.engine.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    with api_with(bench.settings) as client:
        assert readiness_of(client) == (503, "database: it can only be read")


class CountingStorage(FolderStorage):
    looks = 0

    def check(self) -> None:
        self.looks += 1
        super().check()


def test_many_who_ask_whether_the_service_is_ready_cause_one_look(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 60.0)
    storage = CountingStorage(tmp_path / "looked-at")
    wakeups = Wakeups(api.broker.make_app(bench.settings.redis_url or ""), bench.settings.redis_url or "")
    database = Database(bench.settings.database_url or "", pool_size=1)

    async def ask(times: int) -> list[list[str]]:
        ready = Readiness(database, wakeups, storage)
        answers = await asyncio.gather(*(ready.faults() for _ in range(times)))
        answers += [await ready.faults() for _ in range(times)]
        looks = storage.looks
        # It is found out that the storage is away, and that it is back.
        monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
        storage.root.rename(tmp_path / "away")
        answers.append(await ready.faults())
        (tmp_path / "away").rename(storage.root)
        answers.append(await ready.faults())
        assert (looks, storage.looks) == (1, 3)
        return answers

    try:
        assert asyncio.run(ask(20)) == [[]] * 40 + [["storage: No such file or directory"], []]
    finally:
        wakeups.close()
        database.close()
