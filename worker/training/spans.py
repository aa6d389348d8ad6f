"""Spans of an attempt. The trainer has no network, so its phases become spans here, from its messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.ledger.attempts import Claim
from jobs.tracing import Span, Tracing
from lit_spec.trainer.messages import (
    EpochDone,
    Finished,
    Started,
    StudentChosen,
    StudentMeasured,
    TeacherMeasured,
    TrainerMessage,
)

FAILED = frozenset({"failed", "lost", "expired", "stale"})


@contextmanager
def attempt_span(tracing: Tracing, claim: Claim, claim_seconds: float) -> Iterator[Span]:
    """The span of an attempt, in the trace of the request that made the job. It begins with the claim.

    `claim_seconds`: how long the claim took. Before the first attempt there is a span of the wait in the queue.
    """
    attributes: dict[str, str | int] = {
        "lit.job": claim.job_id,
        "lit.attempt": claim.attempt,
        "lit.device": claim.device,
        **({} if claim.study_id is None else {"lit.study": claim.study_id}),
    }
    claimed = time.time()
    asked = claimed - claim_seconds
    with tracing.span("attempt", attributes, parent=claim.traceparent, start=asked) as span:
        if claim.queued_at is not None:
            tracing.record("queued", claim.queued_at.timestamp(), asked, parent=claim.traceparent)
        tracing.record("claim", asked, claimed)
        yield span


def end_span(span: Span, result: str, fault: str | None) -> None:
    span.set("lit.result", result)
    if result in FAILED or fault is not None:
        span.fail(fault or result)


class PhaseSpans:
    """Cuts the time of a trainer into phases: each message says which phase has gone on until now."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._name: str | None = None
        """The phase to which messages have come. It goes on until a message of another phase comes."""
        self._began = self._until = time.time()
        self._epochs = 0

    def trainer_said(self, message: TrainerMessage) -> None:
        match message:
            case Started():
                self._passed("loading")
            case StudentChosen():
                self._passed("choosing_blocks")
            case TeacherMeasured():
                self._passed("measuring_teacher")
            case EpochDone(phase=phase):
                self._passed(phase.value)
                self._epochs += 1
            case StudentMeasured():
                self._passed("plan")
            case Finished():
                self._passed("measuring_student")

    def end(self) -> None:
        """Record the phase that went on until the newest message."""
        if self._name is not None:
            attributes = {"lit.epochs": self._epochs} if self._epochs else {}
            self._tracing.record(self._name, self._began, self._until, attributes)
        self._name, self._began, self._epochs = None, self._until, 0

    def _passed(self, name: str) -> None:
        if name != self._name:
            self.end()
            self._name = name
        self._until = time.time()
