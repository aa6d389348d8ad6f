"""All metrics of one API process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.pool import QueuePool

from api.metrics.http import HttpMetrics
from api.metrics.ledger import FRESH_SECONDS, LedgerMetrics
from jobs.database.connection import Database
from jobs.exposition import DiskCollector, exposition, new_registry
from jobs.settings import Settings


class ApiMetrics:
    """Made with the application; `watch` adds what lives as long as the process serves.

    Of several processes on one port any may be asked, so each shows the sum of all: prometheus-client keeps their
    numbers in files. The first one counts the ledger's events for all. What lies outside of these files (connections,
    disks) is that of the process that answers, and what the kernel knows of a process is left out.
    """

    def __init__(self, process_number: int | None = None) -> None:
        """`process_number`: which of several processes this is, from 1. None: the only one."""
        self._number = process_number
        self._registry = new_registry("api")
        self._shown = self._registry
        if process_number is not None:
            self._shown = CollectorRegistry()
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]
        self.http = HttpMetrics(self._registry)
        self.ledger: LedgerMetrics | None = None
        self._watched: list[Collector] = []
        self._ready = Gauge(
            "lit_ready",
            "1 if the part can be used by this process, as in /readyz; else 0.",
            ["part"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self.long_polls = Gauge(
            "lit_http_long_polls_open",
            "Requests that wait for news in this process.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def watch(self, database: Database, settings: Settings) -> None:
        alone = self._number is None
        self.ledger = LedgerMetrics(database, follows=alone or self._number == 1, shows_counts=alone)
        self._watched = [
            _Pool(database),
            DiskCollector({"storage": settings.storage_root, "temporary": Path(tempfile.gettempdir())}),
            self.ledger,
        ]
        for collector in self._watched:
            self._shown.register(collector)

    def unwatch(self) -> None:
        for collector in self._watched:
            self._shown.unregister(collector)
        self.ledger = None

    def look(self) -> None:
        """Look into the ledger, if the last look is some seconds ago."""
        if self.ledger is not None:
            self.ledger.look()

    async def follow(self) -> None:
        """Of several processes the first one looks by itself, because another may be asked each time."""
        while self._number == 1:
            await run_in_threadpool(self.look)
            await asyncio.sleep(FRESH_SECONDS)

    def set_ready(self, parts: Mapping[str, bool]) -> None:
        for part, there in parts.items():
            self._ready.labels(part).set(int(there))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        return exposition(self._shown, accept)


class _Pool(Collector):
    """A collector: the connections of this process's pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        pool = self._database.engine.pool
        assert isinstance(pool, QueuePool)  # noqa: S101 - for the type checker
        yield GaugeMetricFamily(
            "lit_database_connections_used",
            "Connections of this process's pool that are in use; housekeeping's included.",
            pool.checkedout(),
        )
        yield GaugeMetricFamily(
            "lit_database_connections_idle", "Connections of this process's pool that are not in use.", pool.checkedin()
        )
        yield GaugeMetricFamily(
            "lit_database_connections_limit",
            "Connections that this process may use at the same time.",
            self._database.most_connections,
        )
