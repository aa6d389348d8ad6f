"""One running service for the whole folder: `litc serve` with its embedded parts, as a person starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lit_client import Client
from service.running import running_service


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_service(tmp_path_factory.mktemp("service"), environment={"LIT_THREADS": "1"}) as service:
        yield service.url
        assert service.stop() == 0, service.end_of_log()


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as made:
        yield made
