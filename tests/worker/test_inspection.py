"""Inspections against readers that behave, that hang and that leave nonsense, and storage that fails."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from jobs import backoff
from jobs.database.models import Upload
from jobs.database.notifications import TopicListener
from jobs.ledger import uploads
from jobs.ledger.attempts import Claim
from jobs.ledger.stored_specs import read_job_spec
from jobs.storage import layout
from jobs.storage.folder import FolderStorage
from lit_spec import DatasetInspection, Inspection, Library, LibraryRequest, TeacherWeights
from lit_spec.trainer.run import TrainerMachine
from tests.small_disks import MIB, fill, mounted
from tests.worker.bench import DATASET, INSPECTION, OWNER, Bench, wait_for
from worker.host.work_folder import WorkFolder
from worker.inspecting import inspector as inspection
from worker.inspecting.inspector import Inspector
from worker.training.job_folder import prepare

READER = Path(__file__).with_name("reader.py")
ROOT = Path(__file__).parents[2]
A_TEACHER = hashlib.sha256(b"a teacher").hexdigest()
"""Of the reader's file."""
STORED = f"teachers/{A_TEACHER}.safetensors"
INSPECT = """\
import sys
from pathlib import Path
from jobs.database.connection import Database
from jobs.settings import Settings
from jobs.storage.opening import open_storage
from worker.host.work_folder import WorkFolder
from worker.inspecting.inspector import Inspector
settings = Settings()
place, marker, *command = sys.argv[1:]
database, storage = Database(settings.database_url), open_storage(settings)
work_folder = WorkFolder(Path(place), "killed")
Inspector(database, storage, settings, work_folder, marker=marker, command=command).inspect_one()
"""


def reader(behaviour: str) -> list[str]:
    return [sys.executable, str(READER), behaviour]


@contextmanager
def inspector(bench: Bench, behaviour: str) -> Iterator[Inspector]:
    work_folder = WorkFolder(bench.folder, "inspector")
    try:
        marker, command = bench.marker(), reader(behaviour)
        yield Inspector(bench.database, bench.storage, bench.settings, work_folder, marker=marker, command=command)
    finally:
        work_folder.close()


@contextmanager
def reading(bench: Bench, tmp_path: Path) -> Iterator[Inspector]:
    """An inspection under way, until someone makes the file `go`; the inspector stops at the end."""
    with inspector(bench, "hang") as made:
        made.start()
        try:
            wait_for((tmp_path / "pid").exists)
            yield made
        finally:
            made.stop()


def upload_teacher(bench: Bench, content: bytes = b"as it came") -> str:
    return upload_file(bench, "teacher", content, INSPECTION)


def upload_dataset(bench: Bench, content: bytes) -> str:
    return upload_file(bench, "dataset", content, DATASET)


def upload_file(bench: Bench, kind: str, content: bytes, found: Inspection | DatasetInspection) -> str:
    """A complete upload, in which a scripted reader finds `found`."""
    with bench.database.session() as session:
        made = uploads.create(session, OWNER, kind, "file", len(content), None)
        upload = made.id
        bench.storage.put_bytes(layout.upload_data(upload), content)
        uploads.complete(session, upload, made.writer, upload)
    (bench.folder.parent / "found.json").write_text(found.model_dump_json())
    return upload


def look(bench: Bench, upload: str) -> Upload:
    with bench.database.session() as session:
        return uploads.get(session, OWNER, upload)


def error_of(bench: Bench, upload: str) -> tuple[str, str]:
    row = look(bench, upload)
    assert row.inspection_state == "failed"
    assert row.inspection_error is not None
    return row.inspection_error["type"], row.inspection_error["detail"]


def files(bench: Bench, upload: str) -> list[str]:
    prefix = layout.upload_prefix(upload)
    return [key.removeprefix(prefix) for key in bench.storage.list(prefix)]


def test_what_was_found_is_stored(bench: Bench) -> None:
    upload = upload_teacher(bench)
    with inspector(bench, "find") as made:
        assert made.inspect_one()
        assert not made.inspect_one()
    row = look(bench, upload)
    assert (row.inspection_state, row.inspection_failures) == ("done", 0)
    assert row.inspection is not None
    assert row.inspection["sha256"] == A_TEACHER
    assert files(bench, upload) == ["data", STORED]
    assert list(bench.folder.glob("*/*")) == []


def test_a_data_set_is_looked_through(bench: Bench) -> None:
    """By the process that reads untrusted files."""
    good = upload_dataset(bench, b"label,text\n" + b"".join(b"%d,text %d\n" % (n % 3, n) for n in range(60)))
    bad = upload_dataset(bench, b"<!DOCTYPE html>\n<p>Not found")
    work_folder = WorkFolder(bench.folder, "inspector")
    made = Inspector(bench.database, bench.storage, bench.settings, work_folder, marker=bench.marker())
    assert made.inspect_one()
    assert made.inspect_one()
    work_folder.close()
    row = look(bench, good)
    assert (row.inspection_state, files(bench, good)) == ("done", ["data"])
    found = DatasetInspection.model_validate(row.inspection)
    assert (found.classes, found.splits["train"].counts, found.looked_at) == (["0", "1", "2"], [20, 20, 20], 60)
    type, detail = error_of(bench, bad)
    assert type == "bad-dataset"
    assert "HTML" in detail
    error = look(bench, bad).inspection_error
    assert error is not None
    assert error["field"] == "dataset.upload"


@pytest.mark.parametrize("limit", [{"inspect_timeout_seconds": 0.5}, {"inspect_memory_bytes": 1 << 20}])
def test_a_data_set_that_is_too_large_for_an_inspection_is_left_to_the_job(bench: Bench, limit: dict[str, Any]) -> None:
    upload = upload_dataset(bench, b"".join(b"%d,%s\n" % (n % 3, b"text " * 2000) for n in range(3000)))
    limited = replace(bench, settings=bench.settings.model_copy(update=limit))
    work_folder = WorkFolder(bench.folder, "inspector")
    assert Inspector(
        limited.database, limited.storage, limited.settings, work_folder, marker=bench.marker()
    ).inspect_one()
    work_folder.close()
    found = DatasetInspection.model_validate(look(bench, upload).inspection)
    assert found.modalities == []
    assert "the job will check the data" in found.notes[0]


@pytest.mark.parametrize("behaviour", ["leave_nothing", "refuse_nothing"])
def test_a_data_sets_reader_that_says_nothing_fails_the_inspection(bench: Bench, behaviour: str) -> None:
    upload = upload_dataset(bench, b"x")
    with inspector(bench, behaviour) as made:
        assert made.inspect_one()
    assert error_of(bench, upload)[0] == "bad-dataset"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("refuse", "no network that we know"),
        ("leave_no_teacher", "gave no result"),
        ("leave_a_link", "gave no teacher"),
        ("leave_nothing", "gave no result"),
    ],
)
def test_a_reader_without_a_teacher_fails_the_inspection(bench: Bench, behaviour: str, said: str) -> None:
    upload = upload_teacher(bench)
    with inspector(bench, behaviour) as made:
        assert made.inspect_one()
    kind, detail = error_of(bench, upload)
    assert kind == "bad-teacher"
    assert said in detail
    assert files(bench, upload) == ["data"]


def as_another_network(session: Session, upload: str) -> None:
    uploads.inspect_as(session, OWNER, upload, LibraryRequest(library=Library.TIMM, name="resnet18"))


def with_other_weights(session: Session, upload: str) -> None:
    uploads.inspect_with(session, OWNER, upload, TeacherWeights.EMA)


@pytest.mark.parametrize("otherwise", [as_another_network, with_other_weights])
@pytest.mark.parametrize("sha256", [None, "0" * 64], ids=["inspected by an older version", "inspected by this version"])
def test_a_job_keeps_the_teacher_that_it_was_made_with(
    bench: Bench, tmp_path: Path, sha256: str | None, otherwise: Callable[[Session, str], None]
) -> None:
    """Its upload is inspected again, as something else, before the job runs."""
    upload = bench.teacher(b"as it was", INSPECTION.model_copy(update={"sha256": sha256}))
    job = bench.job(teacher=upload)
    (tmp_path / "found.json").write_text(INSPECTION.model_dump_json())
    with bench.database.session() as session:
        otherwise(session, upload)
    with inspector(bench, "find") as made:
        assert made.inspect_one()
    for number, (one, content) in enumerate([(job, b"as it was"), (bench.job(teacher=upload), b"a teacher")]):
        claim = Claim(one, 1, OWNER, read_job_spec(bench.row(one)), "cpu", None, 0.0)
        folder = tmp_path / f"job {number}"
        folder.mkdir()
        prepare(folder, claim, bench.storage, bench.settings, TrainerMachine(threads=1), lambda: None, lambda _: None)
        assert (folder / "teacher.safetensors").read_bytes() == content


def test_the_reader_is_told_which_weights_to_take(bench: Bench, tmp_path: Path) -> None:
    upload = upload_teacher(bench)
    with bench.database.session() as session:
        uploads.inspect_with(session, OWNER, upload, TeacherWeights.EMA)
    with inspector(bench, "tell") as made:
        assert made.inspect_one()
    row = look(bench, upload)
    assert (row.inspection_state, row.teacher_weights) == ("done", "ema")
    assert (tmp_path / "arguments").read_text().endswith("--weights ema")


@pytest.mark.parametrize(
    ("took", "choices", "same", "other"),
    [
        (TeacherWeights.RAW, [TeacherWeights.RAW, TeacherWeights.EMA], (TeacherWeights.RAW, None), TeacherWeights.EMA),
        (TeacherWeights.EMA, [TeacherWeights.EMA], (TeacherWeights.EMA, None), TeacherWeights.RAW),
        (TeacherWeights.EMA, [TeacherWeights.RAW, TeacherWeights.EMA], (TeacherWeights.EMA,), None),
    ],
)
def test_weights_that_an_inspection_took_anyway_are_not_inspected_again(
    bench: Bench,
    took: TeacherWeights,
    choices: list[TeacherWeights],
    same: tuple[TeacherWeights | None, ...],
    other: TeacherWeights | None,
) -> None:
    inspection = INSPECTION.model_copy(update={"weights": took, "weights_choices": choices})
    upload = upload_teacher(bench)
    bench.inspected(upload, inspection)
    for weights in same:
        with bench.database.session() as session:
            uploads.inspect_with(session, OWNER, upload, weights)
        row = look(bench, upload)
        assert (row.inspection_state, row.teacher_weights) == ("done", weights)
        assert row.inspection is not None
    with bench.database.session() as session:
        uploads.inspect_with(session, OWNER, upload, TeacherWeights.EMA if other is None else took)
        uploads.inspect_with(session, OWNER, upload, other)
    assert look(bench, upload).inspection_state == "pending"


def test_a_storage_that_fails_is_tried_three_times(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0)
    upload = upload_teacher(bench)
    # Where the teacher belongs, something else is in the way.
    bench.storage.put_bytes(f"{layout.inspected_teacher(upload, A_TEACHER)}/in/the/way", b"")
    with inspector(bench, "find") as made:
        for failures in (1, 2):
            assert made.inspect_one()
            row = look(bench, upload)
            assert (row.inspection_state, row.inspection_failures) == ("pending", failures)
        assert made.inspect_one()
        assert not made.inspect_one()
    kind, detail = error_of(bench, upload)
    assert kind == "worker-lost"
    assert "Is a directory" in detail


def test_a_full_storage_costs_an_inspection_one_try_and_not_all(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    with mounted(tmp_path / "disk", 4 * MIB) as disk:
        full = replace(bench, storage=FolderStorage(disk))
        full.storage.put_bytes(full.marker(), b"")
        full.storage.check()
        upload = upload_teacher(full)
        filler = fill(disk)
        with inspector(full, "find") as made:
            made.start()
            try:
                wait_for(lambda: look(full, upload).inspection_failures == 1)
                time.sleep(0.2)
                assert (look(full, upload).inspection_state, look(full, upload).inspection_failures) == ("pending", 1)
                filler.unlink()
                wait_for(lambda: look(full, upload).inspection_state == "done")
            finally:
                made.stop()


def test_a_storage_that_is_not_mounted_costs_no_inspection(bench: Bench, tmp_path: Path) -> None:
    upload = upload_teacher(bench)
    root = bench.settings.storage_root
    root.rename(tmp_path / "elsewhere")
    root.mkdir()
    with inspector(bench, "find") as made:
        made.start()
        try:
            wait_for(lambda: look(bench, upload).inspection_started_at)
            wait_for(lambda: look(bench, upload).inspection_state == "pending")
            assert look(bench, upload).inspection_failures == 0
            root.rmdir()
            (tmp_path / "elsewhere").rename(root)
            wait_for(lambda: look(bench, upload).inspection_state == "done")
        finally:
            made.stop()
    assert files(bench, upload) == ["data", STORED]


def test_a_waiting_teacher_wakes_the_inspector(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "LOOK_SECONDS", 60)
    with inspector(bench, "find") as made:
        listener = TopicListener(bench.settings.database_url or "", uploads.INSPECTIONS_TOPIC, made.wake)
        made.start()
        listener.start()
        try:
            for _ in range(2):
                upload = upload_teacher(bench)
                wait_for(lambda upload=upload: look(bench, upload).inspection_state == "done")
        finally:
            listener.stop()
            made.stop()


def test_a_notification_that_is_lost_costs_only_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "LOOK_SECONDS", 0.1)
    with inspector(bench, "find") as made:
        made.start()
        try:
            for _ in range(2):
                upload = upload_teacher(bench)
                wait_for(lambda upload=upload: look(bench, upload).inspection_state == "done")
        finally:
            made.stop()


def test_a_teacher_that_is_lost_is_said_to_be_missing(bench: Bench) -> None:
    upload = upload_teacher(bench)
    bench.storage.delete_prefix(layout.upload_prefix(upload))
    with inspector(bench, "find") as made:
        assert made.inspect_one()
    kind, detail = error_of(bench, upload)
    assert kind == "bad-teacher"
    assert "no longer in storage" in detail


def test_a_teacher_that_was_deleted_meanwhile_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    upload = upload_teacher(bench)
    with reading(bench, tmp_path):
        with bench.database.session() as session:
            prefix = uploads.delete(session, OWNER, upload)
        bench.storage.delete_prefix(prefix)
        # Its folder is gone once it is done with.
        (tmp_path / "go").touch()
        wait_for(lambda: not list(bench.folder.glob("inspector/upl_*")))
    assert files(bench, upload) == []


def test_a_worker_that_stops_gives_the_inspection_back(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "DRAIN_SECONDS", 0.2)
    upload = upload_teacher(bench)
    with reading(bench, tmp_path):
        assert look(bench, upload).inspection_state == "running"
    row = look(bench, upload)
    assert (row.inspection_state, row.inspection_failures) == ("pending", 0)
    with inspector(bench, "find") as made:
        assert made.inspect_one()
    assert look(bench, upload).inspection_state == "done"


def test_a_worker_that_is_killed_leaves_no_reader(bench: Bench, tmp_path: Path) -> None:
    upload = upload_teacher(bench)
    environment = {
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": bench.settings.database_url or "",
        "LIT_STORAGE_DIR": str(bench.settings.storage_root),
    }
    command = [sys.executable, "-c", INSPECT, str(bench.folder), bench.marker(), *reader("hang")]
    with subprocess.Popen(command, env=environment) as worker:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20)
        pid = int((tmp_path / "pid").read_text())
        worker.send_signal(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert look(bench, upload).inspection_state == "running"
