"""The application on a real ledger, broker and storage, spoken to in process; teachers are put in as inspected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from tests.worker.bench import Bench
from tests.worker.services import bench, database, service_urls

__all__ = ["api", "bench", "database", "service_urls"]


@pytest.fixture
def api(bench: Bench) -> Iterator[TestClient]:
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
        yield client
