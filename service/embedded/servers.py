"""PostgreSQL and Valkey together, with their data under one folder.

Both come as wheels and listen on Unix sockets only. A lock on the folder keeps a second service from using its data.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from jobs.private_files import close_to_others, make_private_folder
from service.embedded.postgres import VERSION_FILE, EmbeddedPostgres
from service.embedded.valkey import EmbeddedValkey
from service.errors import DataDirInUse
from service.minder import ProcessMinder, RestartPolicy

LONGEST_SOCKET_PATH = 107
"""Bytes that Linux allows for the path of a Unix socket."""
ADDRESS_FILE = "database-url"
POSTGRES_FOLDER = "postgres"
LOCK_NAME = "lock"
VALKEY_FOLDER = "valkey"
OWN_NAMES = {POSTGRES_FOLDER, VALKEY_FOLDER, LOCK_NAME, ADDRESS_FILE, "storage", "work"}
"""What the service makes in a data folder."""


def has_database(data_dir: Path) -> bool:
    """Whether a data folder holds the data of an embedded PostgreSQL."""
    return (data_dir / POSTGRES_FOLDER / VERSION_FILE).exists()


class EmbeddedServers:
    """Starts both servers when entered, keeps them running, and stops them when left.

    `minder` is the process minder that does it; what else is started by it stops before the servers. Without `broker`
    there is only PostgreSQL. Raises DataDirInUse, ChildFailed.
    """

    def __init__(
        self,
        data_dir: Path,
        on_failure: Callable[[], None] = lambda: None,
        *,
        broker: bool = True,
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._folder = data_dir.resolve()
        self._stack = ExitStack()
        self._broker = broker
        self.minder = ProcessMinder(on_failure, policy=policy)
        self.database_url = ""
        self.redis_url = ""

    def __enter__(self) -> Self:
        make_private_folder(self._folder)
        with ExitStack() as stack:
            self._lock(stack)
            # Under the lock: for root, PostgreSQL runs as another user, and needs the folder open while it runs.
            close_to_others(self._folder, _is_ours)
            postgres = EmbeddedPostgres(self._folder / POSTGRES_FOLDER)
            valkey = self._valkey(stack) if self._broker else None
            stack.enter_context(self.minder)
            self.minder.start(postgres)
            self.database_url = postgres.url
            if valkey is not None:
                self.minder.start(valkey)
                self.redis_url = valkey.url
            self._publish(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _lock(self, stack: ExitStack) -> None:
        lock = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            message = f"another service uses {self._folder}: stop it, or set LIT_DATA_DIR to another folder"
            raise DataDirInUse(message, self._published()) from taken

    def _publish(self, stack: ExitStack) -> None:
        """Tell commands that run beside the service, such as `litc keys`, the address of its database."""
        path = self._folder / ADDRESS_FILE
        stack.callback(path.unlink, missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(self.database_url)

    def _published(self) -> str | None:
        with suppress(FileNotFoundError):
            return (self._folder / ADDRESS_FILE).read_text() or None
        return None

    def _valkey(self, stack: ExitStack) -> EmbeddedValkey:
        folder = self._folder / VALKEY_FOLDER
        make_private_folder(folder)
        socket = folder / "valkey.sock"
        if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
            short = Path(tempfile.mkdtemp(prefix="lit-"))
            stack.callback(shutil.rmtree, short, ignore_errors=True)
            socket = short / "valkey.sock"
        return EmbeddedValkey(folder, socket)


def _is_ours(path: Path) -> bool:
    return path.name in OWN_NAMES or path.name.startswith(f"{POSTGRES_FOLDER}-new-")
