"""The supervisor against trainers that behave and trainers that don't."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from jobs.database.connection import Database
from lit_spec import ErrorType
from lit_spec.trainer.run import TrainerRun
from tests.worker.bench import CHILD, Bench, child, wait_for
from tests.worker.outages import cut_off
from worker.training import progress, supervisor


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an attempt that was lost the next one begins at once."""
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0)


def alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> list[int]:
    """The live trainers that this process has started."""
    return [child.pid for child in psutil.Process().children() if str(CHILD) in child.cmdline()]


def test_a_job_from_claim_to_manifest(bench: Bench) -> None:
    job_id = bench.job(dataset=bench.dataset())
    assert bench.work("succeed") == 1
    job = bench.row(job_id)
    assert (job.state, job.attempt, job.failures) == ("succeeded", 1, 0)
    assert job.result["student"]["accuracy"]["test"] == 53.0
    assert (job.progress["phase"], job.progress["fraction"], job.estimated_finish) == ("storing", 1.0, None)
    manifest = {artifact["name"]: artifact for artifact in job.manifest}
    assert sorted(manifest) == ["config.json", "model.safetensors", "report.json"]
    assert bench.text(job_id, 1, "output/config.json") == "config.json"
    assert manifest["config.json"]["size"] == len("config.json")
    assert bench.metrics(job_id)["lit", 2, "loss"] == 0.5
    assert [event["epoch"] for event in bench.events(job_id, "epoch")] == [1, 2, 3]
    assert [event["epoch"] for event in bench.events(job_id, "checkpoint")] == [1, 2, 3]
    assert job.checkpoint == f"jobs/{job_id}/1/checkpoint.pt"
    assert "behaviour succeed" in bench.text(job_id, 1, "trainer.log")


def test_the_checkpoints_of_all_attempts_go_when_the_job_has_ended(bench: Bench) -> None:
    job_id = bench.job(max_attempts=2)
    bench.work("kill_once")
    assert bench.row(job_id).attempt == 2
    assert sorted(key for key in bench.storage.list(f"jobs/{job_id}/") if "/output/" not in key) == [
        f"jobs/{job_id}/1/trainer.log",
        f"jobs/{job_id}/2/trainer.log",
    ]
    crashing = bench.job(max_attempts=2)
    bench.work("crash")
    assert bench.row(crashing).state == "failed"
    assert not any("checkpoint" in key for key in bench.storage.list(f"jobs/{crashing}/"))


def test_the_job_folder_holds_what_the_trainer_needs_and_is_removed(bench: Bench) -> None:
    job_id = bench.job(dataset=bench.dataset())
    bench.work("succeed")
    [started] = bench.events(job_id, "started")
    assert started["folder"] == ["dataset", "run.json", "spec.json", "teacher.safetensors", "trainer.log"]
    assert list(bench.folder.glob("*/*")) == []


def test_the_trainer_is_told_where_mounted_data_sets_lie(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    allowed = {"datasets_dir": Path("sets"), "datasets_download": True}
    bench.settings = bench.settings.model_copy(update=allowed)
    job_id = bench.job(mounted="cifar10")
    bench.work("tell_its_run")
    started, told = bench.events(job_id, "started")
    # Absolute, because a trainer runs in its job folder; and nothing of the data is copied into that.
    run = TrainerRun.model_validate(told["run"])
    assert (run.device, run.threads, run.attempt) == ("cpu", 1, 1)
    assert (run.datasets, run.datasets_download) == (tmp_path / "sets", True)
    assert started["folder"] == ["run.json", "spec.json", "teacher.safetensors", "trainer.log"]


def test_the_trainer_gets_no_secrets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:secret@localhost/lit")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    job_id = bench.job()
    bench.work("succeed")
    said = bench.text(job_id, 1, "trainer.log")
    assert "'PATH'" in said
    assert "DATABASE_URL" not in said
    assert "AWS" not in said


def test_a_typed_failure_is_final(bench: Bench) -> None:
    job_id = bench.job()
    bench.work("fail")
    job = bench.row(job_id)
    assert (job.state, job.attempt) == ("failed", 1)
    assert job.error["type"] == "diverged"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("crash", "exit code 3; its log ends with: Traceback: everything is broken"),
        ("be_killed", "SIGKILL"),
        ("quit_silently", "without finishing"),
        ("finish_without_output", "without writing model.safetensors, config.json, report.json"),
    ],
)
def test_a_crash_is_retried_until_the_attempts_are_used_up(bench: Bench, behaviour: str, said: str) -> None:
    job_id = bench.job(max_attempts=2)
    assert bench.work(behaviour) == 2
    job = bench.row(job_id)
    assert (job.state, job.attempt, job.failures) == ("failed", 2, 2)
    assert job.error["type"] == "trainer-crashed"
    assert said in job.error["detail"]


def test_a_killed_trainer_resumes_from_its_checkpoint(bench: Bench) -> None:
    job_id = bench.job()
    assert bench.work("kill_once") == 2
    job = bench.row(job_id)
    assert (job.state, job.attempt, job.failures) == ("succeeded", 2, 1)
    assert "resumed from epoch 1" in bench.text(job_id, 2, "trainer.log")
    # The redone epoch does not appear twice.
    assert sorted(epoch for _, epoch, name in bench.metrics(job_id) if name == "loss") == [1, 2, 3]


def test_lines_that_are_no_events_go_to_the_log(bench: Bench) -> None:
    job_id = bench.job()
    bench.work("garbage")
    assert bench.row(job_id).state == "succeeded"
    assert list(bench.metrics(job_id)) == [("lit", 1, "loss"), ("lit", 1, "student_accuracy")]
    said = bench.text(job_id, 1, "trainer.log")
    assert "no JSON at all" in said
    assert "no newline at the end" in said
    assert len(said) < 20_000


def test_no_message_is_lost_where_the_log_cannot_be_written(bench: Bench) -> None:
    job_id = bench.job()
    bench.work("lose_its_log")
    assert bench.row(job_id).state == "succeeded"
    assert [event["epoch"] for event in bench.events(job_id, "epoch")] == [1, 2, 3]


def test_no_event_of_a_flood_is_lost(bench: Bench) -> None:
    job_id = bench.job()
    bench.work("flood")
    assert bench.row(job_id).state == "succeeded"
    assert [event["epoch"] for event in bench.events(job_id, "epoch")] == list(range(1, 3001))


def test_an_epoch_is_in_the_ledger_within_a_second(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("run")):
        wait_for(lambda: bench.events(job_id, "started"), 20)
        wait_for(lambda: bench.events(job_id, "epoch"), 1)


def test_steps_are_told_with_an_estimate_and_without_events(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_WRITES", 0.0)
    job_id = bench.job()
    with bench.working(child("step")):
        wait_for(lambda: bench.row(job_id).estimated_finish, 20)
        job = bench.row(job_id)
    assert job.progress == {**job.progress, "phase": "lit", "epoch": 0, "epochs": 2, "steps": 50}
    assert job.progress["fraction"] == job.progress["step"] / 100 > 0
    assert job.estimated_finish > job.started_at
    left = bench.row(job_id)
    assert (left.state, left.estimated_finish, left.progress["phase"]) == ("queued", None, "lit")
    assert bench.events(job_id, "progress") == []
    bench.work("succeed")
    assert (bench.row(job_id).state, bench.row(job_id).progress["phase"]) == ("succeeded", "storing")


def test_cancel_ends_the_trainer_soon(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("run")):
        wait_for(lambda: bench.events(job_id, "epoch"), 20)
        bench.cancel(job_id)
        wait_for(lambda: bench.row(job_id).state == "cancelled", 10)


def test_cancel_ends_a_trainer_that_is_deaf(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("hang")):
        wait_for(lambda: len(bench.events(job_id, "started")) == 2, 20)
        pids = bench.events(job_id, "started")[-1]["pids"]
        assert all(alive(pid) for pid in pids)
        bench.cancel(job_id)
        wait_for(lambda: bench.row(job_id).state == "cancelled", 15)
    assert not any(alive(pid) for pid in pids)


def test_a_process_left_behind_is_ended(bench: Bench) -> None:
    job_id = bench.job()
    bench.work("leave_child")
    assert bench.row(job_id).state == "succeeded"
    pids = bench.events(job_id, "started")[-1]["pids"]
    assert not any(alive(pid) for pid in pids)


def test_drain_gives_the_job_back_with_a_fresh_checkpoint(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("run")):
        wait_for(lambda: bench.events(job_id, "epoch"), 20)
    job = bench.row(job_id)
    assert (job.state, job.attempt, job.failures) == ("queued", 1, 0)
    assert bench.text(job_id, 1, "checkpoint.pt") == "epoch 9"
    bench.work("succeed")
    assert bench.row(job_id).state == "succeeded"
    assert "resumed from epoch 9" in bench.text(job_id, 2, "trainer.log")


def test_the_time_limit_counts_all_attempts(bench: Bench) -> None:
    job_id = bench.job(time_limit_s=4)
    with bench.working(child("run")):
        wait_for(lambda: bench.row(job_id).seconds_used > 1, 20)
    assert bench.row(job_id).state == "queued"
    started = time.monotonic()
    bench.work("run")
    assert time.monotonic() - started < 4
    job = bench.row(job_id)
    assert job.state == "failed"
    assert job.error["type"] == "time-limit"
    assert "4 s" in job.error["detail"]


@pytest.mark.parametrize("behaviour", ["crash", "run"])
def test_time_between_the_last_heartbeat_and_the_end_counts(bench: Bench, behaviour: str) -> None:
    """Lost or drained: the next attempt's time limit goes on from there."""
    settings = bench.settings.model_copy(update={"lease_seconds": 60})
    seldom = replace(bench, settings=settings)  # a heartbeat every 2 s, and these trainers are quicker
    job_id = bench.job(max_attempts=1)
    with seldom.working(child(behaviour)):
        wait_for(lambda: bench.events(job_id, "epoch"), 20)
    job = bench.row(job_id)
    assert job.state in ("failed", "queued")
    assert job.seconds_used > 0


def test_the_trainer_gets_deadlines_within_its_lease(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("run")):
        wait_for(lambda: bench.events(job_id, "epoch"), 20)
        [received] = bench.folder.glob("*/*/deadlines")
        wait_for(lambda: len(received.read_text().splitlines()) >= 3, 10)
        lines = [[float(part) for part in line.split()] for line in received.read_text().splitlines()]
    assert [deadline for _, deadline in lines] == sorted(deadline for _, deadline in lines)
    assert all(at < deadline < at + bench.settings.lease_seconds for at, deadline in lines)


def test_a_stale_attempt_changes_nothing(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("run")) as supervisor:
        wait_for(lambda: bench.events(job_id, "epoch"), 20)
        [folder] = bench.folder.glob("*/job_*")
        with bench.database.session() as session:
            session.execute(text("UPDATE jobs SET attempt = 7 WHERE id = :id"), {"id": job_id})
        before = bench.row(job_id)
        wait_for(lambda: supervisor.current_job is None, 10)
        after = bench.row(job_id)
        assert (after.state, after.attempt, after.version, after.event_seq) == (
            "running",
            7,
            before.version,
            before.event_seq,
        )
        assert not folder.exists()
        assert bench.storage.list(f"jobs/{job_id}/7/") == []


@pytest.mark.parametrize("kind", ["teacher", "dataset"])
def test_a_file_whose_upload_is_gone_fails_the_job_with_its_field(bench: Bench, kind: str) -> None:
    uploaded = {"teacher": bench.teacher(), "dataset": bench.dataset()}
    job_id = bench.job(teacher=uploaded["teacher"], dataset=uploaded["dataset"])
    with bench.database.session() as session:
        session.execute(text("DELETE FROM uploads WHERE id = :id"), {"id": uploaded[kind]})
    bench.storage.delete_prefix(f"uploads/{uploaded[kind]}/")
    bench.work("succeed")
    job = bench.row(job_id)
    assert job.state == "failed"
    expected = {"teacher": (ErrorType.BAD_TEACHER, "teacher"), "dataset": (ErrorType.BAD_DATASET, "dataset.upload")}
    assert (job.error["type"], job.error["field"]) == expected[kind]


def test_a_missing_checkpoint_starts_the_training_anew(bench: Bench) -> None:
    job_id = bench.job()
    with bench.working(child("run")):
        wait_for(lambda: bench.row(job_id).checkpoint, 20)
    bench.storage.delete_prefix(f"jobs/{job_id}/1/")
    bench.work("succeed")
    assert bench.row(job_id).state == "succeeded"
    assert "resumed" not in bench.text(job_id, 2, "trainer.log")


def test_short_outages_of_the_database_cost_nothing(bench: Bench) -> None:
    job_id = bench.job()
    with (
        cut_off(bench.database, "cut_often") as often,
        bench.supervisor(child("flood"), database=often.database) as supervisor,
    ):
        thread = threading.Thread(target=supervisor.work)
        thread.start()
        wait_for(lambda: bench.row(job_id).state == "running")
        cuts = 0
        # Not for ever: a large transaction needs longer than the time between two cuts.
        while thread.is_alive() and cuts < 10:
            often.cut()
            cuts += 1
            time.sleep(0.2)
        thread.join(60)
        assert cuts > 1
    assert bench.row(job_id).state == "succeeded"
    assert len(bench.metrics(job_id)) == 6000


class AnswersLost(Database):
    """A database whose commits succeed, while the answer to every second one is lost; heartbeats are spared."""

    commits = 0

    @contextmanager
    def session(self) -> Iterator[Session]:
        with super().session() as session:
            yield session
        self.commits += threading.current_thread().name != "lease"
        if threading.current_thread().name != "lease" and self.commits % 2 == 0:
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))


def test_a_commit_whose_answer_is_lost_is_not_recorded_twice(bench: Bench) -> None:
    job_id = bench.job()
    database = AnswersLost(bench.settings.database_url or "")
    with bench.supervisor(child("succeed"), database=database) as supervisor:
        supervisor.work()
    database.close()
    assert bench.row(job_id).state == "succeeded"
    assert len(bench.events(job_id, "started")) == 1
    assert [event["epoch"] for event in bench.events(job_id, "epoch")] == [1, 2, 3]
    assert [event["epoch"] for event in bench.events(job_id, "checkpoint")] == [1, 2, 3]


def test_cut_off_from_the_database_the_trainer_ends_before_its_lease_and_the_job_costs_no_failure(bench: Bench) -> None:
    job_id = bench.job()
    with (
        cut_off(bench.database, "cut_off") as outage,
        bench.supervisor(child("run"), database=outage.database) as supervisor,
    ):
        thread = threading.Thread(target=supervisor.work)
        thread.start()
        wait_for(lambda: bench.events(job_id, "epoch"), 20)
        [trainer] = children()
        outage.lock_out()
        lease_ends = bench.row(job_id).lease_expires_at
        wait_for(lambda: not alive(trainer), bench.settings.lease_seconds + 5)
        with bench.database.session() as session:
            assert session.scalar(text("SELECT clock_timestamp()")) < lease_ends
        job = bench.row(job_id)
        assert (job.state, job.attempt) == ("running", 1)
        with bench.database.session() as session:
            session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
        # Nobody has taken the job back yet, so the worker gives it back itself, and goes on.
        outage.let_in()
        wait_for(lambda: bench.row(job_id).attempt == 2, 20)
        supervisor.drain()
        thread.join(20)
    job = bench.row(job_id)
    assert (job.state, job.failures) == ("queued", 0)
    assert "out of reach" in bench.events(job_id, "released")[0]["reason"]


def test_a_lease_that_expires_although_the_ledger_can_be_reached_counts_as_a_failure(bench: Bench) -> None:
    """Otherwise a job under which its machine can do nothing else would be given back and claimed again for ever."""
    job_id = bench.job(max_attempts=2)
    with bench.database.session() as session:
        # Fails every heartbeat after the claim's, as a statement timeout would.
        session.execute(
            text(
                "CREATE FUNCTION too_slow() RETURNS trigger LANGUAGE plpgsql "
                "AS $$ BEGIN RAISE EXCEPTION 'too slow' USING ERRCODE = 'query_canceled'; END $$"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER too_slow BEFORE UPDATE ON jobs FOR EACH ROW "
                "WHEN (OLD.lease_expires_at < NEW.lease_expires_at) EXECUTE FUNCTION too_slow()"
            )
        )
    quick = replace(bench, settings=bench.settings.model_copy(update={"lease_seconds": 1.5}))
    with quick.working(child("run")):
        wait_for(lambda: bench.row(job_id).attempt == 3 or bench.row(job_id).state == "failed", 30)
    job = bench.row(job_id)
    assert (job.state, job.failures, job.attempt) == ("failed", 2, 2)
    assert job.error["type"] == "worker-lost"
    assert "could not renew its lease" in job.error["detail"]


class NoHeartbeats(Database):
    """A database that answers all but heartbeats: these fail as by a bug, or wait until `answer` is set."""

    def __init__(self, url: str, *, fail: bool) -> None:
        super().__init__(url)
        self.fail = fail
        self.answer = threading.Event()

    @contextmanager
    def session(self) -> Iterator[Session]:
        if threading.current_thread().name == "lease":
            if self.fail:
                raise ValueError("a bug")
            self.answer.wait(60)
        with super().session() as session:
            yield session


@pytest.mark.parametrize("fail", [True, False])
def test_without_heartbeats_no_trainer_outlives_its_lease(bench: Bench, fail: bool) -> None:
    job_id = bench.job()
    database = NoHeartbeats(bench.settings.database_url or "", fail=fail)
    with bench.supervisor(child("hang"), database=database) as supervisor:
        thread = threading.Thread(target=supervisor.work)
        thread.start()
        wait_for(lambda: len(bench.events(job_id, "started")) == 2, 20)
        pids = bench.events(job_id, "started")[-1]["pids"]
        wait_for(lambda: not any(alive(pid) for pid in pids), bench.settings.lease_seconds + 5)
        supervisor.drain()
        database.answer.set()
        thread.join(30)
        assert not thread.is_alive()
    database.close()
