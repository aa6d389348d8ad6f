"""`litc logs`, `events`, `metrics`, `uploads`, `delete`, `download`, `doctor`, `--version`, and completion."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.ledger import attempts, keys
from jobs.ledger.attempts import Event, Metric
from lit_client import Client
from lit_client.checks import own_version
from lit_client.command.completion import complete_job
from lit_spec.scopes import Scope
from tests.jobs.study_bench import take
from tests.lit_client.command import NOWHERE, ROOT, Finished, environment, litc
from tests.lit_client.scripted_worker import RESULT, ScriptedWorker, store
from tests.worker.bench import Bench


@pytest.fixture
def finished_job(bench: Bench) -> str:
    """With two epochs, a log and four files, one of them the bundle."""
    job = bench.job()
    claim = take(bench)
    metrics = [Metric("lit", epoch, name, 90.5) for epoch in (1, 2) for name in ("student_accuracy", "ir_loss")]
    epochs = [Event("epoch", {"phase": "lit", "epoch": epoch, "epochs": 2}) for epoch in (1, 2)]
    bench.storage.put_bytes(f"jobs/{job}/1/trainer.log", b"first line\nlast line\n")
    files = [store(bench, claim, name, name.encode()) for name in ("model.safetensors", "report.json", "bundle.zip")]
    with bench.database.session() as session:
        attempts.record(session, claim, epochs, metrics, None, None)
        attempts.succeed(session, claim, RESULT, files)
    return job


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_what_a_job_tells_is_text_csv_and_json(url: str, finished_job: str) -> None:
    job = finished_job
    for words in (("logs", job), ("logs", "-f", job), ("log", job)):
        assert litc(url, *words).stdout == "first line\nlast line\n"
    for words in (("logs", job, "--json"), ("logs", "--follow", job, "--json")):
        assert json_lines(litc(url, *words).stdout) == [{"log": "first line\nlast line\n"}]

    every = json_lines(litc(url, "events", job, "--json").stdout)
    assert [event["seq"] for event in every] == list(range(1, len(every) + 1))
    assert every[-1]["type"] == "succeeded"
    assert json_lines(litc(url, "events", job, "-f", "--after", 2, "--json").stdout) == every[2:]
    assert "LIT 2/2" in litc(url, "events", job).stdout

    assert len(json.loads(litc(url, "metrics", job, "--json").stdout)) == 4
    chosen = litc(url, "metrics", job, "--name", "student_accuracy", "--csv").stdout
    assert chosen == "phase,epoch,name,value\nlit,1,student_accuracy,90.5\nlit,2,student_accuracy,90.5\n"
    assert "ir_loss" in litc(url, "metrics", job).stdout
    missing = litc(url, "metrics", job, "--name", "psnr")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"{job} has no psnr; it has ir_loss, student_accuracy." in missing.stderr


def test_a_log_is_followed_over_attempts_until_the_job_ends(client: Client, bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)
    bench.storage.put_bytes(f"jobs/{job}/1/trainer.log", b"one ")
    pieces = client.follow_log(job)
    assert next(pieces) == "one "
    bench.storage.put_bytes(f"jobs/{job}/1/trainer.log", b"one two ")
    assert next(pieces) == "two "
    with bench.database.session() as session:
        attempts.release(session, claim)
    claim = take(bench)
    bench.storage.put_bytes(f"jobs/{job}/2/trainer.log", b"again")
    assert next(pieces) == "again"
    with bench.database.session() as session:
        attempts.succeed(session, claim, RESULT, [])
    assert list(pieces) == []


def test_the_bundle_is_left_out_unless_it_is_asked_for_or_has_a_format_alone(
    client: Client, url: str, bench: Bench, finished_job: str, tmp_path: Path
) -> None:
    assert litc(url, "download", finished_job, "-o", tmp_path / "files").returncode == 0
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["model.safetensors", "report.json"]
    assert litc(url, "download", finished_job, "-o", tmp_path / "bundle", "--bundle").returncode == 0
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["bundle.zip"]
    assert litc(url, "download", finished_job, "-o", tmp_path, "--bundle", "--file", "report.json").returncode == 2

    job = bench.job()
    claim = take(bench)
    files = [store(bench, claim, name, name.encode()) for name in ("model.safetensors", "bundle.zip")]
    exports = [{"kind": "hugging_face", "file": "bundle.zip", "error": None}]
    with bench.database.session() as session:
        attempts.succeed(session, claim, RESULT | {"exports": exports}, files)
    assert {file.path.name for file in client.download(job, tmp_path / "hf")} == {"bundle.zip", "model.safetensors"}


def test_uploads_are_listed_shown_and_removed(
    url: str, worker: ScriptedWorker, client: Client, teacher: Path, bench: Bench
) -> None:
    free = client.wait_inspection(client.upload(teacher, "teacher").id, timeout=20).id
    used = bench.teacher()
    bench.job(teacher=used, device="cuda")
    listed = json.loads(litc(url, "uploads", "--json").stdout)
    assert listed == json.loads(litc(url, "uploads", "list", "--json").stdout)
    assert {upload["id"] for upload in listed} == {free, used}
    assert free in litc(url, "uploads").stdout
    assert f"({free})" in litc(url, "uploads", "show", free).stdout
    done = litc(url, "uploads", "delete", used, free, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (2, {"deleted": [free]})
    assert f"{used} is needed by" in done.stderr


def test_jobs_are_removed_one_by_one(url: str, bench: Bench, finished_job: str) -> None:
    waiting = bench.job(device="cuda")
    done = litc(url, "delete", waiting, "job_x", finished_job)
    assert (done.returncode, done.stdout) == (2, f"{finished_job} deleted\n")
    assert waiting in done.stderr
    assert "job_x" in done.stderr
    assert litc(url, "delete", finished_job).returncode == 2


def test_doctor_says_what_fails_and_what_to_do(url: str, bench: Bench) -> None:
    well = litc(url, "doctor", "--client", "--json")
    answer = json.loads(well.stdout)
    assert (well.returncode, answer["ok"]) == (0, True)
    assert [check["name"] for check in answer["checks"]][:4] == ["service", "version", "ready", "key"]

    away = litc(NOWHERE, "doctor", "--client")
    assert away.returncode == 1
    assert away.stdout.startswith("fail service")
    assert "litc serve" in away.stdout

    with bench.database.session() as session:
        _, secret = keys.create(session, "mine")
    refused = litc(url, "doctor", "--client")
    assert refused.returncode == 1
    assert "LIT_API_KEY" in refused.stdout
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with bench.database.session() as session:
        _, reader = keys.create(session, "reader", scopes=[Scope.READ], expires_at=tomorrow)
    wrong = checks(litc(url, "doctor", "--client", "--json", LIT_API_KEY="lit_wrong"))["key"]
    assert (wrong["status"], bool(wrong["advice"])) == ("fail", True)
    valid = litc(url, "doctor", "--client", "--json", LIT_API_KEY=secret)
    assert valid.returncode == 0
    assert "key mine" in checks(valid)["key"]["detail"]
    assert (checks(valid)["scopes"]["status"], checks(valid)["scopes"]["detail"]) == ("ok", "read, submit")
    limited = checks(litc(url, "doctor", "--client", "--json", LIT_API_KEY=reader))
    assert [limited[name]["status"] for name in ("key", "scopes")] == ["warn", "warn"]
    assert "until" in limited["key"]["detail"]


def checks(done: Finished) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_doctor_looks_at_the_services_settings_without_changing_anything(
    url: str, bench: Bench, service_urls: tuple[str, str], tmp_path: Path
) -> None:
    database, broker = bench.database.engine.url.render_as_string(hide_password=False), service_urls[1]
    places = {"LIT_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": database, "REDIS_URL": broker}
    done = litc(url, "doctor", "--service", "--json", **places)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {name: checks[name]["status"] for name in ("settings", "database", "broker", "storage")} == dict.fromkeys(
        ("settings", "database", "broker", "storage"), "ok"
    )
    assert not (tmp_path / "data").exists()

    broken = places | {"REDIS_URL": "redis://127.0.0.1:9/0", "DATABASE_URL": "postgresql://x@127.0.0.1:9/x"}
    (tmp_path / "file").touch()
    done = litc(url, "doctor", "--service", "--json", **broken, LIT_STORAGE_DIR=str(tmp_path / "file/storage"))
    failed = {check["name"] for check in json.loads(done.stdout)["checks"] if check["status"] == "fail"}
    assert (done.returncode, failed) == (1, {"database", "broker", "storage"})
    done = litc(url, "doctor", "--service", LIT_PORT="many")
    assert (done.returncode, "LIT_PORT" in done.stdout) == (1, True)


def test_versions_of_both_sides(url: str) -> None:
    assert json.loads(litc(url, "--version", "--json").stdout) == {
        "client": own_version(),
        "service": own_version(),
        "url": url,
    }
    alone = litc(NOWHERE, "--version")
    assert (alone.returncode, alone.stdout) == (0, f"litc {own_version()}\n")
    assert "No LIT service answers" in alone.stderr


def test_the_shell_completes_ids_and_shows_no_errors(
    url: str, finished_job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"_LITC_COMPLETE": "complete_bash", "COMP_WORDS": "litc job job_", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from lit_client.command.cli import app; app(prog_name='litc')"]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, env=environment(url, **asked), **options)  # type: ignore[call-overload]
    assert finished_job in done.stdout
    monkeypatch.setenv("LIT_URL", NOWHERE)
    assert complete_job("job_") == []
