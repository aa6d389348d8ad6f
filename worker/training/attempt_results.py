"""How an attempt may end, and what the ledger is told of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact, Claim
from lit_spec import ErrorType, JobError


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: for people, its name; the ledger's function for it."""

    name: str
    write: Callable[[Session, Claim], None]
    fault: str | None = None
    """What is wrong with this worker, where that is the reason."""


def _write_nothing(_session: Session, _claim: Claim) -> None:
    """The job is no longer this attempt's."""


CANCELLED = Ending("cancelled", attempts.cancelled)
RELEASED = Ending("released", attempts.release)
FORGOTTEN = Ending("forgotten", _write_nothing)


def succeeded(result: dict[str, Any], manifest: Sequence[Artifact]) -> Ending:
    return Ending("succeeded", lambda session, claim: attempts.succeed(session, claim, result, manifest))


def failed(error: JobError) -> Ending:
    """The job fails for good."""
    return Ending("failed", lambda session, claim: attempts.fail(session, claim, error))


def lost(error: ErrorType, detail: str, *, field: str | None = None, fault: str | None = None) -> Ending:
    """This attempt fails; the job is tried again while it has attempts left."""
    failure = JobError(type=error, detail=detail[:2000].replace("\0", ""), field=field)
    return Ending("lost", lambda session, claim: attempts.lose(session, claim, failure), fault)


def unfit(fault: str) -> Ending:
    """Nothing is wrong with the job: it goes back, and no failure is counted."""
    return Ending("released", lambda session, claim: attempts.release(session, claim, fault), fault)


def as_said(error: JobError) -> Ending:
    """What a trainer that gave up says: another attempt would meet the same, unless the worker's device is to blame."""
    if error.type is ErrorType.DEVICE_UNAVAILABLE:
        return lost(error.type, error.detail, field=error.field, fault=error.detail)
    return failed(error)


def describe_exit(code: int, last_line: str) -> str:
    """A sentence about a trainer that ended without saying why."""
    said = f"; its log ends with: {last_line}" if last_line else ""
    if code == -signal.SIGKILL:
        return f"the trainer was killed (SIGKILL), perhaps because the machine ran out of memory{said}"
    if code < 0:
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
        return f"the trainer was ended by {name}{said}"
    if code == 0:
        return f"the trainer ended without finishing{said}"
    return f"the trainer ended with exit code {code}{said}"
