"""A client of the service that runs for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lit_client import Client
from service.running import RunningService


@pytest.fixture
def service_url(shared_service: RunningService) -> str:
    return shared_service.url


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as made:
        yield made
