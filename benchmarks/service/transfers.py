"""A large file up and down."""

from __future__ import annotations

import json
import mmap
import os
import socket
import time
from pathlib import Path

from benchmarks.service.client import BLOCK, SECONDS_TO_ANSWER, Failed, Head, exchange, parse_head, read_answer, request
from benchmarks.service.figures import Effort, Figure
from benchmarks.service.servers import Name, Server, Servers

MEGABYTE = 1_000_000
MLFLOW_PATH = "/api/2.0/mlflow-artifacts/artifacts/bench/file"
BYTES = {"Content-Type": "application/octet-stream"}


def measure_transfers(servers: Servers, effort: Effort) -> list[Figure]:
    source = servers.folder / "file"
    up: dict[Name, list[float]] = {name: [] for name in servers.running}
    down: dict[Name, list[float]] = {name: [] for name in servers.running}
    for number in range(effort.rounds):
        _write_file(source, effort.file_bytes, number)
        for name, server in servers.running.items():
            _settle()
            if name is Name.LIT:
                up[name].append(_upload_to_lit(servers, server, source))
                path, headers = _ended_job(servers, source)
            else:
                path, headers = (MLFLOW_PATH, {}) if name is Name.MLFLOW else ("/file", {})
                up[name].append(_send(server, "PUT", path, BYTES, source)[0])
            down[name].append(_receive(server, path, headers, effort.file_bytes))
    return [
        Figure(what, name, "MB/s", values)
        for what, found in (("upload", up), ("download", down))
        for name, values in found.items()
    ]


def _upload_to_lit(servers: Servers, server: Server, source: Path) -> float:
    """MB/s, from the announcement to the answer that the file is complete: its sha256 is known, its bytes durable."""
    key = {"Authorization": f"Bearer {servers.ledger.key}"}
    size = source.stat().st_size
    announced = json.dumps({"kind": "dataset", "filename": "file.npz", "size": size})
    begun = time.perf_counter()
    head, content = exchange(
        server.host, server.port, request("POST", "/v1/uploads", key | {"Content-Type": "application/json"}, announced)
    )
    if head.status != 201:
        raise Failed(f"the announcement of an upload was answered with {head.status}: {content!r}")
    upload = f"/v1/uploads/{json.loads(content)['id']}"
    _, answer = _send(server, "PATCH", upload, key | BYTES | {"Upload-Offset": "0"}, source)
    if answer.status != 204:
        raise Failed(f"an upload was answered with {answer.status}")
    seconds = time.perf_counter() - begun
    exchange(server.host, server.port, request("DELETE", upload, key))
    return size / MEGABYTE / seconds


def _ended_job(servers: Servers, source: Path) -> tuple[str, dict[str, str]]:
    """The path of a job's file with these bytes, and the headers that it needs."""
    job = servers.ledger.ended_job(source.read_bytes())
    return f"/v1/jobs/{job}/artifacts/model.safetensors", {"Authorization": f"Bearer {servers.ledger.key}"}


def _send(server: Server, method: str, path: str, headers: dict[str, str], source: Path) -> tuple[float, Head]:
    """MB/s until the answer, and the answer."""
    size = source.stat().st_size
    text = request(method, path, headers | {"Content-Length": str(size)})
    begun = time.perf_counter()
    with socket.create_connection((server.host, server.port), SECONDS_TO_ANSWER) as connection:
        connection.sendall(text.encode())
        with source.open("rb") as file:
            connection.sendfile(file)
        head, _ = read_answer(connection)
    if not 200 <= head.status < 300:
        raise Failed(f"{server.name} answered {head.status} to a file")
    return size / MEGABYTE / (time.perf_counter() - begun), head


def _receive(server: Server, path: str, headers: dict[str, str], size: int) -> float:
    """MB/s. The bytes are counted and dropped."""
    begun = time.perf_counter()
    block = mmap.mmap(-1, BLOCK)
    with socket.create_connection((server.host, server.port), SECONDS_TO_ANSWER) as connection:
        text = request("GET", path, headers | {"Connection": "close"})
        connection.sendall(text.encode())
        received = bytearray()
        while (head := parse_head(received)) is None:
            received += connection.recv(BLOCK)
        count = len(head.rest)
        while (more := connection.recv_into(block)) > 0:
            count += more
    # Some servers send a file in chunks, whose sizes are in between.
    if head.status != 200 or count < size:
        raise Failed(f"{server.name} answered {head.status} with {count} of {size} bytes")
    return size / MEGABYTE / (time.perf_counter() - begun)


def _write_file(path: Path, size: int, number: int) -> None:
    """Other bytes for each round: what is known already is not sent again."""
    block = os.urandom(BLOCK)
    with path.open("wb") as file:
        file.write(number.to_bytes(8, "big"))
        left = size - 8
        while left > 0:
            left -= file.write(block[: min(BLOCK, left)])


def _settle() -> None:
    """What an earlier measurement wrote goes to the disk before the next one begins."""
    os.sync()
