"""Starting and stopping the service, keys, and addresses that others can reach."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import httpx
import psutil
import pytest

from service.embedded import Embedded
from tests.e2e.digits import ROOT

URLS = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
LITC = str(Path(sys.executable).with_name("litc"))


def environment(folder: Path) -> dict[str, str]:
    unset = ("DATABASE_URL", "REDIS_URL")
    kept = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("LIT_")}
    return {**kept, "LIT_DATA_DIR": str(folder / "data")}


def start(folder: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [LITC, "serve", "--port", "0", *words],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"LIT listens on (http://\S+)", line):
            return process, found[1]
    raise AssertionError((folder / "log").read_text())


def litc(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = environment(folder) | variables
    return subprocess.run([LITC, *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def postgres(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data/postgres/postmaster.pid").read_text().split()[0]))


def test_keys_restarts_and_a_clean_end(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    family = [*psutil.Process(process.pid).children(recursive=True), postgres(tmp_path)]
    assert httpx.get(f"{url}/v1/jobs").status_code == 200
    # There are no web sockets, so a request that asks for one is a request like any other.
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "YQ==",
    }
    assert httpx.get(f"{url}/v1/jobs", headers=upgrade).status_code == 200

    # A second service must not touch the same data.
    second = litc(tmp_path, "serve", "--port", "0")
    assert second.returncode == 2
    assert "LIT_DATA_DIR" in second.stderr

    made = litc(tmp_path, "keys", "create", "ci")
    secret = made.stdout.strip()
    assert made.returncode == 0, made.stderr
    assert secret.startswith("lit_")
    header = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{url}/v1/jobs").status_code == 401
    assert httpx.get(f"{url}/v1/jobs", headers=header).status_code == 200
    upload = {"kind": "dataset", "filename": "x", "size": 3}
    kept = httpx.post(f"{url}/v1/uploads", headers=header, json=upload).json()["id"]

    assert stop(process, signal.SIGINT) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []

    # What was stored is there after a restart, on the same data.
    process, url = start(tmp_path)
    listed = litc(tmp_path, "keys", "list")
    assert secret not in listed.stdout
    assert "ci" in listed.stdout
    assert httpx.get(f"{url}/v1/uploads/{kept}", headers=header).json()["size"] == 3
    key_id = re.search(r"key_\w+", made.stderr)
    assert key_id is not None
    assert litc(tmp_path, "keys", "revoke", key_id[0]).returncode == 0
    assert httpx.get(f"{url}/v1/jobs", headers=header).status_code == 401
    assert stop(process, signal.SIGTERM) == 0


def test_after_a_kill_the_next_start_takes_over_what_is_left(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if "worker" in child.cmdline()]
    assert workers
    process.kill()
    process.wait()
    # The workers see by themselves that the service is gone.
    assert psutil.wait_procs(workers, timeout=40)[1] == []
    process, url = start(tmp_path)
    assert httpx.get(f"{url}/readyz").status_code == 200
    database = postgres(tmp_path)
    assert stop(process, signal.SIGTERM) == 0
    assert psutil.wait_procs([database], timeout=5)[1] == []


def test_an_open_address_needs_a_key(tmp_path: Path) -> None:
    refused = litc(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "litc keys create" in refused.stderr
    assert litc(tmp_path, "keys", "create", "first").returncode == 0
    process, _ = start(tmp_path, "--host", "0.0.0.0", "--workers", "0")
    port = next(c.laddr.port for c in psutil.Process(process.pid).net_connections("tcp") if c.status == "LISTEN")
    assert httpx.get(f"http://127.0.0.1:{port}/v1/jobs").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    assert stop(process, signal.SIGTERM) == 0


def test_stopping_does_not_wait_for_those_who_wait(tmp_path: Path) -> None:
    process, url = start(tmp_path, "--workers", "0")
    upload = httpx.post(f"{url}/v1/uploads", json={"kind": "teacher", "filename": "x", "size": 9}).json()
    content = b"\x80 pickled"
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    httpx.patch(f"{url}/v1/uploads/{upload['id']}", content=content, headers=headers).raise_for_status()
    port = int(url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        waiting.sendall(f"GET /v1/uploads/{upload['id']}?wait=30 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        waiting.settimeout(20)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        ((), {}, "`litc worker` needs DATABASE_URL and REDIS_URL; `litc serve` brings its own."),
        (("--devices", "tpu"), URLS, "Worker devices 'tpu': give one or more of cpu, cuda, separated by commas."),
        ((), {**URLS, "LIT_LEASE_SECONDS": "soon"}, "LIT_LEASE_SECONDS: Input should be a valid number"),
        ((), {**URLS, "DATABASE_URL": "mysql://x/y"}, "DATABASE_URL has the scheme mysql"),
        ((), {**URLS, "REDIS_URL": "amqp://x"}, "REDIS_URL: Value error, must begin with one of redis://"),
    ],
)
def test_a_worker_says_once_what_is_wrong(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    done = litc(tmp_path, "worker", *words, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(said)


def test_ids_of_keys_are_whole_in_a_pipe_and_in_a_narrow_window(tmp_path: Path) -> None:
    long_name = "the one that runs at night on the machine under the stairs [red]"
    key_id = litc(tmp_path, "keys", "create", long_name).stderr.split()[1]
    [row] = [line for line in litc(tmp_path, "keys", "list").stdout.splitlines() if key_id in line]
    assert long_name in row
    window, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(window, "rb", buffering=0) as shown:
        subprocess.run([LITC, "keys", "list"], cwd=ROOT, env=environment(tmp_path), stdout=inside, timeout=60)
        assert key_id in shown.read(20_000).decode()
    os.close(inside)


@pytest.mark.parametrize(
    "words", [("keys", "create", "ci"), ("keys", "list"), ("api", "--host", "0.0.0.0", "--port", "0")], ids=" ".join
)
def test_without_a_schema_commands_say_how_to_make_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    with Embedded(tmp_path / "data") as empty:
        given = {"DATABASE_URL": empty.database_url, "REDIS_URL": empty.redis_url}
        done = litc(tmp_path, *words, **given)
        assert (done.returncode, "litc migrate" in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
        assert litc(tmp_path, "migrate", **given).returncode == 0
        assert litc(tmp_path, "keys", "create", "ci", **given).returncode == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LIT_PORT": "many"}, "LIT_PORT"),
        ({"DATABASE_URL": "mysql://x/y", "REDIS_URL": "redis://x"}, "postgresql://"),
        ({"DATABASE_URL": "postgresql://x/y"}, "both DATABASE_URL and REDIS_URL"),
        ({"LIT_HEARTBEAT_SECONDS": "50"}, "LIT_HEARTBEAT_SECONDS"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}, "database"),
    ],
)
def test_wrong_settings_end_in_a_sentence(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [LITC, "serve", "--port", "0"],
        cwd=ROOT,
        env=environment(tmp_path) | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
