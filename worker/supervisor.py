"""The training worker's heart: claim a job, run one attempt, until no job is left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from jobs import attempts
from jobs.attempts import Claim
from jobs.database import Database
from jobs.errors import Stale
from jobs.hints import PublishHint
from jobs.queues import queues_for
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.studies.advance import advance
from lit_core.spec import SPEC_VERSION, ErrorType, JobError
from worker.attempt import Attempt, trainer_environment
from worker.folder import Machine, Workplace
from worker.lease import Lease, is_outage
from worker.trainer import boottime

CHECKOUT = Path(__file__).resolve().parent.parent
TRAINER = (sys.executable, "-m", "lit_core.train", ".", "--supervised")
SPEC_VERSIONS = [SPEC_VERSION]
PAUSE_SECONDS = 2.0
"""After a lost attempt: a fault of this machine must not burn a job's attempts within a moment."""

log = structlog.get_logger()


class Supervisor:
    """Runs claimed jobs one after another. `command` starts a trainer in its job folder."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        workplace: Workplace,
        *,
        worker_id: str,
        devices: Sequence[str],
        command: Sequence[str] = TRAINER,
        publish_hint: PublishHint | None = None,
    ) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._machine = Machine.of(settings)
        self._workplace = workplace
        self._worker_id = worker_id
        self._devices = list(devices)
        self._command = command
        self._publish_hint = publish_hint
        self._busy = threading.Lock()
        self._drain = threading.Event()
        self.current_job: str | None = None

    def drain(self) -> None:
        """Take no new job and give the running one back with a fresh checkpoint. Safe in a signal handler."""
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
                self._run(claim, claimed_at)
                count += 1
        return count

    def _claim(self) -> Claim | None:
        try:
            with self._database.session() as session:
                return attempts.claim(
                    session, self._worker_id, self._devices, SPEC_VERSIONS, self._settings.lease_seconds
                )
        except Exception as failure:
            if not is_outage(failure):
                raise
            # The hint is used up; housekeeping sends another one once the ledger is back.
            log.warning("ledger out of reach: nothing claimed", error=str(failure).splitlines()[0])
            return None

    def _run(self, claim: Claim, claimed_at: float) -> None:
        bound = log.bind(job=claim.job_id, attempt=claim.attempt)
        bound.info("claimed", device=claim.device, resumes=claim.checkpoint is not None)
        self.current_job = claim.job_id
        ending = "forgotten"
        try:
            with (
                self._workplace.folder(f"{claim.job_id}-{claim.attempt}") as folder,
                Lease(
                    self._database,
                    claim,
                    self._drain,
                    claimed_at=claimed_at,
                    lease_seconds=self._settings.lease_seconds,
                    heartbeat_seconds=self._settings.heartbeat_seconds,
                    log=bound,
                ) as lease,
            ):
                ending = Attempt(
                    database=self._database,
                    storage=self._storage,
                    claim=claim,
                    lease=lease,
                    folder=folder,
                    command=self._command,
                    environment=trainer_environment(folder, claim.device, self._machine.threads, CHECKOUT),
                    machine=self._machine,
                    log=bound,
                ).run()
        except Exception as failure:  # noqa: BLE001 - logged with its traceback, and the job is given back
            bound.exception("the worker failed at an attempt")
            self._lose(claim, f"the worker failed: {failure!r}")
            ending = "lost"
        finally:
            self.current_job = None
        if ending == "lost":
            self._drain.wait(PAUSE_SECONDS)
        if ending == "released":
            self._hint(queues_for(claim.spec.device.value))
        if claim.study_id is not None:
            self._advance(claim.study_id)

    def _advance(self, study_id: str) -> None:
        """See what a trial's end means for its study; should it fail, housekeeping does it a little later."""
        try:
            with self._database.session() as session:
                queues = advance(session, study_id)
        except Exception:
            log.exception("study not advanced", study=study_id)
            return
        self._hint(queues)

    def _hint(self, queues: Sequence[str]) -> None:
        if self._publish_hint is not None:
            for queue in queues:
                self._publish_hint(queue)

    def _lose(self, claim: Claim, detail: str) -> None:
        error = JobError(type=ErrorType.WORKER_LOST, detail=detail[:2000].replace("\0", ""))

        def write(session: Session) -> None:
            attempts.lose(session, claim, error)

        try:
            with self._database.session() as session:
                write(session)
        except Stale:
            log.warning("stale: another attempt has the job", job=claim.job_id, attempt=claim.attempt)
        except Exception:
            # Without this row the lease runs out by itself, with the same result a little later.
            log.exception("lost attempt not recorded", job=claim.job_id, attempt=claim.attempt)
