"""Backups: what is taken from a running service comes back in an empty one, and nothing is overwritten."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs.database.connection import Database
from jobs.housekeeping import reap
from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact
from jobs.private_files import PRIVATE_UMASK
from jobs.storage.folder import FolderStorage
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.storage import Storage
from lit_client import Client
from lit_spec import SPEC_VERSION
from lit_spec.states import JobState
from service.backups import BackupFailed, restore_backup, take_backup
from service.running import own_environment, running_service
from tests.e2e.digits import QUICK, SHORT, TEACHER, images, write_npz
from tests.modes import open_to_others
from tests.worker.bench import Bench, make_bench
from tests.worker.databases import DatabaseServer

STUDENT = b"a student"
DIGEST = hashlib.sha256(STUDENT).hexdigest()


@pytest.fixture
def empty(database_server: DatabaseServer) -> Iterator[Database]:
    """A database without tables."""
    url = database_server.create()
    made = Database(url.render_as_string(hide_password=False), pool_size=2)
    yield made
    made.close()
    database_server.drop(url)


def succeeded(bench: Bench) -> str:
    job = bench.job()
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
        assert claim is not None
        key = f"jobs/{job}/1/output/model.safetensors"
        bench.storage.put_bytes(key, STUDENT)
        attempts.succeed(session, claim, {"student": {}}, [Artifact("model.safetensors", key, len(STUDENT), DIGEST)])
    return job


def test_a_backup_of_a_running_service_comes_back_in_an_empty_one(
    bench: Bench, empty: Database, tmp_path: Path, service_urls: tuple[str, str]
) -> None:
    finished = succeeded(bench)
    running = bench.job()
    with bench.database.session() as session:
        attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 0.0)

    class Busy(FolderStorage):
        """A file goes after the dump and before its turn."""

        def list(self, prefix: str) -> list[str]:
            return [*super().list(prefix), "uploads/gone/data"]

    os.umask(PRIVATE_UMASK)  # as the commands do
    copy = tmp_path / "copy"
    taken = take_backup(bench.database, Busy(bench.settings.storage_root), copy)
    assert taken.files == len(bench.storage.list(""))
    assert open_to_others(copy) == {}
    # What comes after the dump is not in it.
    later = bench.job()

    storage = FolderStorage(tmp_path / "restored")
    assert restore_backup(empty, storage, copy) == taken
    assert len(storage.list("")) == taken.files
    url = empty.engine.url.render_as_string(hide_password=False)
    back = make_bench(empty, url, service_urls[1], tmp_path / "other")
    back.storage = storage
    with empty.session() as session:
        assert storage_fault(storage, marker_key(session)) is None
        assert session.scalar(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": later}) == 0
        # Its worker has gone with the old service: the job goes on in the new one.
        assert reap(session, server_up_for=0.0) == [running]
    row = back.row(finished)
    assert row.manifest is not None
    with storage.open(row.manifest[0]["key"]) as file:
        assert file.read() == STUDENT
    with empty.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
    assert claim is not None
    assert (claim.job_id, back.row(running).state) == (running, JobState.RUNNING)
    # The triggers came too.
    with pytest.raises(Exception, match="terminal rows never change"), empty.session() as session:
        session.execute(text("UPDATE jobs SET name = name WHERE id = :id"), {"id": finished})


def test_nothing_is_overwritten_and_an_unfinished_backup_is_refused(
    bench: Bench, empty: Database, tmp_path: Path
) -> None:
    succeeded(bench)
    copy = tmp_path / "copy"
    take_backup(bench.database, bench.storage, copy)
    with pytest.raises(BackupFailed, match="is not empty: name a new folder"):
        take_backup(bench.database, bench.storage, copy)
    with pytest.raises(BackupFailed, match="the database is not empty"):
        restore_backup(bench.database, FolderStorage(tmp_path / "new"), copy)
    foreign: Storage = FolderStorage(tmp_path / "foreign")
    foreign.put_bytes("uploads/upl_other/data", b"other")
    with pytest.raises(BackupFailed, match="uploads/upl_other/data"):
        restore_backup(empty, foreign, copy)

    # A dump that is cut off leaves nothing in the database, and the whole can be repeated.
    dump = copy / "ledger.dump"
    whole = dump.read_bytes()
    dump.write_bytes(whole[: len(whole) // 2])
    again = FolderStorage(tmp_path / "again")
    with pytest.raises(BackupFailed, match="pg_restore"):
        restore_backup(empty, again, copy)
    dump.write_bytes(whole)
    restore_backup(empty, again, copy)

    next((copy / "storage/jobs").rglob("model.safetensors")).unlink()
    with pytest.raises(BackupFailed, match="the backup is damaged"):
        restore_backup(empty, again, copy)
    (copy / "backup.json").unlink()
    with pytest.raises(BackupFailed, match="not a complete backup"):
        restore_backup(empty, again, copy)


def litc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lit_client.command", *words]
    return subprocess.run(
        command, env=own_environment(folder / "data"), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_commands_on_embedded_services_with_real_trainings(tmp_path: Path) -> None:
    old, new, copy = tmp_path / "old", tmp_path / "new", tmp_path / "copy"
    with running_service(old) as service, Client(service.url) as client:
        teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id).id
        dataset = client.upload(write_npz(tmp_path / "digits.npz", *images(200)), "dataset").id
        request = {"teacher": teacher, "dataset": {"upload": dataset}, "student": QUICK, "exports": []}
        done = client.wait_job(client.create_job({**request, "schedule": SHORT}).id, timeout=200)
        assert done.state == "succeeded", done.error
        longer = {"lit": {"epochs": 1000}, "fine_tune": {"epochs": 1}}
        going_on = client.create_job({**request, "schedule": longer}).id
        for event in client.follow(going_on):
            # By the second epoch the checkpoint of the first is recorded.
            if event.type == "epoch" and event.data["epoch"] == 2:
                break
        taken = litc(old, "backup", str(copy))
        assert taken.returncode == 0, taken.stderr
        expected = {item.name: item.sha256 for item in client.artifacts(done.id)}

    restored = litc(new, "restore", str(copy))
    assert restored.returncode == 0, restored.stderr
    again = litc(new, "restore", str(copy))
    assert (again.returncode, "is not empty" in again.stderr) == (2, True), again.stderr
    with (
        running_service(new, environment={"LIT_LEASE_SECONDS": "3"}) as service,
        Client(service.url) as client,
    ):
        files = client.download(done.id, tmp_path / "student", expected)
        found = {file.path.name: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files}
        assert found == expected
        # The interrupted training goes on from its checkpoint, in the restored service.
        events = []
        for event in client.follow(going_on):
            events.append(event)
            if event.type == "epoch" and event.attempt > 1:
                break
        claims = [event.data["resumes"] for event in events if event.type == "claimed"]
        assert claims[:2] == [False, True]
        assert events[-1].data["epoch"] > 1
        client.cancel(going_on)
