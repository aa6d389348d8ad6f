"""Workers that stand still past their leases: whatever still exists of them, only the newest attempt can write."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from jobs.housekeeping import LEDGER_LOCK
from jobs.storage.folder import TEMPORARY
from tests.faults.machines import LEASE_SECONDS, Machines, wait_for_epochs
from tests.worker.bench import Bench, wait_for

# Long enough that neither worker is done before the test is.
REQUEST: dict[str, Any] = {
    "student": {"depth": 14, "select": "even"},
    "schedule": {"lit": {"epochs": 200}, "fine_tune": {"epochs": 0}, "batch_size": 32},
}
SHORT = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 0}}


@pytest.mark.long
def test_the_trainer_of_a_frozen_worker_ends_by_itself_and_the_stale_one_changes_nothing(
    bench: Bench, machines: Machines
) -> None:
    job_id, frozen, first, second_worker = train_beside_an_idle_worker(bench, machines)
    with Watch(machines) as watch:
        freeze(bench, frozen)
        second = machines.trainer_of(second_worker)
        assert bench.row(job_id).attempt == 2
        wait_for_epochs(bench, job_id, len(bench.events(job_id, "epoch")) + 1)
        files = files_of_the_first_attempt(bench, job_id)
        assert f"jobs/{job_id}/1/checkpoint.pt" in files

        frozen.send_signal(signal.SIGCONT)
        # Thawed, it finds out that it is stale, forgets the job and is ready for another.
        other = bench.job(teacher=machines.teacher(), student={"depth": 8}, schedule=SHORT, exports=[])
        wait_for(lambda: bench.row(other).state == "succeeded", 60)
        assert files_of_the_first_attempt(bench, job_id) == files
        end(bench, job_id)

    assert first not in machines.trainers()
    # The other job's trainer is the thawed worker's own; of this job there was never more than one.
    assert watch.most_at_once[job_id] == 1
    assert watch.seen[job_id] == {first, second}
    only_the_second_attempt_wrote_after_the_first_was_lost(bench, job_id)
    assert bench.row(job_id).checkpoint == f"jobs/{job_id}/2/checkpoint.pt"


@pytest.mark.long
def test_where_worker_and_trainer_are_frozen_a_second_trainer_starts_and_only_it_writes(
    bench: Bench, machines: Machines
) -> None:
    job_id, frozen, first, second_worker = train_beside_an_idle_worker(bench, machines)
    freeze(bench, frozen)
    os.kill(first, signal.SIGSTOP)
    second = machines.trainer_of(second_worker)
    wait_for_epochs(bench, job_id, len(bench.events(job_id, "epoch")) + 1)
    # Nothing could end the first one. It still exists, beside the second.
    assert psutil.Process(first).status() == psutil.STATUS_STOPPED
    files = files_of_the_first_attempt(bench, job_id)

    # Thawed alone, the trainer sees that its deadline has passed.
    os.kill(first, signal.SIGCONT)
    wait_for(lambda: first not in machines.trainers(), 20)
    assert second in machines.trainers()
    frozen.send_signal(signal.SIGCONT)
    other = bench.job(teacher=machines.teacher(), student={"depth": 8}, schedule=SHORT, exports=[])
    wait_for(lambda: bench.row(other).state == "succeeded", 60)
    assert files_of_the_first_attempt(bench, job_id) == files
    end(bench, job_id)
    only_the_second_attempt_wrote_after_the_first_was_lost(bench, job_id)
    assert bench.row(job_id).checkpoint == f"jobs/{job_id}/2/checkpoint.pt"


def test_a_worker_that_is_frozen_while_it_keeps_house_holds_nobody_up(bench: Bench, machines: Machines) -> None:
    machines.stop_housekeeping()
    job_id = bench.job(teacher=machines.teacher(), **REQUEST)
    frozen = machines.start_worker(warm=False)
    machines.trainer_of(frozen)
    with bench.database.session() as session:
        # Housekeeping comes to this table, and waits there.
        session.execute(text("LOCK TABLE workers"))
        wait_for(lambda: waits_in_housekeeping(bench), 20)
        frozen.send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED)
    assert keeps_house(bench)
    second_worker = machines.start_worker(warm=False)
    machines.trainer_of(second_worker)
    assert (bench.row(job_id).attempt, bench.row(job_id).failures) == (2, 1)
    frozen.send_signal(signal.SIGCONT)
    end(bench, job_id)
    only_the_second_attempt_wrote_after_the_first_was_lost(bench, job_id)


def test_a_worker_that_was_suspended_gives_its_job_back_if_nobody_has_taken_it(
    bench: Bench, machines: Machines
) -> None:
    machines.stop_housekeeping()
    job_id = bench.job(teacher=machines.teacher(), **REQUEST)
    suspended = machines.start_worker(warm=False)
    machines.trainer_of(suspended)
    freeze(bench, suspended)
    time.sleep(LEASE_SECONDS + 1)
    suspended.send_signal(signal.SIGCONT)
    wait_for(lambda: bench.row(job_id).attempt == 2, 30)
    end(bench, job_id)
    assert bench.row(job_id).failures == 0
    assert len(bench.events(job_id, "released")) == 1


def train_beside_an_idle_worker(
    bench: Bench, machines: Machines
) -> tuple[str, subprocess.Popen[bytes], int, subprocess.Popen[bytes]]:
    """A job that trains: its id, its worker and its trainer's process id. And another worker, with nothing to do."""
    job_id = bench.job(teacher=machines.teacher(), **REQUEST)
    worker = machines.start_worker()
    trainer = machines.trainer_of(worker)
    idle = machines.start_worker()
    wait_for_epochs(bench, job_id, 2)
    return job_id, worker, trainer, idle


def freeze(bench: Bench, worker: subprocess.Popen[bytes]) -> None:
    """Stop the worker, though not while it stores a file: thawed, it would finish that, and rightly."""
    while True:
        worker.send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
        if not list((bench.settings.storage_root / TEMPORARY).iterdir()):
            return
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.02)


def end(bench: Bench, job_id: str) -> None:
    bench.cancel(job_id)
    wait_for(lambda: bench.row(job_id).state == "cancelled", 20)


def only_the_second_attempt_wrote_after_the_first_was_lost(bench: Bench, job_id: str) -> None:
    job = bench.row(job_id)
    assert (job.attempt, job.failures) == (2, 1)
    with bench.database.session() as session:
        query = text("SELECT attempt, type FROM events WHERE job_id = :id ORDER BY seq")
        events = [tuple(row) for row in session.execute(query, {"id": job_id})]
    lost = events.index((1, "lost"))
    assert all(attempt == 2 for attempt, _ in events[lost + 1 :])


def waits_in_housekeeping(bench: Bench) -> bool:
    with bench.database.engine.connect() as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM workers%'"
        )
        return bool(connection.scalar(text(query)))


def keeps_house(bench: Bench) -> bool:
    with bench.database.engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :lock AND granted")
        return bool(connection.scalar(query, {"lock": LEDGER_LOCK}))


def files_of_the_first_attempt(bench: Bench, job_id: str) -> dict[str, bytes]:
    found = {}
    for key in bench.storage.list(f"jobs/{job_id}/1/"):
        with bench.storage.open(key) as file:
            found[key] = file.read()
    return found


class Watch:
    """Looks all the time which trainers live at once, for each job."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most_at_once: dict[str, int] = {}
        self.seen: dict[str, set[int]] = {}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.is_set():
            jobs: dict[str, set[int]] = {}
            for pid in self._machines.trainers():
                try:
                    folder = psutil.Process(pid).cwd()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                # The job folder is named <job>-<attempt>.
                jobs.setdefault(folder.rsplit("/", 1)[1].rsplit("-", 1)[0], set()).add(pid)
            for job, pids in jobs.items():
                self.most_at_once[job] = max(self.most_at_once.get(job, 0), len(pids))
                self.seen.setdefault(job, set()).update(pids)
            time.sleep(0.01)
