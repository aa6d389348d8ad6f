"""`litc keys` on a data folder: what it makes, what it leaves alone, and that nothing keeps running."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from service.embedded.servers import EmbeddedServers
from tests.lit_client.command import NOWHERE, ROOT, environment, litc
from tests.worker.bench import wait_for


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


def servers_of(data: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["name", "cwd"]):
        if str(process.info["cwd"]).startswith(str(data)) and process.info["name"] in {"postgres", "valkey-server"}:
            yield process


@pytest.mark.parametrize("words", [("list",), ("revoke", "key_x")])
def test_without_a_database_they_say_so_and_make_none(data: Path, words: tuple[str, ...]) -> None:
    done = litc(NOWHERE, "keys", *words, LIT_DATA_DIR=str(data))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"There is no database in {data}: set LIT_DATA_DIR")
    assert not data.exists()


def test_a_list_leaves_an_older_schema_as_it_is(data: Path) -> None:
    with EmbeddedServers(data, broker=False):
        pass
    listed = litc(NOWHERE, "keys", "list", LIT_DATA_DIR=str(data))
    assert (listed.returncode, listed.stdout) == (2, "")
    assert "`litc serve` migrates its own database" in listed.stderr
    assert litc(NOWHERE, "keys", "create", "ci", LIT_DATA_DIR=str(data)).returncode == 0
    assert "ci" in litc(NOWHERE, "keys", "list", LIT_DATA_DIR=str(data)).stdout
    assert list(servers_of(data)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_several_signals_while_the_database_starts_leave_nothing_running(data: Path, number: signal.Signals) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from lit_client.command.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "keys", "create", "ci"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(NOWHERE, LIT_DATA_DIR=str(data)), stdout=subprocess.PIPE, text=True
    )
    wait_for((data / "postgres/postmaster.pid").exists, 60, "the database's start")
    for _ in range(3):
        process.send_signal(number)
    wait_for(lambda: process.poll() is not None, 60, "the end")
    assert (process.returncode, process.communicate()[0]) == (130, "")
    assert list(servers_of(data)) == []
