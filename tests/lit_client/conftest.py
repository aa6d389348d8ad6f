"""The real application behind a socket, one for the whole folder, with an emptied ledger for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_client import Client
from tests.api.conftest import serving
from tests.api.test_uploads import safetensors_file
from tests.lit_client.faults import FaultyTransport
from tests.lit_client.scripted_worker import ScriptedWorker
from tests.worker.bench import Bench, make_bench
from tests.worker.databases import LedgerPool, connected, remove_rows


@pytest.fixture(scope="session")
def service(
    service_urls: tuple[str, str], ledgers: LedgerPool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Bench]]:
    """The service's address, and the ledger and storage behind it."""
    with ledgers.ledger() as database:
        ledger_url = database.engine.url.render_as_string(hide_password=False)
        folder = tmp_path_factory.mktemp("bench")
        bench = make_bench(database, ledger_url, service_urls[1], folder, webhook_allowed_networks="127.0.0.0/8")
        with serving(bench) as (host, port):
            yield f"http://{host}:{port}", bench


@pytest.fixture
def bench(service: tuple[str, Bench]) -> Bench:
    """The ledger, with nothing in it, and storage."""
    _, bench = service
    with connected(bench.database.engine.url) as connection:
        remove_rows(connection)
    return bench


@pytest.fixture
def url(service: tuple[str, Bench], bench: Bench) -> str:
    """The service's address."""
    return service[0]


@pytest.fixture
def transport() -> Iterator[FaultyTransport]:
    made = FaultyTransport()
    yield made
    made.close()


@pytest.fixture
def client(url: str, transport: FaultyTransport) -> Iterator[Client]:
    """Small pieces, few retries and short pauses, so that failures are many and quick."""
    with Client(url, retries=3, first_pause=0.01, chunk_bytes=10_000, transport=transport) as made:
        yield made


@pytest.fixture
def worker(bench: Bench) -> Iterator[ScriptedWorker]:
    with ScriptedWorker(bench) as made:
        yield made


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A file that the scripted worker finds to be a teacher."""
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(safetensors_file())
    return path
