"""How large a generated ledger is, and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass

SMALL_JOBS = 1000
"""A ledger as it is soon after the service began: what the large one is compared with."""
OWNERS = 100
WORKERS = 40
"""Each of them runs a job. There are as many in both ledgers: what grows is what the service has to remember."""
LARGEST_SHARE = 0.4
"""Of all jobs, those of the first owner, whose lists are measured."""
METRICS_PER_EPOCH = 10


@dataclass(frozen=True)
class Sizes:
    jobs: int
    queued: int
    points: int
    """Metric points: numbers by job, phase, epoch and name."""

    @property
    def finished(self) -> int:
        return self.jobs - self.queued - WORKERS

    @property
    def epochs_per_job(self) -> float:
        """The mean over the jobs that have run."""
        return self.points / METRICS_PER_EPOCH / (self.finished + WORKERS)

    @property
    def uploads(self) -> int:
        return self.jobs // 50

    @property
    def messages(self) -> int:
        """Of webhooks, delivered or given up."""
        return self.jobs // 10

    @property
    def waiting_messages(self) -> int:
        """A few for each webhook, and more the more there is to do."""
        return 4 * OWNERS + self.queued // 10

    def small(self) -> Sizes:
        """The same mix in a ledger of SMALL_JOBS jobs."""
        share = SMALL_JOBS / self.jobs
        return Sizes(SMALL_JOBS, round(self.queued * share), round(self.points * share))
