"""The three servers: LIT's API, an MLflow tracking server and the bare framework, on one PostgreSQL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
import psycopg

from benchmarks.service.client import exchange, request
from benchmarks.service.ledger import Ledger
from jobs.database.connection import connection_string, database_url
from jobs.database.migrate import upgrade
from jobs.settings import Settings
from service.embedded.servers import EmbeddedServers
from service.http_server import listen
from service.running import own_environment
from worker.host.checkout import CHECKOUT

SECONDS_TO_START = 240.0
SECONDS_TO_STOP = 30.0
MLFLOW_DATABASE = "mlflow"


class Name(StrEnum):
    LIT = "lit"
    MLFLOW = "mlflow"
    BARE = "bare"


class NotStarted(Exception):
    """The message shows the end of the server's log."""


@dataclass(frozen=True)
class Server:
    """A server that answers on a port of 127.0.0.1."""

    name: Name
    process: subprocess.Popen[bytes]
    port: int
    host: str = "127.0.0.1"

    def memory_bytes(self) -> int:
        """Memory of all its processes that nobody else has, and their share of what several have (PSS)."""
        process = psutil.Process(self.process.pid)
        return sum(int(one.memory_full_info().pss) for one in [process, *process.children(recursive=True)])


MAX_CONNECTIONS = 300
"""Of PostgreSQL, which serves all servers: a process of LIT's API opens up to 20, and one of MLflow's 15."""


@dataclass(frozen=True)
class Servers:
    """Those that are measured, and LIT's ledger, in which the measured jobs are made."""

    running: Mapping[Name, Server]
    ledger: Ledger
    settings: Settings
    folder: Path

    def __getitem__(self, name: Name) -> Server:
        return self.running[name]


@contextmanager
def running_servers(folder: Path, names: Collection[Name] = tuple(Name), *, api_workers: int = 1) -> Iterator[Servers]:
    """Those servers with their data in `folder`. Raises NotStarted."""
    with (
        EmbeddedServers(folder / "data", broker=False) as before,
        psycopg.connect(connection_string(before.database_url), autocommit=True) as connection,
    ):
        connection.execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
    with ExitStack() as stack:
        embedded = stack.enter_context(EmbeddedServers(folder / "data"))
        urls = {"DATABASE_URL": embedded.database_url, "REDIS_URL": embedded.redis_url}
        settings = Settings(**urls, data_dir=folder / "data")  # type: ignore[arg-type]
        upgrade(embedded.database_url)
        starts = {
            Name.LIT: lambda: started_lit(folder, settings, api_workers, folder / "lit.log"),
            Name.MLFLOW: lambda: _mlflow(folder, embedded.database_url),
            Name.BARE: lambda: _bare(folder),
        }
        running = {name: stack.enter_context(starts[name]()) for name in Name if name in names}
        yield Servers(running, stack.enter_context(Ledger.open(settings)), settings, folder)


@contextmanager
def started_lit(folder: Path, settings: Settings, workers: int, log: Path) -> Iterator[Server]:
    """LIT's API with so many processes, once all of them take connections. Raises NotStarted."""
    # Logs as the documentation's servers write them.
    environment = own_environment(folder / "data") | settings.as_environment() | {"LIT_LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "lit_client.command", "api", "--port", "0"]
    if workers > 1:
        command += ["--workers", str(workers)]
    with _started(log, command, environment) as process:
        port = _port_from(log, process, r"LIT listens on http://127\.0\.0\.1:(\d+)")
        _wait(process, log, lambda: _listening(process, port) == workers)
        _wait(process, log, lambda: _answers(port, "/healthz"))
        yield Server(Name.LIT, process, port)


def _listening(process: subprocess.Popen[bytes], port: int) -> int:
    """How many processes of a command take connections on a port."""
    command = psutil.Process(process.pid)
    return sum(
        any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in part.net_connections("tcp"))
        for part in [command, *command.children(recursive=True)]
    )


def mlflow_database(url: str) -> str:
    """The URL of MLflow's database, which lies beside LIT's."""
    return database_url(url).set(database=MLFLOW_DATABASE).render_as_string(hide_password=False)


@contextmanager
def _mlflow(folder: Path, url: str) -> Iterator[Server]:
    """The tracking server as its command starts it, with a database beside LIT's."""
    with psycopg.connect(connection_string(url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {MLFLOW_DATABASE}")
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", mlflow_database(url)]
    command += ["--artifacts-destination", str(folder / "mlflow-artifacts")]
    environment = own_environment(folder / "data") | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with _started(folder / "mlflow.log", command, environment) as process:
        _wait(process, folder / "mlflow.log", lambda: _answers(port, "/health"))
        yield Server(Name.MLFLOW, process, port)


@contextmanager
def _bare(folder: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks.service.bare", str(folder)]
    with _started(folder / "bare.log", command, dict(os.environ)) as process:
        port = _port_from(folder / "bare.log", process, r"^(\d+)$")
        yield Server(Name.BARE, process, port)


@contextmanager
def _started(log: Path, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**environment, "PYTHONPATH": str(CHECKOUT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _port_from(log: Path, process: subprocess.Popen[bytes], pattern: str) -> int:
    def found() -> re.Match[str] | None:
        return re.search(pattern, log.read_text(errors="replace"), re.MULTILINE)

    _wait(process, log, found)
    match = found()
    assert match is not None
    return int(match[1])


def _wait(process: subprocess.Popen[bytes], log: Path, there: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while not there():
        if process.poll() is not None or time.monotonic() > end:
            raise NotStarted(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)


def _answers(port: int, path: str) -> bool:
    try:
        head, _ = exchange("127.0.0.1", port, request("GET", path))
    except OSError:
        return False
    return head.status == 200
