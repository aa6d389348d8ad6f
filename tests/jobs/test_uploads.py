"""Uploads: taken once, kept while a job needs them, inspected by one inspector at a time."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from jobs.database.connection import Database
from jobs.database.models import Upload
from jobs.errors import Conflict, NotFound, Stale
from jobs.ledger import creation, uploads
from jobs.ledger.creation import NewJob
from jobs.ledger.owned_rows import PageCursor
from lit_spec import ErrorType, JobError, JobRequest, JobSpec, Library, LibraryRequest, resolve
from lit_spec.states import InspectionState, UploadState
from tests.jobs.racing import together, wait_until_blocked
from tests.worker.bench import INSPECTION, OWNER, Bench

SHA, OTHER_SHA = "a" * 64, "b" * 64
BAD = JobError(type=ErrorType.BAD_TEACHER, detail="no network that we know")


def new(
    database: Database, kind: str = "teacher", size: int = 10, sha256: str | None = None, owner: str = OWNER
) -> str:
    with database.session() as session:
        return uploads.create(session, owner, kind, "file", size, sha256).id


def complete(database: Database, upload: str, sha256: str = SHA) -> None:
    with database.session() as session:
        uploads.complete(session, upload, look(database, upload).writer, sha256)


def look(database: Database, upload: str, owner: str = OWNER) -> Upload:
    with database.session() as session:
        return uploads.get(session, owner, upload)


def remove(database: Database, upload: str, owner: str = OWNER) -> str:
    with database.session() as session:
        return uploads.delete(session, owner, upload)


def claim_inspection(database: Database, timeout_seconds: float = 60) -> str | None:
    with database.session() as session:
        upload = uploads.claim_inspection(session, timeout_seconds)
        return None if upload is None else upload.id


def waits(database: Database) -> bool:
    with database.session() as session:
        return bool(session.scalars(select(Upload.id).where(Upload.inspection_state == "pending")).all())


def asked(teacher: str) -> tuple[JobRequest, JobSpec]:
    body = {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 14}}
    request = JobRequest.model_validate(body)
    return request, resolve(request, INSPECTION)


def test_the_same_content_is_uploaded_once(database: Database) -> None:
    first = new(database, sha256=SHA)
    # Only what is complete can stand for another.
    second = new(database, sha256=SHA)
    assert first != second
    complete(database, first)
    assert new(database, sha256=SHA) == first
    made = [
        new(database, sha256=SHA, owner="another"),
        new(database, sha256=SHA, kind="dataset"),
        new(database, sha256=SHA, size=11),
        new(database, sha256=OTHER_SHA),
        new(database),
    ]
    assert len({first, second, *made}) == 7

    # A teacher that was refused is no use; another try may be made.
    with database.session() as session:
        uploads.finish_inspection(session, first, inspection=None, error=BAD)
    third = new(database, sha256=SHA)
    assert third not in {first, second, *made}
    # Without inspection there is nothing to be refused for.
    dataset = made[1]
    complete(database, dataset)
    assert new(database, sha256=SHA, kind="dataset") == dataset


def test_progress_and_completion(database: Database) -> None:
    teacher, dataset = new(database), new(database, "dataset")
    before = look(database, teacher)
    assert (before.received, before.state, before.inspection_state) == (0, UploadState.UPLOADING, None)
    with database.session() as session:
        uploads.record_progress(session, teacher, 0, 4)
    after = look(database, teacher)
    assert after.received == 4
    assert after.received_at > before.received_at
    with pytest.raises(IntegrityError, match="ck_uploads_received"), database.session() as session:
        uploads.record_progress(session, teacher, 0, 11)

    assert not waits(database)
    complete(database, dataset)
    complete(database, teacher)
    done = look(database, teacher)
    assert (done.received, done.sha256, done.state) == (10, SHA, UploadState.COMPLETE)
    assert done.inspection_state == InspectionState.PENDING
    assert look(database, dataset).inspection_state == InspectionState.PENDING

    remove(database, teacher)
    with database.session() as session, pytest.raises(NotFound):
        uploads.record_progress(session, teacher, 0, 5)
    with database.session() as session, pytest.raises(NotFound):
        uploads.complete(session, teacher, 0, SHA)


def test_a_turn_ends_when_another_begins(database: Database) -> None:
    upload = new(database, "dataset")
    with database.session() as session:
        first = uploads.open_writer(session, OWNER, upload, 0).writer
        uploads.record_progress(session, upload, first, 4)
    with database.session() as session:
        with pytest.raises(NotFound):
            uploads.open_writer(session, "another", upload, 4)
        # At a wrong offset nothing begins, and the first goes on.
        with pytest.raises(Stale):
            uploads.open_writer(session, OWNER, upload, 0)
        uploads.record_progress(session, upload, first, 5)
    with database.session() as session:
        second = uploads.open_writer(session, OWNER, upload, 5).writer
    for write in (
        partial(uploads.hold, writer=first),
        partial(uploads.record_progress, writer=first, received=10),
        partial(uploads.complete, writer=first, sha256=SHA),
    ):
        with database.session() as session, pytest.raises(Stale):
            write(session, upload)
    assert look(database, upload).received == 5
    with database.session() as session:
        uploads.complete(session, upload, second, SHA)
    # And with the last byte all turns end.
    with database.session() as session, pytest.raises(Stale):
        uploads.record_progress(session, upload, second, 0)
    with database.session() as session, pytest.raises(Stale):
        uploads.open_writer(session, OWNER, upload, 10)


def test_another_owners_upload_is_not_there(bench: Bench) -> None:
    teacher = bench.teacher()
    with pytest.raises(NotFound):
        look(bench.database, teacher, "another")
    with pytest.raises(NotFound):
        remove(bench.database, teacher, "another")
    with bench.database.session() as session:
        assert uploads.list_page(session, "another") == []
        with pytest.raises(NotFound):
            creation.create(session, NewJob("another", *asked(teacher), {teacher: None}))
    assert look(bench.database, teacher).id == teacher


def test_an_upload_is_kept_while_a_job_needs_it(bench: Bench) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    job_ids = [bench.job(teacher=teacher, dataset=dataset) for _ in range(6)]
    for upload in (teacher, dataset):
        with pytest.raises(Conflict, match=f"{job_ids[0]}.* and 1 more") as conflict:
            remove(bench.database, upload)
        assert conflict.value.type == "upload-in-use"
        assert job_ids[5] not in conflict.value.detail
    for job in job_ids:
        bench.cancel(job)
    assert remove(bench.database, teacher) == f"uploads/{teacher}/"
    with pytest.raises(NotFound):
        remove(bench.database, teacher)
    # The jobs are still told of, though their teacher is gone.
    assert bench.row(job_ids[0]).spec["teacher"]["upload"] == teacher


@pytest.mark.parametrize("first", ["create", "delete"])
def test_whoever_comes_second_waits_and_sees_what_the_first_did(bench: Bench, first: str) -> None:
    teacher = bench.teacher()
    refused: list[Exception] = []

    def act(name: str) -> None:
        with bench.database.session() as session:
            if name == "create":
                creation.create(session, NewJob(OWNER, *asked(teacher), {teacher: None}))
            else:
                uploads.delete(session, OWNER, teacher)
            if name == first:
                second.start()
                wait_until_blocked(bench.database)

    def act_second() -> None:
        try:
            act("delete" if first == "create" else "create")
        except (Conflict, NotFound) as refusal:
            refused.append(refusal)

    second = threading.Thread(target=act_second)
    act(first)
    second.join(20)
    assert [type(refusal) for refusal in refused] == [Conflict if first == "create" else NotFound]


def test_no_job_is_left_without_its_teacher_however_the_two_meet(bench: Bench) -> None:
    def create(teacher: str) -> bool:
        try:
            bench_job(teacher)
        except NotFound:
            return False
        return True

    def bench_job(teacher: str) -> None:
        with bench.database.session() as session:
            creation.create(session, NewJob(OWNER, *asked(teacher), {teacher: None}))

    def delete(teacher: str) -> bool:
        try:
            remove(bench.database, teacher)
        except Conflict:
            return False
        return True

    for _ in range(10):
        teacher = bench.teacher()
        created, deleted = together([partial(create, teacher), partial(delete, teacher)])
        assert created != deleted


def test_inspections_are_taken_once_oldest_first_and_again_when_they_take_too_long(database: Database) -> None:
    teachers = [new(database) for _ in range(8)]
    # The order of completion counts, not that of creation.
    order = [*reversed(teachers[:2]), *teachers[2:]]
    for teacher in order:
        complete(database, teacher)
    assert claim_inspection(database) == order[0]
    rest = together([lambda: claim_inspection(database)] * 4)
    taken = [upload for upload in rest if upload is not None]
    assert len(set(taken)) == len(taken)
    while (upload := claim_inspection(database)) is not None:
        taken.append(upload)
    assert sorted(taken) == sorted(order[1:])
    assert not waits(database)

    with database.session() as session:
        session.execute(
            text("UPDATE uploads SET inspection_started_at = inspection_started_at - interval '61 s' WHERE id = :id"),
            {"id": order[3]},
        )
    assert claim_inspection(database) == order[3]
    assert claim_inspection(database) is None


def test_a_teacher_that_is_inspected_anew_waits_behind_those_that_came_before(database: Database) -> None:
    first, second, third = (new(database) for _ in range(3))
    complete(database, first)
    assert claim_inspection(database) == first
    with database.session() as session:
        uploads.finish_inspection(session, first, inspection=INSPECTION, error=None)
    complete(database, second)
    with database.session() as session:
        uploads.inspect_as(session, OWNER, first, LibraryRequest(library=Library.TIMM, name="vit"))
    complete(database, third)
    assert [claim_inspection(database) for _ in range(4)] == [second, first, third, None]


def test_an_inspection_is_given_back_or_lost_three_times(database: Database) -> None:
    teacher = new(database)
    complete(database, teacher)

    def claim() -> Upload:
        with database.session() as session:
            claimed = uploads.claim_inspection(session, 60)
        assert claimed is not None
        return claimed

    def state() -> tuple[str | None, int]:
        row = look(database, teacher)
        return row.inspection_state, row.inspection_failures

    def grow_old() -> None:
        with database.session() as session:
            session.execute(text("UPDATE uploads SET inspection_started_at = now() - interval '61 s'"))

    first = claim()
    with database.session() as session:
        uploads.release_inspection(session, first)
    assert state() == ("pending", 0)
    second = claim()
    with database.session() as session:
        # Whoever was released has no say any more.
        uploads.release_inspection(session, first)
        uploads.lose_inspection(session, first, BAD)
    assert state() == ("running", 0)
    with database.session() as session:
        uploads.lose_inspection(session, second, BAD)
    assert state() == ("pending", 1)

    # Workers that die at it are counted as well.
    claim()
    grow_old()
    claim()
    assert state() == ("running", 2)
    grow_old()
    assert claim_inspection(database) is None
    assert state() == ("failed", 3)
    error = look(database, teacher).inspection_error
    assert error is not None
    assert error["type"] == "worker-lost"


def test_the_first_result_of_an_inspection_stays(database: Database) -> None:
    good, bad, gone = (new(database) for _ in range(3))
    for teacher in (good, bad, gone):
        complete(database, teacher)
        assert claim_inspection(database) == teacher
    remove(database, gone)
    with database.session() as session:
        uploads.finish_inspection(session, good, inspection=INSPECTION, error=None)
        uploads.finish_inspection(session, good, inspection=None, error=BAD)
        uploads.finish_inspection(session, bad, inspection=None, error=BAD)
        uploads.finish_inspection(session, bad, inspection=INSPECTION, error=None)
        # It was deleted meanwhile, and nobody wants to know.
        assert not uploads.finish_inspection(session, gone, inspection=INSPECTION, error=None)
        with pytest.raises(ValueError, match="either"):
            uploads.finish_inspection(session, good, inspection=INSPECTION, error=BAD)
        with pytest.raises(ValueError, match="either"):
            uploads.finish_inspection(session, good, inspection=None, error=None)
    row = look(database, good)
    assert (row.inspection_state, row.inspection_error) == (InspectionState.DONE, None)
    assert row.inspection == INSPECTION.model_dump(mode="json")
    row = look(database, bad)
    assert (row.inspection_state, row.inspection) == (InspectionState.FAILED, None)
    assert row.inspection_error == BAD.model_dump(mode="json")
    assert claim_inspection(database, timeout_seconds=-60) is None


def test_the_list_is_newest_first_page_by_page(database: Database) -> None:
    made = [new(database, "dataset") for _ in range(5)]
    new(database, owner="another")
    # Two of the same moment: their ids tell them apart.
    with database.session() as session:
        second, third = (uploads.get(session, OWNER, upload) for upload in made[1:3])
        third.created_at = second.created_at
    expected = [*reversed(made[3:]), *sorted(made[1:3], reverse=True), made[0]]
    seen: list[str] = []
    after = None
    while True:
        with database.session() as session:
            page = uploads.list_page(session, OWNER, after=after, limit=3 if not seen else 1)
        if not page:
            break
        seen += [upload.id for upload in page]
        after = PageCursor(page[-1].created_at, page[-1].id)
        # What comes in front meanwhile does not move the next page.
        if len(seen) == 3:
            new(database)
    assert seen == expected
