"""An HTTP/1.1 client that is no bottleneck: raw requests on kept connections, in a process of its own.

`python -m benchmarks.service.client` reads a Load as JSON from standard input and prints a Measured as JSON. An
ordinary client spends more time on a small request than a fast server does, and would be measured instead of it.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import NamedTuple

SECONDS_TO_ANSWER = 60.0
LOOK_SECONDS = 0.01
NUMBER = "1########"
"""In a request: replaced by another number in each, which rises and has as many digits."""
BLOCK = 1 << 20
HEADERS_END = b"\r\n\r\n"
NO_BODY = frozenset({204, 304})


class Failed(Exception):
    """A server answered something else than what is measured."""


@dataclass(frozen=True)
class Load:
    """Requests that are sent again and again over so many connections, each as soon as the one before is answered."""

    host: str
    port: int
    requests: list[str]
    """Whole requests. Each connection sends one of them, in turns where there are more connections."""
    connections: int
    seconds: float
    status: int
    """What every answer must have, except for a share of `may_fail`."""
    may_fail: float = 0.0


@dataclass(frozen=True)
class Measured:
    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


class Head(NamedTuple):
    """The beginning of an answer."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    rest: bytes
    """What has come of the body."""

    @property
    def left(self) -> int:
        """How many bytes of the body are still to come. Raises Failed if the answer doesn't say how long it is."""
        if self.status in NO_BODY:
            return 0
        if "content-length" not in self.headers:
            raise Failed(f"an answer {self.status} has no Content-Length")
        return int(self.headers["content-length"]) - len(self.rest)


def request(method: str, path: str, headers: dict[str, str] | None = None, body: str = "") -> str:
    """A whole request, for a Load."""
    lines = {"Host": "127.0.0.1", **(headers or {})}
    if body or method in {"POST", "PUT", "PATCH"}:
        lines.setdefault("Content-Length", str(len(body.encode())))
    return (
        f"{method} {path} HTTP/1.1\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        + ("\r\n" + body)
    )


def parse_head(received: bytes | bytearray) -> Head | None:
    """None while the head is not complete."""
    end = received.find(HEADERS_END)
    if end < 0:
        return None
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Head(int(first.split(" ", 2)[1]), headers, bytes(received[end + len(HEADERS_END) :]))


def measure(load: Load) -> Measured:
    """Send the load from another process, so that this one takes no time from it. Raises Failed."""
    command = [sys.executable, "-m", "benchmarks.service.client"]
    asked = json.dumps(asdict(load))
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=load.seconds + 120, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr.strip().splitlines()[-1])
    return Measured(**json.loads(done.stdout))


def exchange(host: str, port: int, text: str) -> tuple[Head, bytes]:
    """One request and its whole answer, on a connection of its own."""
    with socket.create_connection((host, port), SECONDS_TO_ANSWER) as connection:
        connection.sendall(text.encode())
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[Head, bytes]:
    received = bytearray()
    while (head := parse_head(received)) is None:
        received += _some(connection)
    body = bytearray(head.rest)
    left = head.left
    while left > 0:
        block = _some(connection)
        body += block
        left -= len(block)
    return head, bytes(body)


def _some(connection: socket.socket) -> bytes:
    block = connection.recv(BLOCK)
    if not block:
        raise Failed("the server closed the connection")
    return block


@dataclass
class _Connection:
    socket: socket.socket
    request: bytes
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    left: int | None = None
    """Bytes of the body that are still to come; None: the head has not come yet."""
    status: int = 0


class _Sender:
    """Sends one load with one thread."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._sent = 0
        self._latencies: list[float] = []
        self._statuses: Counter[int] = Counter()

    def run(self) -> Measured:
        load = self._load
        selector = selectors.DefaultSelector()
        connections = [
            _Connection(socket.create_connection((load.host, load.port), SECONDS_TO_ANSWER), text.encode())
            for text in islice(cycle(load.requests), load.connections)
        ]
        for connection in connections:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        begun = time.perf_counter()
        ends_at = begun + load.seconds
        for connection in connections:
            self._send(connection)
        # A slow server gives one answer at least.
        while (now := time.perf_counter()) < ends_at or not self._latencies:
            for key, _ in selector.select(max(ends_at - now, LOOK_SECONDS)):
                self._receive(key.data)
        seconds = time.perf_counter() - begun
        for connection in connections:
            connection.socket.close()
        return self._measured(seconds)

    def _send(self, connection: _Connection) -> None:
        text = connection.request.replace(NUMBER.encode(), b"1%08d" % self._sent)
        self._sent += 1
        connection.sent_at = time.perf_counter()
        connection.socket.sendall(text)

    def _receive(self, connection: _Connection) -> None:
        block = _some(connection.socket)
        if connection.left is None:
            connection.received += block
            head = parse_head(connection.received)
            if head is None:
                return
            connection.status, connection.left = head.status, head.left
            connection.received.clear()
        else:
            connection.left -= len(block)
        if connection.left == 0:
            self._latencies.append(time.perf_counter() - connection.sent_at)
            self._statuses[connection.status] += 1
            connection.left = None
            self._send(connection)

    def _measured(self, seconds: float) -> Measured:
        right = self._statuses[self._load.status]
        if right == 0 or right < (1 - self._load.may_fail) * self._statuses.total():
            raise Failed(f"expected answers {self._load.status}, but there were {dict(self._statuses)}")
        ordered = sorted(self._latencies)
        at = {share: 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99)}
        return Measured(len(ordered), seconds, at[0.5], at[0.99])


def main() -> int:
    measured = _Sender(Load(**json.load(sys.stdin))).run()
    print(json.dumps(asdict(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
