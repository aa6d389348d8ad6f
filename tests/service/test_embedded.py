"""The embedded PostgreSQL and Valkey: what a killed service leaves behind doesn't prevent the next start."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from service.embedded.postgres import EmbeddedPostgres
from service.embedded.servers import EmbeddedServers
from service.embedded.valkey import EmbeddedValkey
from service.errors import ChildFailed, DataDirInUse
from tests.worker.bench import wait_for


def postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))


def test_postgres_starts_in_spite_of_a_stale_pid_file(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    server = EmbeddedPostgres(folder)
    server.start()
    url = server.url
    pid_file = folder / "postmaster.pid"
    whole = pid_file.read_text().splitlines()
    # Of the user that PostgreSQL runs as, because it takes the processes of others for none of its own.
    other = subprocess.Popen(["sleep", "600"], user=folder.stat().st_uid)
    try:
        # Killed; by now its process id belongs to another program, or the file was cut off.
        for lines in ([str(other.pid), *whole[1:]], whole[:3]):
            killed = postmaster(folder)
            killed.kill()
            psutil.wait_procs([killed], timeout=10)
            assert not server.alive()
            pid_file.write_text("\n".join(lines) + "\n")
            (folder / ".s.PGSQL.5432.lock").write_text(f"{other.pid}\n")
            server.start()
            assert server.alive()
            assert server.url == url
    finally:
        other.kill()
        other.wait()
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

    # The first thing after the server runs.
    monkeypatch.setattr("service.embedded.postgres._own_database", interrupt)
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


def test_nobody_waits_for_a_valkey_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("redis.retry.sleep", pauses.append)
    server = EmbeddedValkey(tmp_path, tmp_path / "v.sock")
    server.start()
    [killed] = [child for child in psutil.Process().children() if str(tmp_path) in " ".join(child.cmdline())]
    killed.kill()
    wait_for(lambda: not server.alive())
    server.start()
    assert server.stop()
    assert pauses == []


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


def test_a_data_folder_with_files_of_others_stays_open_to_them(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder in (shared, own):
        folder.mkdir()
        folder.chmod(0o775)
    (shared / "letters").mkdir()
    for folder in (shared, own):
        with EmbeddedServers(folder, broker=False):
            pass
    # For root, PostgreSQL runs as another user, and the folder is open to reading.
    assert shared.stat().st_mode & stat.S_IWGRP
    assert not own.stat().st_mode & stat.S_IWGRP


def test_a_server_that_recovers_for_long_after_a_crash_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    server = EmbeddedPostgres(folder)
    server.start()
    # A recovery of more than the 10 s that the package waits: it asks for a file that comes late.
    slow = f"test -e {folder}/asked || {{ touch {folder}/asked; sleep 12; }}; false"
    with (folder / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"restore_command = '{slow}'\nhot_standby = off\n")
    killed = postmaster(folder)
    killed.kill()
    psutil.wait_procs([killed], timeout=10)
    (folder / "recovery.signal").touch()

    server.start()
    recovering = postmaster(folder)
    assert server.alive()
    # A service that starts while the server of a killed one still recovers.
    next_one = EmbeddedPostgres(folder)
    next_one.start()
    assert (postmaster(folder), next_one.url) == (recovering, server.url)
    assert next_one.stop()
    assert not server.alive()


def test_a_server_that_dies_right_after_its_start_keeps_nobody_waiting(tmp_path: Path) -> None:
    # In a process of its own, which reaps the killed servers, as an init does: nobody sees them as zombies.
    program = """
import ctypes, os, pathlib, subprocess, sys
from service.embedded.postgres import EmbeddedPostgres
from service.errors import ChildFailed

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
folder = pathlib.Path(sys.argv[1])
run = subprocess.run

def kill():
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(pid, 9)
    os.waitpid(pid, 0)

def run_and_kill(command, **options):
    done = run(command, **options)
    if pathlib.Path(command[0]).name == "pg_ctl" and "start" in command:
        kill()
    return done

server = EmbeddedPostgres(folder)
subprocess.run = run_and_kill
try:
    server.start()
except ChildFailed as failure:
    print(failure)
assert not server.url
subprocess.run = run
server.start()
kill()
subprocess.run = run_and_kill
server.start()
assert not server.alive()
subprocess.run = run
server.start()
assert server.alive()
assert server.stop()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "postgres")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "PostgreSQL can't be started: it ended as soon as it had started" in done.stdout


def test_a_setup_that_was_killed_does_not_prevent_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    program = (
        "from pathlib import Path; from service.embedded.postgres import EmbeddedPostgres; "
        f"EmbeddedPostgres(Path({str(folder)!r})).start()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for(lambda: any(tmp_path.rglob("PG_VERSION")), 60, "the setup")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not any(tmp_path.rglob("log")), "it was killed too late: the server has started"

    server = EmbeddedPostgres(folder)
    server.start()
    assert server.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["postgres"]


def test_a_server_whose_data_are_gone_is_not_started_on_new_ones(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    server = EmbeddedPostgres(folder)
    server.start()
    assert server.stop()
    shutil.rmtree(folder)
    with pytest.raises(ChildFailed, match=f"its data are gone from {folder}"):
        server.start()
    assert not folder.exists()
