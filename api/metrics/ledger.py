"""Numbers of the ledger. Every API process shows the same ones, so they are to be joined by `max`, not by `sum`.

What goes on now is read with each look. What has happened (jobs created, lost, finished) is counted by reading the
ledger's events since the last look, instead of in the process that wrote them: a worker that is killed takes its own
counts with it, and that is when they matter most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.database.connection import Database, clock
from jobs.database.outages import first_line, is_outage
from jobs.ledger import overview
from jobs.ledger.overview import ASKED_DEVICES, DEVICES, LifecycleEvent, Overview, Totals
from lit_spec import ErrorType
from lit_spec.states import FINISHED_STATES, DeliveryState

FRESH_SECONDS = 5.0
"""One look serves all scrapes for so long."""
TOTALS_FRESH_SECONDS = 300.0
"""The same for what is read from whole tables."""
OVERLAP = timedelta(seconds=60)
"""Events are read again for so long, because a transaction may commit after a look events that are older than it."""
LONGEST_GAP = timedelta(hours=1)
"""What happened longer ago is not counted any more if nobody has scraped meanwhile."""
MINUTES = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600)
"""Seconds: waits and jobs take from a second to days."""

T = TypeVar("T")

log = structlog.get_logger()


class LedgerMetrics(Collector):
    """A collector of what goes on now, and counters of what has happened since this process began to look."""

    def __init__(self, database: Database, *, follows: bool = True, shows_counts: bool = True) -> None:
        """`follows`: whether this process counts the ledger's events, of which `collect` then shows the counts.

        Of several processes that show what all have counted together, one follows, and `shows_counts` is false.
        """
        self._database = database
        self._follows = follows
        self._shows_counts = shows_counts
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._totals_at: float | None = None
        self._up = False
        self._overview: Overview | None = None
        self._totals: Totals | None = None
        self._follower = _Follower()
        self._counted = CollectorRegistry()
        self._counters = _EventCounters(self._counted)

    def look(self) -> None:
        """Look into the ledger, unless the last look is fresh. An outage leaves the ledger's gauges out."""
        with self._lock:
            if not _is_due(self._looked_at, FRESH_SECONDS):
                return
            try:
                self._overview = self._in_session(overview.overview)
                if self._follows:
                    for event in self._in_session(self._follower.new_events):
                        self._counters.count(event)
                self._up = True
            except SQLAlchemyError as failure:
                _report(failure)
                self._overview, self._up = None, False
            self._looked_at = time.monotonic()
            if self._up and _is_due(self._totals_at, TOTALS_FRESH_SECONDS):
                self._add_up()

    def _add_up(self) -> None:
        try:
            self._totals = self._in_session(overview.totals)
        except SQLAlchemyError as failure:
            _report(failure)
            self._totals = None
        self._totals_at = time.monotonic()

    def _in_session(self, read: Callable[[Session], T]) -> T:
        with self._database.session() as session:
            return read(session)

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("lit_ledger_up", "1 if the last look into the ledger succeeded, else 0.", int(self._up))
        yield from _now(self._overview)
        yield from _totals(self._totals)
        yield from _messages(self._overview, self._totals)
        if self._shows_counts:
            yield from self._counted.collect()


@dataclass
class _Follower:
    """Reads the ledger's lifecycle events since the start of this process, each once."""

    _started: float = field(default_factory=time.monotonic)
    _until: datetime | None = None
    """By the database's clock; None before the first look."""
    _seen: dict[tuple[str, int], datetime] = field(default_factory=dict)

    def new_events(self, session: Session) -> list[LifecycleEvent]:
        now = clock(session)
        if self._until is None:
            self._until = now - timedelta(seconds=time.monotonic() - self._started)
            before = overview.lifecycle_events(session, self._until - OVERLAP)
            self._seen = {(event.job_id, event.seq): event.at for event in before if event.at < self._until}
        since = max(self._until - OVERLAP, now - LONGEST_GAP)
        found = overview.lifecycle_events(session, since)
        new = [event for event in found if (event.job_id, event.seq) not in self._seen]
        self._seen = {(event.job_id, event.seq): event.at for event in found if event.at > now - 2 * OVERLAP}
        self._until = now
        return new


class _EventCounters:
    """All counters begin at 0 for each label that they may have, so that the first increase shows in rates."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._created = Counter(
            "lit_jobs_created",
            "Jobs that came into the queue, by the device that they ask for.",
            ["device"],
            registry=registry,
        )
        self._attempts = Counter("lit_attempts_started", "Jobs that a worker claimed.", ["device"], registry=registry)
        self._released = Counter(
            "lit_attempts_released",
            "Attempts that went back to the queue without a failure: drains, faults of workers.",
            registry=registry,
        )
        self._lost = Counter(
            "lit_attempts_lost",
            "Attempts that failed and may be tried again, by error (worker-lost: the worker died or has a fault).",
            ["error"],
            registry=registry,
        )
        self._finished = Counter("lit_jobs_finished", "Jobs that ended, by state.", ["state"], registry=registry)
        self._failed = Counter("lit_jobs_failed", "Jobs that failed, by type of error.", ["error"], registry=registry)
        self._wait = Histogram(
            "lit_job_wait_seconds",
            "From the creation of a job to its first claim, by the device that it asks for.",
            ["device"],
            buckets=MINUTES,
            registry=registry,
        )
        self._run = Histogram(
            "lit_job_run_seconds",
            "From the first claim of a job to its end, by the device of its last worker.",
            ["device", "state"],
            buckets=MINUTES,
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        for device in ASKED_DEVICES:
            self._created.labels(device)
            self._wait.labels(device)
        for device in DEVICES:
            self._attempts.labels(device)
        for state in FINISHED_STATES:
            self._finished.labels(state.value)
            for device in DEVICES:
                self._run.labels(device, state.value)
        for error in ErrorType:
            self._lost.labels(error.value)
            self._failed.labels(error.value)

    def count(self, event: LifecycleEvent) -> None:
        match event.type:
            case "queued":
                self._created.labels(event.asked_device).inc()
            case "claimed":
                self._attempts.labels(event.claimed_device).inc()
                if event.waited_seconds is not None:
                    self._wait.labels(event.asked_device).observe(event.waited_seconds)
            case "released":
                self._released.inc()
            case "lost":
                self._lost.labels(event.error).inc()
            case ended:
                self._finished.labels(ended).inc()
                if ended == "failed":
                    self._failed.labels(event.error).inc()
                if event.ran_seconds is not None and event.worker_device is not None:
                    self._run.labels(event.worker_device, ended).observe(event.ran_seconds)


def _now(seen: Overview | None) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "lit_jobs",
        "Jobs that wait (by the device that they ask for) or run (by the device of their worker).",
        labels=["state", "device"],
    )
    nodes = GaugeMetricFamily(
        "lit_job_nodes",
        "Workers that jobs want which wait or run, by state and device as in lit_jobs: the sum of their nodes.",
        labels=["state", "device"],
    )
    oldest = GaugeMetricFamily(
        "lit_jobs_oldest_queued_seconds",
        "How long the oldest job that was never claimed has waited; 0 without one.",
        labels=["device"],
    )
    expired = GaugeMetricFamily(
        "lit_jobs_lease_expired", "Running jobs whose lease has expired and that nobody has taken back yet."
    )
    workers = GaugeMetricFamily(
        "lit_workers_alive",
        "Training workers that have renewed their registration; one with two devices counts for both.",
        labels=["device"],
    )
    inspections = GaugeMetricFamily(
        "lit_inspections_waiting", "Uploads that wait for their inspection.", labels=["kind"]
    )
    oldest_inspection = GaugeMetricFamily(
        "lit_inspections_oldest_seconds", "How long the oldest of them has waited; 0 without one.", labels=["kind"]
    )
    if seen is not None:
        for device, backlog in seen.queued.items():
            jobs.add_metric(["queued", device], backlog.count)
            oldest.add_metric([device], backlog.oldest_seconds)
        for device, count in seen.running.items():
            jobs.add_metric(["running", device], count)
        for device, count in seen.queued_nodes.items():
            nodes.add_metric(["queued", device], count)
        for device, count in seen.running_nodes.items():
            nodes.add_metric(["running", device], count)
        expired.add_metric([], seen.expired)
        for device, count in seen.workers.items():
            workers.add_metric([device], count)
        for kind, backlog in seen.inspections.items():
            inspections.add_metric([kind], backlog.count)
            oldest_inspection.add_metric([kind], backlog.oldest_seconds)
    yield from (jobs, nodes, oldest, expired, workers, inspections, oldest_inspection)


def _totals(seen: Totals | None) -> Iterator[Metric]:
    studies = GaugeMetricFamily("lit_studies", "Studies, by state.", labels=["state"])
    uploads = GaugeMetricFamily("lit_uploads", "Uploads, by kind and state.", labels=["kind", "state"])
    stored = GaugeMetricFamily(
        "lit_stored_bytes",
        "Bytes by the ledger's sizes: uploads by kind, and outputs of jobs. Without checkpoints and logs.",
        labels=["content"],
    )
    if seen is not None:
        for state, count in seen.studies.items():
            studies.add_metric([state], count)
        for (kind, state), count in seen.uploads.items():
            uploads.add_metric([kind, state], count)
        for kind, size in seen.upload_bytes.items():
            stored.add_metric([kind], size)
        stored.add_metric(["output"], seen.output_bytes)
    yield from (studies, uploads, stored)


def _messages(seen: Overview | None, totals: Totals | None) -> Iterator[Metric]:
    messages = GaugeMetricFamily(
        "lit_webhook_messages",
        "Messages for webhooks of the last 30 days, by state: pending (counted up to 10,000; without those of disabled "
        "webhooks), delivered, dead.",
        labels=["state"],
    )
    overdue = GaugeMetricFamily(
        "lit_webhook_messages_overdue_seconds",
        "For how long the message that is due the longest has been due; 0 if none is.",
    )
    if seen is not None:
        messages.add_metric([DeliveryState.PENDING.value], seen.messages.count)
        overdue.add_metric([], seen.messages.oldest_seconds)
    if totals is not None:
        for state, count in totals.messages.items():
            messages.add_metric([state], count)
    yield from (messages, overdue)


def _report(failure: SQLAlchemyError) -> None:
    if is_outage(failure):
        log.warning("no numbers of the ledger for /metrics", error=first_line(failure))
    else:
        log.exception("no numbers of the ledger for /metrics")


def _is_due(last: float | None, seconds: float) -> bool:
    return last is None or time.monotonic() - last > seconds
