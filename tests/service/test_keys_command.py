"""`litc keys` on a data folder: what it makes, what it leaves alone, and that nothing keeps running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from jobs.database.connection import Database
from jobs.ledger import audit, keys
from lit_spec.answers.keys import Key, NewKey
from service.embedded.servers import EmbeddedServers
from tests.lit_client.command import NOWHERE, ROOT, Finished, environment, litc
from tests.worker.bench import wait_for


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


def servers_of(data: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["name", "cwd"]):
        if str(process.info["cwd"]).startswith(str(data)) and process.info["name"] in {"postgres", "valkey-server"}:
            yield process


@pytest.mark.parametrize("words", [("list",), ("revoke", "key_x")])
def test_without_a_database_they_say_so_and_make_none(data: Path, words: tuple[str, ...]) -> None:
    done = litc(NOWHERE, "keys", *words, LIT_DATA_DIR=str(data))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"There is no database in {data}: set LIT_DATA_DIR")
    assert not data.exists()


def test_a_list_leaves_an_older_schema_as_it_is(data: Path) -> None:
    with EmbeddedServers(data, broker=False):
        pass
    listed = litc(NOWHERE, "keys", "list", LIT_DATA_DIR=str(data))
    assert (listed.returncode, listed.stdout) == (2, "")
    assert "`litc serve` migrates its own database" in listed.stderr
    assert litc(NOWHERE, "keys", "create", "ci", LIT_DATA_DIR=str(data)).returncode == 0
    assert "ci" in litc(NOWHERE, "keys", "list", LIT_DATA_DIR=str(data)).stdout
    assert list(servers_of(data)) == []


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_several_signals_while_the_database_starts_leave_nothing_running(data: Path, number: signal.Signals) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from lit_client.command.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "keys", "create", "ci"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(NOWHERE, LIT_DATA_DIR=str(data)), stdout=subprocess.PIPE, text=True
    )
    wait_for((data / "postgres/postmaster.pid").exists, 60, "the database's start")
    for _ in range(3):
        process.send_signal(number)
    wait_for(lambda: process.poll() is not None, 60, "the end")
    assert (process.returncode, process.communicate()[0]) == (130, "")
    assert list(servers_of(data)) == []


def test_keys_of_a_team_are_made_rotated_and_noted(database: Database) -> None:
    def run(*words: str) -> Finished:
        url = database.engine.url.render_as_string(hide_password=False)
        return litc(NOWHERE, "keys", *words, DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:9")

    made = run("create", "ci", "--owner", "vision", "--scope", "admin", "--expires", "90d")
    assert (made.returncode, made.stdout[:4]) == (0, "lit_"), made.stderr
    with database.session() as session:
        [key] = keys.all_keys(session)
        assert (key.owner, key.scopes) == ("vision", ["admin", "read", "submit"])
        assert key.expires_at is not None
        assert timedelta(days=89) < key.expires_at - key.created_at < timedelta(days=91)
        found = keys.authenticate(session, made.stdout.strip())
        assert found is not None
        assert found.owner == "vision"
    listed = run("list").stdout
    assert all(word in listed for word in (key.id, "vision", "admin read submit", f"{key.expires_at:%Y-%m-%d}"))

    rotated = run("rotate", key.id, "--grace", "1h")
    assert rotated.returncode == 0, rotated.stderr
    with database.session() as session:
        both = [keys.authenticate(session, done.stdout.strip()) for done in (made, rotated)]
        assert [one and (one.owner, one.expired) for one in both] == [("vision", False)] * 2
    again = run("rotate", key.id)
    assert (again.returncode, again.stdout) == (2, "")
    assert "already replaced" in again.stderr
    assert run("revoke", key.id).returncode == 0
    with database.session() as session:
        entries = audit.list_page(session)
        assert [(e.action, e.owner) for e in entries] == [
            ("key.revoke", None),
            ("key.rotate", None),
            ("key.create", None),
        ]
        assert all(entry.subject is not None and entry.subject.startswith("command line, ") for entry in entries)

    # The same answers as those of the API, for pipelines.
    replacing = NewKey.model_validate_json(run("create", "replacing", "--owner", "vision", "--json").stdout)
    replaced = NewKey.model_validate_json(run("rotate", replacing.id, "--json").stdout)
    with database.session() as session:
        found = keys.authenticate(session, replaced.secret)
        assert (found and found.id, replacing.owner) == (replaced.id, "vision")
    assert Key.model_validate_json(run("revoke", replaced.id, "--json").stdout).revoked_at is not None
    shown = [Key.model_validate(one) for one in json.loads(run("list", "--json").stdout)]
    with database.session() as session:
        assert shown == [Key.model_validate(one) for one in keys.all_keys(session)]

    for wrong, why in (
        (("--owner", "a b"), "owner"),
        (("--scope", "root"), "root"),
        (("--expires", "soon"), "not a duration"),
        (("--expires", "2020-01-01"), "in the past"),
        (("--expires", "0d"), "in the past"),
        (("--expires", "9999-12-31"), "the year 3000"),
    ):
        refused = run("create", "x", *wrong)
        assert (refused.returncode, refused.stdout) == (2, ""), wrong
        assert why in refused.stderr, refused.stderr
    with database.session() as session:
        assert len(keys.all_keys(session)) == 4


def test_one_that_runs_in_a_tests_process_leaves_its_signals_as_they_were(data: Path) -> None:
    def own(_number: int, _frame: object) -> None:
        """Not what pytest has, which ignores SIGINT in the background, as the command does at its end."""

    before = {number: signal.signal(number, own) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert litc(NOWHERE, "keys", "create", "ci", LIT_DATA_DIR=str(data)).returncode == 0
        assert [signal.getsignal(number) for number in before] == [own, own]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_they_load_no_server() -> None:
    code = "import sys, service.commands.keys; sys.exit('fastapi' in sys.modules or 'uvicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
