"""A worker's part of an attempt: a job folder, and the trainer that runs in it under a lease and limits.

The worker that has claimed the job has node 0 of its attempt and answers for the whole of it (`attempt`). A worker that
has joined has another node (`seat`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.models import Upload
from jobs.errors import NotFound
from jobs.ledger import uploads
from jobs.ledger.attempts import Claim
from jobs.settings import Settings
from jobs.storage.marker import storage_fault
from jobs.storage.storage import Storage
from lit_spec import JobError
from lit_spec.states import UploadState
from lit_spec.trainer.clock import boottime
from lit_spec.trainer.messages import TrainerMessage
from lit_spec.trainer.run import TrainerMachine
from worker.host.children import Start, execute
from worker.training.attempt_results import AttemptResult, failed, unfit, upload_missing
from worker.training.job_folder import InputRefused, UploadMissing, prepare
from worker.training.launching import command_for
from worker.training.lease import Lease
from worker.training.ledger_writes import LedgerWrites
from worker.training.limits import LimitWatch, TrainerLimits
from worker.training.metrics import TrainingMetrics
from worker.training.trainer_process import SECONDS_FOR_PIPE, Trainer

LOOK_SECONDS = 0.1


def worker_of(node: int) -> str:
    """What reasons and errors call the worker that has this node."""
    return "the worker" if node == 0 else "a worker that had joined"


@dataclass
class Part:
    """The claim of a worker that has joined is made from its seat."""

    claim: Claim
    node: int
    lease: Lease
    ledger: LedgerWrites
    storage: Storage
    marker: str
    """Storage key of the marker, which shows that the storage is the ledger's."""
    folder: Path
    start: Start
    command: Sequence[str]
    """Of a job of one process."""
    environment: dict[str, str]
    machine: TrainerMachine
    settings: Settings
    log: Any
    metrics: TrainingMetrics

    def prepare(self) -> None:
        """Fill the job folder. Raises UploadMissing, InputRefused, OSError and Interrupted."""
        with self.metrics.prepare_seconds.time():
            prepare(self.folder, self.claim, self.storage, self.settings, self.machine, self.lease.check, self._size_of)

    def start_trainer(self) -> Trainer:
        """Raises OSError and Interrupted."""
        claim = self.claim
        limits = TrainerLimits.of(self.settings, self.folder, claim.device)
        command = command_for(
            claim.spec,
            self.command,
            claim.endpoint,
            node=self.node,
            run=f"{claim.job_id}-{claim.attempt}",
            join_seconds=self.settings.join_seconds,
        )
        # A template forks single trainers only.
        start = self.start if claim.spec.processes == 1 else execute
        return Trainer(start, command, self.folder, self.environment, limits, self.lease.check)

    def not_started(self, failure: UploadMissing | InputRefused | OSError) -> AttemptResult:
        """The result of an attempt whose trainer could not be started."""
        match failure:
            case UploadMissing(upload=upload):
                return upload_missing(failure, self._find_upload(upload), storage_fault(self.storage, self.marker))
            case InputRefused(error=error):
                return failed(error)
            case OSError():
                return unfit(f"{worker_of(self.node)} could not prepare the job: {failure}")

    def run_trainer(
        self, trainer: Trainer, take: Callable[[list[TrainerMessage]], None]
    ) -> tuple[int, JobError | None]:
        """Run a trainer to its end. Returns its exit code, and the error of the limit that it exceeded.

        `take` gets its messages, and is called every LOOK_SECONDS even if there are none.
        """
        watch = LimitWatch(trainer.pid, trainer.kill, trainer.limits, self.folder, self.metrics.memory)
        with trainer, watch:
            self.log.info("trainer started", pid=trainer.pid)
            self.metrics.trainer_started(self.claim.device)
            self.lease.attach(trainer)
            while not trainer.exited():
                if self.lease.lost:
                    # The lease's own thread may be waiting for a ledger that does not answer.
                    trainer.kill()
                take(trainer.messages(LOOK_SECONDS))
            code = trainer.end()
            self.lease.detach()
            give_up_at = boottime() + SECONDS_FOR_PIPE
            while not trainer.all_messages_read() and boottime() < give_up_at:
                take(trainer.messages(LOOK_SECONDS))
            self.log.info("trainer ended", exit_code=code)
        self.metrics.memory(0)
        return code, watch.error or trainer.limits.error_of_exit(code)

    def check_storage(self) -> None:
        """Raises OSError when the storage is not mounted: nobody would find files that are stored now."""
        if (fault := storage_fault(self.storage, self.marker)) is not None:
            raise OSError(fault)

    def _find_upload(self, upload_id: str) -> Upload | None:
        def find(session: Session) -> Upload | None:
            try:
                return uploads.get(session, self.claim.owner, upload_id)
            except NotFound:
                return None

        return self.ledger.until_lost(find)

    def _size_of(self, upload_id: str) -> int | None:
        upload = self._find_upload(upload_id)
        return upload.size if upload is not None and upload.state == UploadState.COMPLETE else None
