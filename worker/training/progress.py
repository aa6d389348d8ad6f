"""How far an attempt is, and how long its training still takes."""

from __future__ import annotations

from typing import Any

from lit_spec.trainer.messages import EpochDone, Progress, StudentMeasured, TrainerMessage
from lit_spec.trainer.phases import JobPhase

SECONDS_BETWEEN_WRITES = 1.0
"""Progress alone is recorded at most this often: each time is a row that changes and readers that wake up."""
LEAST_SECONDS = 2.0
"""From fewer seconds of training nothing is estimated."""


class AttemptProgress:
    """The newest progress of an attempt. Times are seconds on `lit_spec.trainer.clock.boottime`.

    The pace is that of this attempt: what was done since the trainer first told a fraction, which is a second or an
    epoch after the training has begun. So neither the start of the trainer nor its slow first steps count, nor what
    earlier attempts have done.
    """

    def __init__(self, fraction: float) -> None:
        """`fraction` of the training is done already."""
        self._fraction = fraction
        self._newest: Progress | None = None
        self._pace_from: tuple[float, float] | None = None
        self._told: float | None = None
        self._is_recorded = True
        self._recorded_at = 0.0

    def take(self, told: TrainerMessage, now: float) -> None:
        """Remember what a message of the trainer, or of the worker itself, says about the progress."""
        match told:
            case Progress():
                self._take(told, now)
            case EpochDone():
                self._take(_after_epoch(told, self._newest), now)
            case StudentMeasured():
                self._take(_after_student(told), now)

    def _take(self, message: Progress, now: float) -> None:
        self._newest, self._is_recorded = message, False
        if message.fraction is not None:
            self._fraction, self._told = message.fraction, now
            began = self._pace_from
            if began is None or message.fraction < began[1]:
                # The first fraction, or an unstable training went back behind it.
                self._pace_from = now, message.fraction

    def is_due(self, now: float) -> bool:
        """Whether there is something new to record, and the last time is long enough ago."""
        return not self._is_recorded and now - self._recorded_at >= SECONDS_BETWEEN_WRITES

    def newest(self, now: float) -> dict[str, Any] | None:
        """What to record now, as in the ledger. None before anything was told."""
        if self._newest is None:
            return None
        self._is_recorded, self._recorded_at = True, now
        return {**self._newest.model_dump(mode="json", exclude={"type"}), "fraction": self._fraction}

    def seconds_left(self, now: float) -> float | None:
        """Until the end of the training. None while nobody knows, and after the training."""
        if self._pace_from is None or self._told is None or self._fraction >= 1:
            return None
        began_at, began_with = self._pace_from
        seconds, done = self._told - began_at, self._fraction - began_with
        if seconds < LEAST_SECONDS or done <= 0:
            return None
        return max(0.0, seconds / done * (1 - self._fraction) - (now - self._told))


def _after_epoch(message: EpochDone, before: Progress | None) -> Progress:
    """All epochs of a phase have as many steps as it began with."""
    phase = JobPhase(message.phase.value)
    steps = before.steps if before is not None and before.phase == phase else None
    return Progress(
        phase=phase,
        epoch=message.epoch,
        epochs=message.epochs,
        step=None if steps is None else 0,
        steps=steps,
        fraction=message.fraction,
    )


def _after_student(message: StudentMeasured) -> Progress:
    """In a plan each student counts as an epoch."""
    number, students = message.number, message.students
    return Progress(
        phase=JobPhase.PLAN, epoch=number, epochs=students, fraction=min(1.0, number / students) if students else 0.0
    )
