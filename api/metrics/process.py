"""All metrics of one API process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.pool import QueuePool

from api.metrics.http import HttpMetrics
from api.metrics.ledger import LedgerMetrics
from jobs.database.connection import Database
from jobs.exposition import DiskCollector, exposition, new_registry
from jobs.settings import Settings

if TYPE_CHECKING:
    from api.http.long_polls import LongPolls


class ApiMetrics:
    """Made with the application; `watch` adds what lives as long as the process serves."""

    def __init__(self) -> None:
        self._registry = new_registry("api")
        self.http = HttpMetrics(self._registry)
        self.ledger: LedgerMetrics | None = None
        self._watched: list[Collector] = []
        self._ready = Gauge(
            "lit_ready",
            "1 if the part can be used by this process, as in /readyz; else 0.",
            ["part"],
            registry=self._registry,
        )
        self._long_polls = Gauge(
            "lit_http_long_polls_open",
            "Requests that wait for news in this process.",
            registry=self._registry,
        )

    def watch(self, database: Database, long_polls: LongPolls, settings: Settings) -> None:
        self._long_polls.set_function(lambda: long_polls.open)
        self.ledger = LedgerMetrics(database)
        self._watched = [
            _Pool(database),
            DiskCollector({"storage": settings.storage_root, "temporary": Path(tempfile.gettempdir())}),
            self.ledger,
        ]
        for collector in self._watched:
            self._registry.register(collector)

    def unwatch(self) -> None:
        for collector in self._watched:
            self._registry.unregister(collector)
        self.ledger = None

    def look(self) -> None:
        """Look into the ledger, if the last look is some seconds ago."""
        if self.ledger is not None:
            self.ledger.look()

    def set_ready(self, parts: Mapping[str, bool]) -> None:
        for part, there in parts.items():
            self._ready.labels(part).set(int(there))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        return exposition(self._registry, accept)


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
