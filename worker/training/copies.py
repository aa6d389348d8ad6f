"""Copies of the trainer's checkpoint and log in storage, which are made while it trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from jobs.storage import layout
from lit_spec.trainer.clock import boottime
from lit_spec.trainer.folder import CHECKPOINT_FILE, LOG_FILE
from lit_spec.trainer.messages import CheckpointWritten
from worker.training.lease import InterruptReason
from worker.training.part import Part

LOG_SECONDS = 2.0


class Copies:
    """A context manager with a thread, so that the attempt doesn't wait for slow storage."""

    def __init__(self, part: Part, record: Callable[[list[CheckpointWritten]], None]) -> None:
        """`record` is called after a checkpoint is stored, with all messages of checkpoints that it covers."""
        self._part = part
        self._record = record
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copies")
        self._checkpoints: list[CheckpointWritten] = []
        self._copy: Future[list[CheckpointWritten]] | None = None
        self._log_copy: Future[None] | None = None
        self._log_size = 0
        self._log_at = 0.0

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def add(self, checkpoint: CheckpointWritten) -> None:
        """Copy this checkpoint, unless a newer one replaces it before."""
        self._checkpoints.append(checkpoint)

    def advance(self) -> None:
        """Begin the copies that are due, and record what is stored."""
        self._advance_checkpoint()
        self._advance_log()

    def finish(self) -> None:
        """Copy what is left, after the trainer has ended."""
        while self._copy is not None or self._checkpoints:
            if self._part.lease.reason is InterruptReason.CANCEL:
                self._checkpoints.clear()
            if self._copy is not None:
                self._copy.exception()
            self._advance_checkpoint()
        self._thread.submit(self._store_log).result()

    def _advance_checkpoint(self) -> None:
        """Store the newest checkpoint, one at a time. Record it after it is stored."""
        if self._copy is not None and self._copy.done():
            self._record_checkpoint(self._copy)
            self._copy = None
        if self._checkpoints and self._copy is None and self._part.lease.reason is not InterruptReason.CANCEL:
            covered, self._checkpoints = self._checkpoints, []
            self._copy = self._thread.submit(self._store_checkpoint, covered)

    def _store_checkpoint(self, covered: list[CheckpointWritten]) -> list[CheckpointWritten]:
        part = self._part
        part.lease.check_not_lost()
        part.check_storage()
        file = part.folder / CHECKPOINT_FILE
        with part.metrics.checkpoint_seconds.time():
            part.storage.put_file(layout.checkpoint(part.claim.job_id, part.claim.attempt), file)
        part.metrics.checkpoint_bytes.inc(file.stat().st_size)
        return covered

    def _record_checkpoint(self, copy: Future[list[CheckpointWritten]]) -> None:
        try:
            covered = copy.result()
        except OSError:
            # The training continues. Until a later checkpoint is stored, the earlier one is used.
            self._part.log.exception("checkpoint not stored")
        else:
            self._record(covered)

    def _advance_log(self) -> None:
        """Store the trainer's log every few seconds, if it has grown."""
        if self._log_copy is not None and not self._log_copy.done():
            return
        if boottime() - self._log_at >= LOG_SECONDS:
            self._log_at = boottime()
            self._log_copy = self._thread.submit(self._store_log)

    def _store_log(self) -> None:
        part = self._part
        path = part.folder / LOG_FILE
        size = path.stat().st_size
        if size == self._log_size or part.lease.lost:
            return
        try:
            part.storage.put_file(layout.trainer_log(part.claim.job_id, part.claim.attempt), path)
        except OSError:
            part.log.exception("trainer's log not stored")
        else:
            self._log_size = size
