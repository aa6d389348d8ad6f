"""`litc serve` as a person starts it, one for all tests of a process that need no settings of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.running import RunningService, running_service

SETTINGS = {
    "LIT_THREADS": "1",
    "LIT_WORKER_DEVICES": "cpu",
    # Whatever is free of this machine's disk.
    "LIT_DISK_RESERVE_BYTES": "0",
    "LIT_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
}


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Starting it and its worker costs as much as five short jobs.

    A test finds what others have left in the ledger, and must leave neither a key that is valid, nor another worker,
    nor a job that has not finished.
    """
    # A short name, because the broker's socket is in it.
    with running_service(tmp_path_factory.mktemp("s"), environment=SETTINGS) as service:
        yield service
        assert service.stop() == 0, service.end_of_log()
