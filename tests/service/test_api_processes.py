"""`litc api --workers 2`: two processes on one port, with common metrics, that restart and stop together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from service.errors import BadAddress
from service.http_server import listen, listen_shared, reserve
from tests.lit_client.command import ROOT
from tests.worker.bench import Bench, wait_for

REQUESTS = 40


@pytest.fixture
def running(bench: Bench, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command and its URL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_")}
    settings = {"LIT_API_WORKERS": "2", "LIT_RESTART_SECONDS": "0.1", **bench.settings.as_environment()}
    settings["LIT_API_WORKERS"] = "2"
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "lit_client.command", "api", "--port", "0"]
        process = subprocess.Popen(command, cwd=ROOT, env=kept | settings, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: process.poll() is not None or b"LIT listens on" in log.read_bytes(), 90)
        found = re.search(r"LIT listens on (\S+) with 2 processes", log.read_text())
        assert found is not None, log.read_text()
        wait_for(lambda: len(listeners(process)) == 2, 60)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def listeners(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if _listens(child)]


def _listens(process: psutil.Process) -> bool:
    try:
        return any(one.status == "LISTEN" for one in process.net_connections())
    except psutil.NoSuchProcess:  # it has ended since it was listed
        return False


def answered(text: str) -> float:
    [found] = re.findall(r'lit_http_requests_total\{method="GET",route="/healthz",status="200"\} (\S+)', text)
    return float(found)


def test_two_processes_share_a_port_and_their_metrics(running: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = running
    for _ in range(REQUESTS):
        # A connection each: the kernel chooses the process.
        assert httpx.get(f"{url}/healthz", timeout=20).status_code == 200
    shown = [httpx.get(f"{url}/metrics", timeout=20).text for _ in range(6)]
    assert {answered(text) for text in shown} == {REQUESTS}
    assert all('lit_jobs_created_total{device="cpu"} 0.0' in text for text in shown)

    killed = listeners(process)[0]
    killed.kill()
    wait_for(lambda: len(listeners(process)) == 2 and killed.pid not in {one.pid for one in listeners(process)}, 60)
    assert answered(httpx.get(f"{url}/metrics", timeout=20).text) == REQUESTS

    children = listeners(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not any(child.is_running() for child in children)


def test_a_port_is_shared_only_by_those_who_ask_for_it() -> None:
    with reserve("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        with listen_shared("127.0.0.1", port), listen_shared("127.0.0.1", port):
            for other in (listen, reserve):
                with pytest.raises(BadAddress):
                    other("127.0.0.1", port)
