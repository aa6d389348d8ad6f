"""The loop of the training worker: claim a job and run one attempt at it, until no job is left."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import structlog
from sqlalchemy import ColumnElement

from jobs.backoff import Backoff
from jobs.broker.queues import DEVICE_QUEUES, queues_for
from jobs.broker.wakeups import SendWakeup
from jobs.database.connection import Database
from jobs.database.outages import first_line, is_outage
from jobs.errors import Stale
from jobs.ledger import attempts, seats
from jobs.ledger.attempts import Claim
from jobs.ledger.seats import TakenSeat
from jobs.ledger.workers import NO_MORE_THAN_ONE
from jobs.settings import Settings
from jobs.storage.storage import Storage
from jobs.studies.advance import advance
from jobs.tracing import OFF, Tracing
from jobs.tracking.trackers import Trackers
from lit_spec import ErrorType
from lit_spec.requests.upgrades import READABLE_SPEC_VERSIONS
from lit_spec.trainer.clock import boottime
from worker.host.children import Start, execute
from worker.host.devices import device_fault
from worker.host.full_disks import storing_fault, work_disk_fault
from worker.host.work_folder import WorkFolder
from worker.training.attempt import Attempt
from worker.training.attempt_results import AttemptResult, lost, unfit
from worker.training.job_folder import trainer_machine
from worker.training.launching import TRAINER, free_endpoint, trainer_environment
from worker.training.lease import Beat, Lease
from worker.training.ledger_writes import LedgerWrites
from worker.training.metrics import TrainingMetrics
from worker.training.part import Part, worker_of
from worker.training.progress import AttemptProgress
from worker.training.seat import SeatAttempt, claim_of, heartbeat_of
from worker.training.spans import attempt_span, end_span
from worker.training.tidying import tidy

PAUSE_SECONDS = 2.0
"""Pause after a lost attempt, so that a fault of this machine does not use up a job's attempts at once."""
LEFT_TO_OTHERS_SECONDS = 60.0
"""If the worker finds a fault of its own during a job, or waited in vain for other workers, it does not claim this job
again for this long."""

log = structlog.get_logger()


def _still(left_out: dict[str, float]) -> list[str]:
    """The jobs that are still left out; the others are forgotten."""
    now = boottime()
    for job in [job for job, until in left_out.items() if until <= now]:
        del left_out[job]
    return list(left_out)


class Supervisor:
    """Runs claimed jobs one after another. `command` is a trainer, which `start` starts in its job folder.

    `processes` says how many processes of one job this worker runs at most on each device.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        work_folder: WorkFolder,
        *,
        marker: str,
        worker_id: str,
        devices: Sequence[str],
        processes: Mapping[str, int] = NO_MORE_THAN_ONE,
        command: Sequence[str] = TRAINER,
        start: Start = execute,
        send_wakeup: SendWakeup | None = None,
        metrics: TrainingMetrics | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._trackers = Trackers.of(settings)
        self._machine = trainer_machine(settings)
        self._work_folder = work_folder
        self._marker = marker
        self._worker_id = worker_id
        self._devices = list(devices)
        self._processes = dict(processes)
        self._address = settings.node_address or socket.gethostname()
        self._command = command
        self._start = start
        self._send_wakeup = send_wakeup
        self._metrics = metrics or TrainingMetrics()
        self._tracing = tracing
        self._busy = threading.Lock()
        self._drain = threading.Event()
        self._backoff = Backoff()
        self._left_to_others: dict[str, float] = {}
        self._not_joined: dict[str, float] = {}
        self.paused = False
        self.current_job: str | None = None

    def drain(self) -> None:
        """Claim no new job, and give the running job back after a checkpoint. Safe in a signal handler."""
        self._drain.set()

    def work(self) -> int:
        """Run jobs until none can be claimed or `drain` is called. Returns how many were run."""
        count = 0
        with self._busy:
            while not self._drain.is_set():
                claimed_at = boottime()
                claim = self._claim()
                if claim is None:
                    break
                if isinstance(claim, TakenSeat):
                    self._sit(claim, claimed_at)
                    count += 1
                    continue
                result = self._run(claim, claimed_at)
                count += 1
                if claim.study_id is not None:
                    self._advance(claim.study_id)
                self._prepare_next(claim, result)
        return count

    def _claim(self) -> Claim | TakenSeat | None:
        """A seat in an attempt that waits for workers or, if there is none, a job."""
        lease_seconds = self._settings.lease_seconds
        try:
            with self._metrics.claim_seconds.time(), self._database.session() as session:
                seat = seats.take(session, self._worker_id, self._joinable(), lease_seconds)
                return seat or attempts.claim(
                    session,
                    self._worker_id,
                    self._devices,
                    READABLE_SPEC_VERSIONS,
                    lease_seconds,
                    left_to_others=_still(self._left_to_others),
                    processes=self._processes,
                    endpoint=free_endpoint(self._address),
                    trackers=self._trackers,
                    defaults=self._settings.quotas,
                )
        except Exception as failure:
            if not is_outage(failure):
                raise
            # This wake-up is lost. Housekeeping sends another one when the ledger can be reached again.
            log.warning("ledger out of reach: nothing claimed", error=first_line(failure))
            return None

    def _joinable(self) -> ColumnElement[bool]:
        """Which running jobs this worker may join."""
        left_out = _still(self._not_joined)
        return seats.joinable(self._devices, self._processes, READABLE_SPEC_VERSIONS, left_out)

    def _sit(self, seat: TakenSeat, claimed_at: float) -> None:
        """Run this worker's part of another one's attempt."""
        claim = claim_of(seat)
        bound = log.bind(job=seat.job_id, attempt=seat.attempt, node=seat.node)
        bound.info("joined", device=seat.device)
        result = self._run_part(
            claim, seat.node, claimed_at, bound, lambda part: SeatAttempt(part, seat).run(), heartbeat_of(seat)
        )
        bound.info("seat left", result=result.name)
        if result.fault is not None:
            self._not_joined[seat.job_id] = boottime() + LEFT_TO_OTHERS_SECONDS
        self._prepare_next(claim, result)

    def _run(self, claim: Claim, claimed_at: float) -> AttemptResult:
        bound = log.bind(job=claim.job_id, attempt=claim.attempt)
        bound.info("claimed", device=claim.device, resumes=claim.checkpoint is not None)
        for _ in range(claim.spec.nodes - 1):
            self._wake([DEVICE_QUEUES[claim.device]])

        def run(part: Part) -> AttemptResult:
            older = partial(seats.an_older_one_waits, job_id=claim.job_id, joinable=self._joinable())
            return Attempt(part, AttemptProgress(claim.fraction), self._tracing, an_older_one_waits=older).run()

        with attempt_span(self._tracing, claim, boottime() - claimed_at) as span:
            result = self._run_part(claim, 0, claimed_at, bound, run)
            end_span(span, result.name, result.fault)
        self._metrics.attempts.labels(result.name).inc()
        return result

    def _run_part(
        self,
        claim: Claim,
        node: int,
        claimed_at: float,
        bound: structlog.typing.FilteringBoundLogger,
        run: Callable[[Part], AttemptResult],
        beat: Beat | None = None,
    ) -> AttemptResult:
        """Run this worker's part of an attempt, in a folder and under a lease. `run` records the result."""
        self.current_job = claim.job_id
        self._metrics.busy.set(1)
        try:
            with ExitStack() as stack:
                try:
                    folder = stack.enter_context(self._work_folder.temporary_folder(f"{claim.job_id}-{claim.attempt}"))
                except OSError as failure:
                    return self._record(claim, unfit(f"the worker could not make a job folder: {failure}"))
                lease = Lease(
                    self._database,
                    claim,
                    self._drain,
                    claimed_at=claimed_at,
                    lease_seconds=self._settings.lease_seconds,
                    log=bound,
                    metrics=self._metrics,
                    beat=beat,
                )
                part = Part(
                    claim=claim,
                    node=node,
                    lease=stack.enter_context(lease),
                    ledger=LedgerWrites(self._database, lease, bound),
                    storage=self._storage,
                    marker=self._marker,
                    folder=folder,
                    start=self._start,
                    command=self._command,
                    environment=trainer_environment(folder, claim.device, self._machine.threads),
                    machine=self._machine,
                    settings=self._settings,
                    log=bound,
                    metrics=self._metrics,
                )
                return run(part)
        except Exception as failure:  # noqa: BLE001 - logged with its traceback, and the job is given back
            bound.exception("the worker failed at an attempt")
            fault = f"{worker_of(node)} failed: {failure!r}"
            return self._record(claim, lost(ErrorType.WORKER_LOST, fault, fault=fault))
        finally:
            self.current_job = None
            self._metrics.busy.set(0)

    def _record(self, claim: Claim, result: AttemptResult) -> AttemptResult:
        """Record the result for an attempt that could not do it itself."""
        try:
            with self._database.session() as session:
                result.write(session, claim)
        except Stale:
            log.warning("stale: another attempt has the job", job=claim.job_id, attempt=claim.attempt)
        except Exception:
            # Without this write the lease expires soon, and housekeeping counts a failure.
            log.exception("result of the attempt not recorded", job=claim.job_id, attempt=claim.attempt)
        return result

    def _advance(self, study_id: str) -> None:
        """Advance the study after one of its trials. If that fails, housekeeping does it a little later."""
        try:
            with self._database.session() as session:
                queues = advance(session, study_id, self._settings.quotas)
        except Exception:
            log.exception("study not advanced", study=study_id)
            return
        self._wake(queues)

    def _wake(self, queues: Sequence[str]) -> None:
        if self._send_wakeup is not None:
            for queue in queues:
                self._send_wakeup(queue)

    def _prepare_next(self, claim: Claim, result: AttemptResult) -> None:
        """Wake other workers if the job was given back. Pause if the worker has a fault or lost the attempt."""
        if result.fault is not None or result.left_to_others:
            self._left_to_others[claim.job_id] = boottime() + LEFT_TO_OTHERS_SECONDS
        if result.fault is not None or result.name in {"released", "expired"}:
            self._wake(queues_for(claim.spec.device.value))
        if result.fault is not None:
            self._recover(result.fault)
            return
        self._backoff.reset()
        if result.name in {"lost", "expired"}:
            self._drain.wait(PAUSE_SECONDS)

    def _recover(self, fault: str | None) -> None:
        """Claim nothing for a while, and continue to pause as long as the storage, a disk or a device has a fault."""
        self.paused = True
        self._metrics.ready.set(0)
        while fault is not None and not self._drain.is_set():
            seconds = self._backoff.next()
            log.error("this worker has a fault and claims no job for a while", fault=fault, seconds=seconds)
            self._drain.wait(seconds)
            place = self._work_folder.path
            if work_disk_fault(place) is not None:
                tidy(self._settings, place)
            fault = storing_fault(self._storage, self._marker, place) or device_fault(self._devices)
        self.paused = False
        self._metrics.ready.set(1)
