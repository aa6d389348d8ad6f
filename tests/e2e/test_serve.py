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
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from lit_client import Client
from service.embedded.servers import EmbeddedServers
from service.running import RunningService, ServiceNotStarted, own_environment, running_service
from tests.e2e.digits import QUICK, ROOT, SHORT, TEACHER
from tests.lit_client.command import Finished, litc_with
from tests.modes import open_to_others
from tests.worker.bench import wait_for

URLS = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
KEY_NAME = "the one that runs at night on the machine under the stairs [red]"
LITC = str(Path(sys.executable).with_name("litc"))

COLD = {"LIT_WARM_TRAINER": "false"}
"""Most of these services train nothing, so no process need load torch ahead."""


def litc(folder: Path, *words: str, **variables: str) -> Finished:
    """Here: each process would take more than a second of processor time to load what commands need."""
    return litc_with(own_environment(folder / "data") | COLD | variables, *words)


def postgres(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data/postgres/postmaster.pid").read_text().split()[0]))


def processes(service: RunningService) -> dict[str, psutil.Process]:
    """The service's child processes, by their parts of the service."""
    found = {}
    for child in psutil.Process(service.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if "service.worker_process" in words:
                found["inspecting" if "--inspect" in words else "training"] = child
            elif any("valkey" in word for word in words):
                found["valkey"] = child
    with suppress(FileNotFoundError, psutil.NoSuchProcess, IndexError):
        found["postgres"] = postgres(service.log.parent)
    return found


def all_processes(service: RunningService) -> dict[str, psutil.Process]:
    """Waits for those that have just been started: the address is told when the API listens."""
    wait_for(lambda: len(processes(service)) == 4, 30, "the service's processes")
    return processes(service)


def is_ready(service: RunningService) -> bool:
    return httpx.get(f"{service.url}/readyz").status_code == 200


def check_ids_are_whole(folder: Path, key_id: str, secret: str) -> None:
    """In a pipe and in a narrow window."""
    listed = litc(folder, "keys", "list").stdout
    [row] = [line for line in listed.splitlines() if key_id in line]
    assert KEY_NAME in row
    assert secret not in listed
    window, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(window, "rb", buffering=0) as shown:
        subprocess.run(
            [LITC, "keys", "list"], cwd=ROOT, env=own_environment(folder / "data"), stdout=inside, timeout=60
        )
        assert key_id in shown.read(20_000).decode()
    os.close(inside)


def test_keys_restarts_and_a_clean_end(tmp_path: Path) -> None:
    with running_service(tmp_path, environment=COLD) as service:
        url = service.url
        family = [*psutil.Process(service.process.pid).children(recursive=True), postgres(tmp_path)]
        assert httpx.get(f"{url}/v1/jobs").status_code == 200
        # For root, the package of PostgreSQL opens the folders above its own.
        opened = {str(tmp_path / "data")} if os.geteuid() == 0 else set()
        assert open_to_others(tmp_path / "data").keys() <= opened
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

        made = litc(tmp_path, "keys", "create", KEY_NAME)
        secret = made.stdout.strip()
        assert made.returncode == 0, made.stderr
        assert secret.startswith("lit_")
        header = {"Authorization": f"Bearer {secret}"}
        assert httpx.get(f"{url}/v1/jobs").status_code == 401
        assert httpx.get(f"{url}/v1/jobs", headers=header).status_code == 200
        upload = {"kind": "dataset", "filename": "x", "size": 3}
        kept = httpx.post(f"{url}/v1/uploads", headers=header, json=upload).json()["id"]

        assert service.stop(signal.SIGINT) == 0
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []

    # What was stored is there after a restart, on the same data.
    with running_service(tmp_path, "--workers", "0", environment=COLD) as service:
        url = service.url
        key_id = made.stderr.split()[1]
        check_ids_are_whole(tmp_path, key_id, secret)
        assert httpx.get(f"{url}/v1/uploads/{kept}", headers=header).json()["size"] == 3
        assert litc(tmp_path, "keys", "revoke", key_id).returncode == 0
        assert httpx.get(f"{url}/v1/jobs", headers=header).status_code == 401
        assert service.stop(signal.SIGTERM) == 0


def test_after_a_kill_the_next_start_takes_over_what_is_left(tmp_path: Path) -> None:
    with running_service(tmp_path, environment=COLD) as service:
        workers = [all_processes(service)[name] for name in ("training", "inspecting")]
        service.process.kill()
        # The workers see by themselves that the service is gone.
        assert psutil.wait_procs(workers, timeout=40)[1] == []
    with running_service(tmp_path, "--workers", "0", environment=COLD) as service:
        assert is_ready(service)
        database = postgres(tmp_path)
        assert service.stop() == 0
    assert psutil.wait_procs([database], timeout=5)[1] == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_is_killed_is_started_again_and_what_cannot_be_started_ends_the_service(tmp_path: Path) -> None:
    environment = {"LIT_THREADS": "1", "LIT_RESTART_SECONDS": "0.1", **COLD}
    with running_service(tmp_path, environment=environment) as service, Client(service.url) as client:
        teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id)
        before = all_processes(service)
        assert set(before) == {"postgres", "valkey", "training", "inspecting"}

        def post_job(seed: int) -> str:
            request = {
                "teacher": teacher.id,
                "dataset": {"builtin": "digits"},
                "student": QUICK,
                "seed": seed,
            }
            return client.create_job(request | {"schedule": SHORT, "exports": []}).id

        def are_replaced(*names: str) -> bool:
            now = processes(service)
            return all(name in now and now[name].pid != before[name].pid for name in names)

        # A training goes on while the inspecting worker, the broker and the database are killed.
        across = post_job(seed=0)
        wait_for(lambda: client.job(across).state == "running", 30, "the job")
        for name in ("inspecting", "valkey", "postgres"):
            before[name].kill()
        wait_for(lambda: are_replaced("inspecting", "valkey", "postgres") and is_ready(service), 60, "the service")
        done = client.wait_job(across)
        assert (done.state, done.attempt, done.failures) == ("succeeded", 1, 0)

        before["training"].kill()
        afterwards = post_job(seed=1)
        client.wait_inspection(client.upload(TEACHER, "teacher").id)
        assert client.wait_job(afterwards).state == "succeeded"
        assert are_replaced(*before)

        family = all_processes(service)
        control = tmp_path / "data/postgres/global/pg_control"
        control.rename(control.with_suffix(".lost"))
        family["postgres"].kill()
        assert service.process.wait(90) == 1
        assert psutil.wait_procs(list(family.values()), timeout=5)[1] == []
    assert re.search(r"^PostgreSQL failed 5 times in a row", service.end_of_log(), re.MULTILINE)


def test_a_data_folder_that_cannot_be_used_ends_the_service_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data/postgres").mkdir(parents=True)
    (tmp_path / "data/postgres/photographs").touch()
    with pytest.raises(ServiceNotStarted, match="exit code 1 instead") as failure, running_service(tmp_path):
        pass
    assert "PostgreSQL can't be started: no data can be set up in" in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_an_open_address_needs_a_key(tmp_path: Path) -> None:
    refused = litc(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "litc keys create" in refused.stderr
    assert litc(tmp_path, "keys", "create", "first").returncode == 0
    with running_service(tmp_path, "--host", "0.0.0.0", "--workers", "0", environment=COLD) as service:
        port = int(service.url.rsplit(":", 1)[1])
        assert httpx.get(f"http://127.0.0.1:{port}/v1/jobs").status_code == 401
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        assert service.stop() == 0


def test_stopping_does_not_wait_for_those_who_wait(tmp_path: Path) -> None:
    with running_service(tmp_path, "--workers", "0") as service:
        url = service.url
        upload = httpx.post(f"{url}/v1/uploads", json={"kind": "teacher", "filename": "x", "size": 9}).json()
        content = b"\x80 pickled"
        headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
        httpx.patch(f"{url}/v1/uploads/{upload['id']}", content=content, headers=headers).raise_for_status()
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as waiting:
            waiting.sendall(f"GET /v1/uploads/{upload['id']}?wait=30 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            time.sleep(0.5)
            service.process.terminate()
            waiting.settimeout(20)
            assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        assert service.process.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        ((), {}, "`litc worker` needs DATABASE_URL and REDIS_URL: set both, or run `litc serve`"),
        (
            ("--devices", "tpu"),
            URLS,
            "--devices: 'tpu' are not devices of a worker: give one or more of cpu, cuda, separated by commas.",
        ),
        ((), {**URLS, "REDIS_URL": "amqp://x"}, "REDIS_URL: must begin with one of redis://"),
    ],
)
def test_a_worker_says_once_what_is_wrong(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    done = litc(tmp_path, "worker", *words, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(said)


def test_without_a_schema_commands_say_how_to_make_one(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "data") as empty:
        given = {"DATABASE_URL": empty.database_url, "REDIS_URL": empty.redis_url}
        for words in (("keys", "create", "ci"), ("keys", "list"), ("api", "--host", "0.0.0.0", "--port", "0")):
            done = litc(tmp_path, *words, **given)
            assert (done.returncode, "litc migrate" in done.stderr) == (2, True), done.stderr
            assert "Traceback" not in done.stderr
        assert litc(tmp_path, "migrate", **given).returncode == 0
        assert litc(tmp_path, "keys", "create", "ci", **given).returncode == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LIT_THREADS": "many"}, "LIT_THREADS"),
        ({"DATABASE_URL": "postgresql://x/y"}, "Only one of DATABASE_URL and REDIS_URL is set"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}, "database"),
    ],
)
def test_wrong_settings_end_in_a_sentence(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = litc(tmp_path, "serve", "--port", "0", **variables)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
