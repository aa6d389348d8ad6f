"""One running service for the whole folder: `litc serve` with its embedded parts, as a person starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_client import Client

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    unset = ("DATABASE_URL", "REDIS_URL")
    environment = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("LIT_")}
    environment |= {"LIT_DATA_DIR": str(folder / "data"), "LIT_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        litc = [str(Path(sys.executable).with_name("litc")), "serve", "--port", "0"]
        process = subprocess.Popen(litc, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _wait_for_url(process, folder / "log")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, (folder / "log").read_text()[-5000:]


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"LIT listens on (http://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the service did not start:\n{log.read_text()}")


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as made:
        yield made
