"""Spans of an attempt. The trainer has no network, so its phases become spans here, from its messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.ledger.attempts import Claim
from jobs.tracing import Span, Tracing
from lit_spec import Phase
from lit_spec.trainer.messages import EpochDone, Progress, TrainerMessage

TRAINING = frozenset(phase.value for phase in Phase)
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
    """Cuts the time of a trainer into its phases, as its messages name them. Until the first it is `starting`.

    `first_step` is a span of its own: from the beginning of the training to the end of its first step.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._name = "starting"
        self._began = time.time()
        self._epochs = 0
        self._training_began: float | None = None
        self._step_before = 0
        """At the beginning of the training, which a resumed job has within an epoch."""
        self._has_stepped = False

    def trainer_said(self, message: TrainerMessage) -> None:
        match message:
            case Progress(phase=phase, step=step):
                self._begin(phase.value)
                if phase.value in TRAINING:
                    self._begin_training(step or 0)
                    if (step or 0) > self._step_before:
                        self._take_step()
            case EpochDone(phase=phase):
                self._begin(phase.value)
                self._begin_training(0)
                self._take_step()
                self._epochs += 1

    def end(self) -> None:
        """Record the phase that goes on."""
        attributes = {"lit.epochs": self._epochs} if self._epochs else {}
        now = time.time()
        self._tracing.record(self._name, self._began, now, attributes)
        self._began, self._epochs = now, 0

    def _begin(self, name: str) -> None:
        if name != self._name:
            self.end()
            self._name = name

    def _begin_training(self, step: int) -> None:
        if self._training_began is None:
            self._training_began, self._step_before = self._began, step

    def _take_step(self) -> None:
        if self._training_began is not None and not self._has_stepped:
            self._has_stepped = True
            self._tracing.record("first_step", self._training_began, time.time())
