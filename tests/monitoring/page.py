"""`python -m tests.monitoring.page` writes the tables of metrics in docs/monitoring.md."""

from __future__ import annotations

import tempfile
from pathlib import Path

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from service.embedded.servers import EmbeddedServers
from tests.monitoring.scrapes import DOCS, scrape, with_tables
from tests.worker.bench import make_bench


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedServers(Path(folder)) as servers:
        upgrade(servers.database_url)
        database = Database(servers.database_url)
        try:
            scrapes = scrape(make_bench(database, servers.database_url, servers.redis_url, Path(folder)))
        finally:
            database.close()
    DOCS.write_text(with_tables(DOCS.read_text(), scrapes))


if __name__ == "__main__":
    main()
