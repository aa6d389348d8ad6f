"""Retention: files of finished jobs and unused uploads go after their time, and nothing that is needed goes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from api.app import create_app
from jobs.database.models import StorageRemoval, Upload
from jobs.housekeeping import Housekeeper
from jobs.ledger import attempts, owned_jobs, retention, uploads
from jobs.ledger.attempts import Artifact
from jobs.storage.faults import StorageFault
from jobs.storage.folder import FolderStorage
from lit_spec import SPEC_VERSION
from tests.worker.bench import OWNER, Bench, wait_for

DAYS = 3
STUDENT = b"a student"
DIGEST = "ab" * 32


class Expiring:
    """A ledger whose service removes what is older than `DAYS`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        settings = {"retention_days": DAYS, "upload_retention_days": DAYS}
        bench.settings = bench.settings.model_copy(update=settings)

    def succeeded(self, days_ago: float, teacher: str | None = None) -> str:
        job = self.bench.job(teacher=teacher)
        with self.bench.database.session() as session:
            claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
            assert claim is not None
            assert claim.job_id == job
        key = f"jobs/{job}/1/output/model.safetensors"
        self.bench.storage.put_bytes(key, STUDENT)
        self.bench.storage.put_bytes(f"jobs/{job}/1/trainer.log", b"log")
        with self.bench.database.session() as session:
            attempts.succeed(
                session, claim, {"student": {}}, [Artifact("model.safetensors", key, len(STUDENT), DIGEST)]
            )
        # Terminal rows can't be changed, so the clock of the trigger's row is turned.
        self.execute(f"UPDATE job_files SET finished_at = now() - interval '{days_ago} days' WHERE job_id = '{job}'")
        return job

    def execute(self, statement: str) -> None:
        with self.bench.database.engine.begin() as connection:
            connection.execute(text(statement))

    def age_upload(self, upload: str, days: float) -> None:
        self.execute(f"UPDATE uploads SET completed_at = now() - interval '{days} days' WHERE id = '{upload}'")

    def age_finish(self, job: str, days: float) -> None:
        self.execute("ALTER TABLE jobs DISABLE TRIGGER terminal_rows_never_change")
        self.execute(f"UPDATE jobs SET finished_at = now() - interval '{days} days' WHERE id = '{job}'")
        self.execute("ALTER TABLE jobs ENABLE TRIGGER terminal_rows_never_change")
        # What retention has found out since then is not yet known either.
        self.execute("UPDATE uploads SET unused_since = NULL")

    def round(self) -> None:
        keeper = Housekeeper(self.bench.database, lambda _: None, self.bench.settings, self.bench.storage)
        assert keeper.keep_storage()

    def uploads(self) -> set[str]:
        with self.bench.database.session() as session:
            return set(session.scalars(select(Upload.id)))


def waiting_for_locks(bench: Bench) -> int | None:
    """How many transactions wait for another one."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with bench.database.session() as session:
        return session.scalar(text(waits))


def test_a_job_that_is_deleted_while_its_files_go_is_counted_down_once(bench: Bench) -> None:
    expiring = Expiring(bench)
    job = expiring.succeeded(DAYS + 1)
    size = text("SELECT bytes FROM owner_bytes WHERE owner = :owner")

    def delete() -> None:
        with bench.database.session() as session:
            owned_jobs.delete(session, OWNER, job)

    deleting = threading.Thread(target=delete)
    with bench.database.session() as session:
        before = session.scalar(size, {"owner": OWNER})
        assert retention.expire_jobs(session, DAYS) == [job]
        deleting.start()
        wait_for(lambda: waiting_for_locks(bench) == 1)
    deleting.join(10)
    with bench.database.session() as session:
        assert session.scalar(size, {"owner": OWNER}) == before - len(STUDENT)


@pytest.fixture
def service(bench: Bench) -> Expiring:
    return Expiring(bench)


def test_files_of_a_finished_job_go_and_its_row_stays(service: Expiring) -> None:
    bench = service.bench
    teacher = bench.teacher()
    old = service.succeeded(DAYS + 1, teacher)
    young = service.succeeded(DAYS - 1, teacher)
    kept = service.succeeded(DAYS + 1, teacher)
    waiting = bench.job(teacher=teacher)
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as api:
        before = api.get(f"/v1/jobs/{young}").json()
        assert datetime.fromisoformat(before["expires_at"]) == datetime.fromisoformat(
            before["finished_at"]
        ) + timedelta(days=DAYS)
        unused = bench.dataset()
        shown = {item["id"]: item["expires_at"] for item in api.get("/v1/uploads").json()["items"]}
        assert shown[teacher] is None  # a queued job needs it
        one = api.get(f"/v1/uploads/{unused}")
        assert one.json()["expires_at"] == shown[unused]
        assert datetime.fromisoformat(shown[unused]) > datetime.now(UTC)
        assert api.delete(f"/v1/uploads/{unused}", headers={"If-Match": one.headers["ETag"]}).status_code == 204
        pinned = api.post(f"/v1/jobs/{kept}/keep").json()
        assert (pinned["kept"], pinned["expires_at"]) == (True, None)
        # Before it has finished, too.
        assert api.post(f"/v1/jobs/{waiting}/keep").json()["kept"]
        file = f"/v1/jobs/{old}/artifacts/model.safetensors"
        tag = api.get(f"/v1/jobs/{old}").headers["ETag"]
        with bench.storage.open(f"jobs/{old}/1/output/model.safetensors") as begun:
            service.round()
            # Who has begun may end: the files are refused now, and go later.
            assert begun.read() == STUDENT
        assert len(bench.storage.list(f"jobs/{old}/")) == 2

        gone = api.get(file)
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/artifact-removed")
        assert "rerun" in gone.json()["detail"]
        assert api.head(file).status_code == 410
        assert api.get(f"/v1/jobs/{old}/log").status_code == 410
        assert api.post(f"/v1/jobs/{old}/keep").status_code == 410
        after = api.get(f"/v1/jobs/{old}", headers={"If-None-Match": tag})
        assert after.status_code == 200
        shown = after.json()
        assert shown["artifacts_removed_at"]
        assert (shown["state"], shown["result"], shown["expires_at"]) == ("succeeded", {"student": {}}, None)
        listed = api.get(f"/v1/jobs/{old}/artifacts").json()["items"]
        assert [item["sha256"] for item in listed] == [DIGEST]
        assert api.get(f"/v1/jobs/{old}/events").json()["last"] > 0
        for job in (young, kept):
            assert api.get(f"/v1/jobs/{job}/artifacts/model.safetensors").content == STUDENT
            assert api.get(f"/v1/jobs/{job}").json()["artifacts_removed_at"] is None

        service.execute("UPDATE storage_removals SET remove_after = now()")
        service.round()
        assert bench.storage.list(f"jobs/{old}/") == []
        assert len(bench.storage.list(f"jobs/{young}/")) == len(bench.storage.list(f"jobs/{kept}/")) == 2

        assert not api.delete(f"/v1/jobs/{kept}/keep").json()["kept"]
        service.round()
        assert api.get(f"/v1/jobs/{kept}/artifacts/model.safetensors").status_code == 410
        assert api.delete(f"/v1/jobs/{old}").status_code == 204


def test_a_removal_that_failed_is_done_again(service: Expiring) -> None:
    """As after a crash between the ledger's transaction and the removal of the files."""
    bench = service.bench
    storage = bench.storage

    class Broken(FolderStorage):
        def delete_prefix(self, prefix: str) -> None:
            raise OSError(5, "Input/output error")

    upload = bench.dataset()
    service.age_upload(upload, DAYS + 1)
    bench.storage = Broken(bench.settings.storage_root)
    service.round()
    assert upload not in service.uploads()
    assert storage.list(f"uploads/{upload}/")
    bench.storage = storage
    service.round()
    assert storage.list(f"uploads/{upload}/") == []
    with bench.database.session() as session:
        assert session.scalars(select(StorageRemoval.prefix)).all() == []


def test_files_that_storage_could_not_remove_are_removed_later(
    service: Expiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = service.bench
    upload, unused = bench.teacher(), bench.dataset()
    job, trial = service.succeeded(0, upload), service.succeeded(0, upload)
    service.execute(
        "INSERT INTO studies (id, owner, tags, kind, state, finished_at, study_version, request, spec, "
        "planned) "
        f"VALUES ('study_1', '{OWNER}', '{{}}', 'compare', 'succeeded', now(), 1, '{{}}', '{{}}', 1)"
    )
    service.execute("ALTER TABLE jobs DISABLE TRIGGER terminal_rows_never_change")
    service.execute(f"UPDATE jobs SET study_id = 'study_1', trial = '{{}}' WHERE id = '{trial}'")
    service.execute("ALTER TABLE jobs ENABLE TRIGGER terminal_rows_never_change")
    gone = {f"jobs/{job}/", f"jobs/{trial}/", f"uploads/{unused}/"}

    def fail(_storage: FolderStorage, _prefix: str) -> None:
        raise StorageFault(5, "Input/output error")

    with (
        monkeypatch.context() as patch,
        TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as api,
    ):
        patch.setattr(FolderStorage, "delete_prefix", fail)
        for path in (f"jobs/{job}", "studies/study_1", f"uploads/{unused}"):
            assert api.delete(f"/v1/{path}").status_code == 204
            assert api.get(f"/v1/{path}").status_code == 404
    assert all(bench.storage.list(prefix) for prefix in gone)
    with bench.database.session() as session:
        assert set(session.scalars(select(StorageRemoval.prefix))) == gone
    service.execute("UPDATE storage_removals SET remove_after = now()")
    service.round()
    assert not any(bench.storage.list(prefix) for prefix in gone)
    assert bench.storage.list(f"uploads/{upload}/")


def test_only_uploads_that_nothing_needs_go(service: Expiring) -> None:
    bench = service.bench
    unused, needed, used_lately, sent_again, young, pending = (bench.teacher(name) for name in map(_bytes, "abcdef"))
    waiting = bench.job(teacher=needed)
    for upload in (unused, needed, used_lately, sent_again, pending):
        service.age_upload(upload, DAYS + 1)
    with bench.database.session() as session:
        row = uploads.get(session, OWNER, sent_again)
        assert uploads.create(session, OWNER, "teacher", "again", row.size, row.sha256).id == sent_again
        uploads.inspect_again(session, uploads.get(session, OWNER, pending))
    bench.cancel(recent := bench.job(teacher=used_lately))
    with bench.database.session() as session:
        rows = [uploads.get(session, OWNER, upload) for upload in (needed, used_lately, young)]
        due = retention.uploads_expire_at(session, rows, DAYS)
    assert set(due) == {used_lately, young}
    finished = bench.row(recent).finished_at
    assert finished is not None
    assert due[used_lately] == finished + timedelta(days=DAYS)
    assert due[young] > datetime.now(UTC) + timedelta(days=DAYS - 1)

    service.round()
    assert service.uploads() == {needed, used_lately, sent_again, young, pending}
    assert bench.storage.list(f"uploads/{unused}/") == []
    bench.cancel(waiting)
    service.age_finish(waiting, DAYS + 1)
    service.round()
    assert needed not in service.uploads()


def test_an_upload_that_was_needed_is_looked_at_again_in_its_time(service: Expiring) -> None:
    bench = service.bench
    teacher = bench.teacher()
    service.age_upload(teacher, DAYS + 1)
    bench.cancel(job := bench.job(teacher=teacher))
    finished = bench.row(job).finished_at
    service.round()
    with bench.database.session() as session:
        assert uploads.get(session, OWNER, teacher).unused_since == finished
    service.execute(f"UPDATE uploads SET unused_since = now() - interval '{DAYS + 1} days'")
    service.round()
    assert service.uploads() == {teacher}
    with bench.database.session() as session:
        assert uploads.get(session, OWNER, teacher).unused_since == finished


def test_a_job_that_is_made_at_the_same_moment_keeps_its_upload(
    service: Expiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins before the rows are locked, and one afterwards."""
    bench = service.bench
    teacher, loser = bench.teacher(b"a"), bench.teacher(b"b")
    for upload in (teacher, loser):
        service.age_upload(upload, DAYS + 1)
    look = retention._unused_since

    def look_then_race(*which: object) -> object:
        # The rows are locked by now: another request for a job must wait until they are gone.
        racing.start()
        racing.join(0.2)
        return look(*which)  # type: ignore[arg-type]

    refused: list[Exception] = []

    def race() -> None:
        try:
            with bench.database.session() as session:
                uploads.hold_for_job(session, OWNER, [loser])
        except Exception as failure:  # noqa: BLE001 - looked at below
            refused.append(failure)

    racing = threading.Thread(target=race)
    monkeypatch.setattr(retention, "_unused_since", look_then_race)
    with bench.database.session() as session:
        uploads.hold_for_job(session, OWNER, [teacher])
        service.round()
    racing.join(20)
    # Held by a request for a job: skipped. Asked for too late: there is no such upload.
    assert service.uploads() == {teacher}
    assert [str(failure) for failure in refused] == [f"there is no upload {loser}"]


def test_a_file_that_is_announced_again_while_it_expires_is_a_new_upload(service: Expiring) -> None:
    bench = service.bench
    teacher = bench.teacher()
    service.age_upload(teacher, DAYS + 1)
    made: list[str] = []

    def announce() -> None:
        with bench.database.session() as session:
            made.append(uploads.create(session, OWNER, "teacher", "again", len(b"a teacher"), teacher).id)

    announcing = threading.Thread(target=announce)
    with bench.database.session() as session:
        assert retention.expire_uploads(session, DAYS) == [teacher]
        session.flush()
        # It still sees the row, and waits for what becomes of it.
        announcing.start()
        announcing.join(0.3)
        assert made == []
    announcing.join(20)
    assert service.uploads() == set(made)


def test_trials_wait_for_the_end_of_their_study(service: Expiring) -> None:
    bench = service.bench
    job = service.succeeded(DAYS + 1)
    service.execute(
        "INSERT INTO studies (id, owner, tags, kind, state, study_version, request, spec, planned) "
        f"VALUES ('study_1', '{OWNER}', '{{}}', 'compare', 'running', 1, '{{}}', '{{}}', 1)"
    )
    service.execute("ALTER TABLE jobs DISABLE TRIGGER terminal_rows_never_change")
    service.execute(f"UPDATE jobs SET study_id = 'study_1', trial = '{{}}' WHERE id = '{job}'")
    service.execute("ALTER TABLE jobs ENABLE TRIGGER terminal_rows_never_change")
    service.round()
    assert bench.row(job).files_removed_at is None
    service.execute("UPDATE studies SET state = 'succeeded', finished_at = now()")
    service.round()
    assert bench.row(job).files_removed_at is not None


def test_nothing_expires_without_the_settings(bench: Bench) -> None:
    service = Expiring(bench)
    bench.settings = bench.settings.model_copy(update={"retention_days": None, "upload_retention_days": None})
    upload = bench.dataset()
    service.age_upload(upload, 5000)
    job = service.succeeded(5000)
    service.round()
    assert upload in service.uploads()
    assert bench.row(job).files_removed_at is None
    with bench.database.session() as session:
        assert not owned_jobs.get(session, OWNER, job).kept


def _bytes(letter: str) -> bytes:
    return letter.encode()
