"""What is measured: the ledger's own functions, as the API, the workers and the housekeeping call them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from benchmarks.growth.rows import RESULT, Rows, artifacts, epoch_values, key, owner, upload_owner
from benchmarks.growth.sizes import WORKERS
from benchmarks.inspected_teacher import INSPECTION
from jobs import housekeeping
from jobs.database.connection import Database
from jobs.database.models import Job
from jobs.ledger import attempts, audit, creation, idempotency, metrics, owned_jobs, quotas, retention, uploads
from jobs.ledger.attempts import Claim, Event, Metric
from jobs.ledger.creation import NewJob
from jobs.ledger.idempotency import IdempotentRequest
from jobs.ledger.overview import overview
from jobs.ledger.owned_rows import PageCursor
from jobs.studies import studies
from jobs.studies.advance import due
from jobs.tracking import runs
from jobs.webhooks import claims
from lit_spec import SPEC_VERSION, JobRequest, resolve
from lit_spec.answers.owners import Quotas
from lit_spec.states import JobState

PAGE = 50
DEEP = 1000
"""The page that is compared with the first one; the last one where there are fewer."""
LEASE_SECONDS = 3600.0
SEED = 19
ONE_OWNER_WAITS = Quotas(jobs_running=5)
"""With it the first owner, who runs more, waits; the others run one job at most."""


class Listing(Protocol):
    def __call__(self, session: Session, *, limit: int) -> Sequence[object]: ...


@dataclass(frozen=True)
class Case:
    name: str
    call: Callable[[Session], object]
    """One transaction. Each call is about another job where that is possible, so that no row is always at hand."""
    promised: bool = True
    """Whether growth may cost it no more than is promised. The others count all that waits."""


@dataclass
class Ledger:
    """A filled ledger, and what is done to it."""

    database: Database
    rows: Rows
    _random: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311 - not for secrets
    _new: count[int] = field(default_factory=count)
    _claims: list[Claim] = field(default_factory=list)
    _made: list[tuple[str, str]] = field(default_factory=list)
    """Owners and ids of the jobs that the measurement made."""
    _finished: set[str] = field(default_factory=set)
    """Ids of the jobs that the measurement finished."""

    def cases(self, lengths: Mapping[str, int]) -> list[Case]:
        """In the order in which they must be called: a job is claimed before it is written to.

        `lengths`: of pages, by list.
        """
        return [*self._gets(), *self._lists(lengths), *self._life(), *self._duties()]

    def _gets(self) -> list[Case]:
        sizes = self.rows.sizes
        ended = range(sizes.finished)
        running = range(sizes.finished, sizes.finished + WORKERS)
        return [
            Case("get an ended job", partial(self._get, ended)),
            Case("get a running job", partial(self._get, running)),
            Case("get a queued job", self._get_queued),
            Case("metrics of a job", partial(self._metrics, ended)),
            Case("events of a job", partial(self._events, ended)),
        ]

    def _get(self, numbers: Sequence[int], session: Session) -> object:
        number = self._random.choice(numbers)
        return self._show(session, self.rows.owner(number), key("job", number))

    def _get_queued(self, session: Session) -> object:
        """Of the jobs that were queued in the beginning, a small ledger has finished most after some rounds."""
        sizes = self.rows.sizes
        first = sizes.finished + WORKERS
        while True:
            number = self._random.randrange(first, sizes.jobs + len(self._made))
            if number < sizes.jobs:
                of_owner, job_id = self.rows.owner(number), key("job", number)
            else:
                of_owner, job_id = self._made[number - sizes.jobs]
            if job_id not in self._finished:
                return self._show(session, of_owner, job_id)

    def _show(self, session: Session, of_owner: str, job_id: str) -> object:
        """As the API shows one job."""
        job = owned_jobs.get(session, of_owner, job_id)
        return job, owned_jobs.waiting_reason(session, job), runs.of_jobs(session, [job.id])

    def _metrics(self, numbers: Sequence[int], session: Session) -> object:
        number = self._random.choice(numbers)
        job = owned_jobs.get(session, self.rows.owner(number), key("job", number))
        return metrics.read(session, job.id)

    def _events(self, numbers: Sequence[int], session: Session) -> object:
        return owned_jobs.events_after(session, key("job", self._random.choice(numbers)), 2, 100)

    def _lists(self, lengths: Mapping[str, int]) -> list[Case]:
        return [
            Case(name, partial(listing, limit=lengths[name]), promised=lengths[name] > 0)
            for name, listing in self._listings().items()
        ]

    def lengths(self) -> dict[str, int]:
        """How many rows each list has, at most PAGE. Compared are pages of equal lengths, which a small ledger has."""
        with self.database.session() as session:
            return {name: len(listing(session, limit=PAGE)) for name, listing in self._listings().items()}

    def _listings(self) -> dict[str, Listing]:
        filters: dict[str, dict[str, Any]] = {
            "all": {},
            **{f"state={state.value}": {"state": state.value} for state in JobState},
            "tag of every 2nd": {"tag": "prod"},
            "tag of every 100th": {"tag": "area-30"},
            "name": {"name": "nightly"},
            "study": {"study_id": key("study", 0)},
        }
        found: dict[str, Listing] = {}
        for what, chosen in filters.items():
            found[f"list {what}, first page"] = partial(self._page, chosen, None)
            found[f"list {what}, deep page"] = partial(self._page, chosen, self._deep(**chosen))
        return found | {
            "list uploads": partial(uploads.list_page, owner=owner(0)),
            "list studies, tag": partial(studies.list_page, owner=owner(0), tag="prod"),
            "list studies, name": partial(studies.list_page, owner=owner(0), name="nightly"),
            "audit log, action": partial(audit.list_page, action="job.delete"),
            "audit log, key": partial(audit.list_page, key_id="key_7"),
        }

    def _page(self, chosen: dict[str, Any], after: PageCursor | None, session: Session, limit: int) -> list[Job]:
        """As the API shows a page of which it knows nothing yet."""
        ids = [job.id for job in owned_jobs.list_page(session, owner(0), after=after, limit=limit, **chosen)]
        runs.of_jobs(session, ids)
        return list(owned_jobs.find_listed(session, ids))

    def _deep(self, tag: str | None = None, **chosen: str) -> PageCursor | None:
        """Where the page DEEP begins, or the last full one if there are fewer."""
        query = select(Job.created_at, Job.id).where(Job.owner == owner(0))
        query = query.where(*(getattr(Job, name) == value for name, value in chosen.items()))
        if tag is not None:
            query = query.where(Job.tags.contains([tag]))
        query = query.order_by(Job.created_at.desc(), Job.id.desc()).limit((DEEP - 1) * PAGE)
        with self.database.session() as session:
            before = session.execute(query).all()
        full = len(before) // PAGE
        ahead = full if full == DEEP - 1 else full - 1
        return PageCursor(*before[ahead * PAGE - 1]) if ahead > 0 else None

    def _life(self) -> list[Case]:
        return [
            Case("create a job", self._create),
            Case("claim a job", partial(self._claim, quotas.NO_QUOTAS)),
            Case("heartbeat", self._heartbeat),
            Case("write the metrics of an epoch", self._record),
            Case("finish a job", self._finish),
            Case("claim, the oldest 30 % wait", partial(self._claim, ONE_OWNER_WAITS)),
            Case("give a job back", self._give_back),
        ]

    def _create(self, session: Session) -> object:
        new = next(self._new)
        upload = new % self.rows.sizes.uploads
        asked = {"teacher": key("upl", upload), "dataset": {"builtin": "digits"}, "student": {"depth": 14}}
        request = JobRequest.model_validate({**asked, "tags": ["prod", "new"], "name": "nightly", "device": "cpu"})
        spec = resolve(request, INSPECTION)
        once = IdempotentRequest.of(f"new-{new}", asked)
        new_job = NewJob(upload_owner(upload), request, spec, {request.teacher: None}, once)
        made = creation.create(session, new_job)
        self._made.append((new_job.owner, made.id))
        return made

    def _claim(self, defaults: Quotas, session: Session) -> object:
        claim = attempts.claim(session, "worker-00", ["cpu"], [SPEC_VERSION], LEASE_SECONDS, defaults=defaults)
        assert claim is not None, "the queue is empty: measure fewer rounds"
        self._claims.append(claim)
        return claim

    def _heartbeat(self, session: Session) -> object:
        return attempts.heartbeat(session, self._claims[-1], LEASE_SECONDS, 1.0)

    def _record(self, session: Session) -> None:
        numbers = [Metric("lit", 1, name, value) for name, value in json.loads(epoch_values(1)).items()]
        epoch = Event("epoch", {"phase": "lit", "epoch": 1, "metrics": json.loads(epoch_values(1))})
        progress = {"phase": "lit", "epoch": 1, "epochs": 3, "step": None, "steps": None, "fraction": 0.3}
        attempts.record(session, self._claims[-1], [epoch], numbers, progress, None, seconds_left=60.0)

    def _finish(self, session: Session) -> None:
        claim = self._claims.pop()
        self._finished.add(claim.job_id)
        attempts.succeed(session, claim, json.loads(RESULT), artifacts(claim.job_id))

    def _give_back(self, session: Session) -> None:
        attempts.release(session, self._claims.pop())

    def _duties(self) -> list[Case]:
        return [
            Case("claim messages of webhooks", self._claim_messages),
            Case("find expired leases", partial(housekeeping.reap, server_up_for=0.0)),
            Case("find devices with work", housekeeping.queues_with_work),
            Case("find studies to advance", due),
            Case("forget idempotency keys", idempotency.forget_old_keys),
            Case("forget audit entries", partial(audit.forget_old, days=400)),
            Case("find abandoned uploads", uploads.delete_abandoned),
            Case("find unused uploads", partial(retention.expire_uploads, days=400)),
            Case("find expired files of jobs", partial(retention.expire_jobs, days=400)),
            Case("overview for /metrics", overview, promised=False),
            Case("usage of the largest owner", partial(quotas.usage, owner=owner(0)), promised=False),
        ]

    def _claim_messages(self, session: Session) -> object:
        claimed = claims.claim(session, 32)
        session.rollback()
        return claimed
