"""The application on a real ledger, broker and storage, in process or behind a socket; teachers come as inspected."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.concurrency import run_in_threadpool
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.app import create_app
from api.http.context import Context
from jobs.database.models import Upload
from jobs.database.notifications import notify
from jobs.ledger import uploads
from jobs.settings import Settings
from jobs.storage.folder import FolderStorage
from service import http_server as server
from tests.worker.bench import DATASET, Bench, wait_for


@pytest.fixture
def api(bench: Bench) -> Iterator[TestClient]:
    made = create_app(bench.settings, keyless=True)
    with TestClient(made, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50_000)) as client:
        yield client


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """The OpenAPI document, which no test changes. To make it takes half a second."""
    settings = Settings(DATABASE_URL="postgresql://127.0.0.1/lit", REDIS_URL="redis://127.0.0.1:6379/0")
    made: dict[str, Any] = json.loads(json.dumps(create_app(settings, keyless=True).openapi()))
    return made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few bytes are more than one piece."""
    monkeypatch.setattr(FolderStorage, "piece_bytes", 1 << 20)


def hear_all(api: TestClient, bench: Bench) -> None:
    """The application has been told of everything that was committed before."""
    context: Context = api.app.state.context  # type: ignore[attr-defined]

    def tell() -> None:
        with bench.database.session() as session:
            notify(session, "last")

    async def hear() -> None:
        with context.long_polls.subscribe("last") as last:
            await run_in_threadpool(tell)
            assert await last.changed(20)

    assert api.portal is not None
    api.portal.call(hear)


@pytest.fixture
def inspected_datasets(bench: Bench) -> Iterator[None]:
    """Every data set that arrives is found to be `DATASET`, as by a worker."""
    stopped = threading.Event()
    waiting = select(Upload.id).where(Upload.kind == "dataset", Upload.inspection_state == "pending")

    def inspect() -> None:
        while not stopped.wait(0.02):
            with bench.database.session() as session:
                for upload in session.scalars(waiting).all():
                    uploads.finish_inspection(session, upload, inspection=DATASET, error=None)

    thread = threading.Thread(target=inspect, name="inspected data sets")
    thread.start()
    yield
    stopped.set()
    thread.join(20)
    assert not thread.is_alive()


@contextmanager
def serving(bench: Bench, port: int = 0, trusted_proxies: str | None = None) -> Iterator[tuple[str, int]]:
    """Told to stop it ends all waits; without a limit it would be held up for ever by a request that does not end."""
    listening = server.listen("127.0.0.1", port)
    running = server.Server(server.configuration(create_app(bench.settings, keyless=True), trusted_proxies))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_for(lambda: running.started, 20)
    yield listening.getsockname()[:2]
    running.handle_exit(signal.SIGTERM, None)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def address(bench: Bench) -> Iterator[tuple[str, int]]:
    """The application behind a real socket, whose connections can break."""
    with serving(bench) as made:
        yield made


@pytest.fixture
def other_address(bench: Bench) -> Iterator[tuple[str, int]]:
    """The same ledger and storage behind a second application, which shares nothing else with the first."""
    with serving(bench) as made:
        yield made
