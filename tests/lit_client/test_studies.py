"""Studies from Python and by `litc study`: what is sent, what is shown, and the exit codes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lit_client import Client
from lit_client.command import study_display
from lit_client.command.job_request import BadRequest
from lit_client.command.output import exit_code_of_study
from lit_client.command.study_request import check_study, parse_arms, parse_numbers
from lit_spec import Architecture, DatasetRequest, JobRequest, LibraryNetwork, StudentOption, StudentRequest
from lit_spec.answers.studies import Study
from lit_spec.requests.study import CompareRequest, StudyKind
from tests.api.test_studies import request as study_request
from tests.jobs.study_bench import fail, look, make_study, take
from tests.jobs.study_specs import make_plan
from tests.lit_client.command import NOWHERE, litc
from tests.lit_client.faults import FaultyTransport, lost_answer
from tests.lit_client.made_answers import make_study as made_study
from tests.lit_client.scripted_worker import ScriptedWorker
from tests.lit_client.test_display import lines
from tests.worker.bench import INSPECTION, Bench

ROW = {
    "arm": "hint",
    "trials": 3,
    "succeeded": 2,
    "failed": 1,
    "stopped": 0,
    "validation_mean": 97.0,
    "test_mean": 96.5,
    "test_low": 95.25,
    "test_high": 97.75,
    "difference_mean": -0.5,
    "difference_low": None,
    "difference_high": None,
    "parameters": 97198,
    "seconds": 2.34,
    "chosen": True,
    "job_id": "job_0",
}
TABLE = {
    "validation_metric": "accuracy",
    "test_metric": "accuracy",
    "teacher": {"validation": 98.0, "test": 97.5, "parameters": 316270, "latency_ms": 1.5},
    "columns": list(ROW),
    "rows": [ROW],
}


def studies(url: str) -> list[Study]:
    """Newest first."""
    with Client(url) as client:
        return list(client.studies())


def the_request(url: str) -> dict[str, Any]:
    """That of the newest study."""
    return studies(url)[0].request


def without_teacher(request: dict[str, Any]) -> dict[str, Any]:
    job = {name: value for name, value in request["job"].items() if name != "teacher"}
    return {**request, "job": job}


def test_a_study_by_the_client(
    client: Client, transport: FaultyTransport, worker: ScriptedWorker, bench: Bench
) -> None:
    worker.reached = lambda trial: 97.0 if trial["arm"] == "lit" else 95.0
    teacher = bench.teacher()
    job = JobRequest(teacher=teacher, dataset=DatasetRequest(builtin="digits"), student=StudentRequest(depth=14))
    arms = ["lit", {"name": "x", "beta": 0.1}]
    transport.faults["POST"].append(lost_answer())
    made = client.create_study(CompareRequest(kind=StudyKind.COMPARE, job=job, methods=arms))  # type: ignore[arg-type]
    assert transport.count("POST", "/v1/studies") == 2
    # Only what was set, so that the service's defaults hold.
    assert made.request["job"] == {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 14}}
    assert made.request["methods"] == [{"name": "lit", "method": "lit"}, {"name": "x", "beta": 0.1}]
    *_, last = client.follow_study(made.id)
    assert (last.state, last.kind, last.choice, last.progress.finished) == ("succeeded", "compare", {"arm": "lit"}, 2)
    done = client.wait_study(made.id)
    assert (done.finished, done.best_job, done.etag) == (True, last.best_job, last.etag)
    assert client.study(made.id, etag=done.etag or "") is None
    table = client.study_table(made.id)
    assert table == done.table
    assert [row["test_mean"] for row in table.rows] == [97.0, 95.0]
    assert client.study_csv(made.id).splitlines()[0].startswith("arm,")
    assert [(study.id, study.table) for study in client.studies()] == [(made.id, None)]
    assert len(list(client.jobs(study=made.id))) == 2
    client.delete_study(made.id)
    assert list(client.studies()) == []


def test_a_study_that_is_cancelled_goes_on_when_resumed(client: Client, bench: Bench) -> None:
    study = client.create_study(study_request(bench.teacher(), methods=["lit", "kd"]))
    assert client.cancel_study(study.id).cancel_requested
    look(bench, study.id)
    assert client.study(study.id).state == "cancelled"
    assert (client.resume_study(study.id).state, client.study(study.id).round) == ("running", 2)


def test_compare_sends_follows_shows_and_fetches(
    url: str, worker: ScriptedWorker, teacher: Path, tmp_path: Path
) -> None:
    worker.reached = lambda trial: None if trial["arm"].startswith("weak") and trial["seed"] else 96.5
    done = litc(
        url,
        *("study", "compare", teacher, "--dataset", "digits", "--depth", 14, "--epochs", 3, "--set", "tau=2"),
        *("--method", "lit", "--method", '{"name": "weak", "beta": 0.9}', "--init", "inherit", "--seeds", "0,1"),
        *("--name", "n", "--tag", "t", "--output", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert without_teacher(the_request(url)) == {
        "kind": "compare",
        "job": {
            "dataset": {"builtin": "digits"},
            "student": {"depth": 14},
            "schedule": {"lit": {"epochs": 3}},
            "tau": 2,
        },
        "methods": ["lit", {"name": "weak", "beta": 0.9}],
        "inits": ["inherit"],
        "seeds": [0, 1],
        "name": "n",
        "tags": ["t"],
    }
    (study,) = studies(url)
    for text in ("weak", "1/2, 1 failed", "96.50", "chosen: arm lit", f"best job: {study.best_job}"):
        assert text in done.stdout
    assert "the teacher: 98.00 test" in done.stdout
    steps = [line for line in done.stderr.splitlines() if "of at most 4 trials" in line]
    assert steps[-1] == "succeeded, 4 of at most 4 trials, 1 failed"
    assert all(line != later for line, later in pairwise(steps)), "a line for each step"
    assert (tmp_path / "out/model.safetensors").read_bytes() == b"student"


def test_search_and_depth_send_their_grids(url: str, worker: ScriptedWorker, teacher: Path) -> None:
    data = teacher.with_name("data.npz")
    data.write_bytes(b"arrays")
    words = ["--taus", "1,2.5", "--betas", "0.5", "--dataset", data, "--depth", 8, "--detach"]
    done = litc(url, "study", "search", teacher, *words)
    (study,) = studies(url)
    assert (done.returncode, done.stdout.strip()) == (0, study.id), done.stderr
    sent = study.request
    assert (sent["taus"], sent["betas"], "alphas" in sent) == ([1.0, 2.5], [0.5], False)
    assert set(sent["job"]["dataset"]) == {"upload"}
    words = ["--max-accuracy-drop", 1.5, "--depths", "8,14", "--front", "--no-stop-early", "--dataset", "digits"]
    litc(url, "study", "depth", teacher, *words, "--detach")
    sent = the_request(url)
    assert (sent["max_accuracy_drop"], sent["depths"], sent["front"], sent["stop_early"]) == (1.5, [8, 14], True, False)


@pytest.mark.usefixtures("worker")
def test_the_options_of_a_plan_reach_the_request(url: str, teacher: Path, tmp_path: Path) -> None:
    words = ["--students", 4, "--batch", 8, "--repair", "--no-labels", "--dataset", "digits", "--name", "p"]
    done = litc(url, "plan", teacher, *words, "--detach", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == studies(url)[0].id
    assert not (tmp_path / "out").exists(), "a detached plan has no files yet"
    assert without_teacher(the_request(url)) == {
        "kind": "plan",
        "students": 4,
        "batch": 8,
        "repair": True,
        "name": "p",
        "job": {"dataset": {"builtin": "digits", "labels": False}},
    }


def test_the_job_of_a_plan_is_shown_as_a_table_of_students() -> None:
    result = make_plan([[[0, 1], [0, 1]], [[0], [0, 2]]]).as_json()
    shown = lines(study_display.plan_table(result))
    [row] = [line for line in shown if "0/0,2" in line]
    assert [word for word in row.split() if word[:1].isdigit()] == [
        "8",
        "0/0,2",
        "0.00",
        "1.500",
        "3.33",
        "0.250",
        "30.00",
    ]
    assert "agreement, val" in "".join(shown)


@pytest.mark.parametrize("words", [["search"], ["compare", "--method", "lit"], ["depth", "--front"]])
def test_a_network_of_a_library_is_named_with_its_file(
    url: str, worker: ScriptedWorker, teacher: Path, words: list[str]
) -> None:
    network = LibraryNetwork(name="resnet18", kwargs={}, stem=[], sections=[["a", "b"]] * 3, head=[], size=[32, 32])
    architecture = Architecture(family="timm", depth=6, blocks=[2] * 3, channels=1, classes=10, network=network)
    students = [StudentOption(depth=3 * n, blocks=[n] * 3, parameters=n, parameters_ratio=2 / n) for n in (1, 2)]
    worker.inspection = INSPECTION.model_copy(update={"architecture": architecture, "students": students})
    student = [] if words[0] == "depth" else ["--depth", 3]
    named = ["--architecture", "timm/resnet18", "--dataset", "digits", *student, "--detach"]
    done = litc(url, "study", words[0], teacher, *words[1:], *named)
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        (upload,) = client.uploads()
    assert upload.architecture is not None
    assert (upload.architecture.library, upload.architecture.name) == ("timm", "resnet18")
    assert the_request(url)["job"]["architecture"] == {"library": "timm", "name": "resnet18"}


def test_run_takes_a_file(url: str, worker: ScriptedWorker, teacher: Path, tmp_path: Path) -> None:
    request = {"kind": "compare", "methods": ["kd"], "job": {"student": {"depth": 8}, "dataset": {"builtin": "digits"}}}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(request))
    without = litc(url, "study", "run", file, "--detach")
    assert (without.returncode, "--teacher" in without.stderr) == (2, True)
    done = litc(url, "study", "run", file, "--teacher", teacher, "--detach", "--json")
    assert json.loads(done.stdout)["id"] == studies(url)[0].id, done.stderr
    assert without_teacher(the_request(url)) == request
    # A data set's file takes the place of what the file names.
    data = tmp_path / "data.npz"
    data.write_bytes(b"arrays")
    litc(url, "study", "run", file, "--teacher", teacher, "--dataset", data, "--detach")
    assert set(the_request(url)["job"]["dataset"]) == {"upload"}


@pytest.mark.parametrize(("max_accuracy_drop", "reached", "code"), [(1.0, 97.5, 0), (1.0, 90.0, 3), (1.0, None, 1)])
def test_exit_codes_tell_how_the_study_ended(
    url: str, worker: ScriptedWorker, bench: Bench, max_accuracy_drop: float, reached: float | None, code: int
) -> None:
    worker.reached = lambda trial: reached
    study = make_study(bench, "depth", depths=[8, 14], max_accuracy_drop=max_accuracy_drop)
    look(bench, study)
    done = litc(url, "study", "show", study, "--wait")
    assert done.returncode == code, done.stderr
    assert litc(url, "study", "show", study).returncode == 0


def test_a_cancelled_study_ends_with_1(url: str, bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit"])
    assert f"{study}: " in litc(url, "study", "cancel", study).stdout
    look(bench, study)
    assert litc(url, "study", "show", study, "--wait").returncode == 1


def test_looking_and_acting(url: str, bench: Bench) -> None:
    study = make_study(bench, "compare", {"student": {"depth": 14}}, methods=["lit"], name="mine")
    look(bench, study)
    assert litc(url, "study", "delete", study).returncode == 2
    fail(bench, take(bench))
    look(bench, study)
    listed = json.loads(litc(url, "study", "list", "--name", "mine", "--json").stdout)
    assert [(entry["id"], entry["state"]) for entry in listed] == [(study, "failed")]
    assert "mine" in litc(url, "study", "list").stdout
    assert litc(url, "study", "table", study, "--csv").stdout.splitlines()[1].startswith("lit,")
    assert json.loads(litc(url, "study", "table", study, "--json").stdout)["rows"][0]["arm"] == "lit"
    resumed = json.loads(litc(url, "study", "resume", study, "--json").stdout)
    assert (resumed["id"], resumed["state"]) == (study, "running")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--method", "litt", "--depth", 8, "--dataset", "digits"], "methods.0"),
        (["compare", "--method", "{", "--depth", 8, "--dataset", "digits"], "--method"),
        (["compare", "--method", "lit", "--depth", 8], "--dataset"),
        (["compare", "--method", "lit", "--seeds", "a", "--dataset", "digits"], "--seeds"),
        (["search", "--taus", "0", "--dataset", "digits", "--depth", 8], "taus.0"),
        (["depth", "--dataset", "digits"], "max_accuracy_drop"),
    ],
)
def test_wrong_use_ends_with_2_before_anything_is_sent(teacher: Path, words: list[object], message: str) -> None:
    kind, *rest = words
    done = litc(NOWHERE, "study", kind, teacher, *rest)
    assert done.returncode == 2
    assert message in done.stderr


def test_words_become_fields() -> None:
    assert parse_numbers("--taus", "1,2.5", float) == [1.0, 2.5]
    assert parse_arms(["lit", ' {"name": "x"}']) == ["lit", {"name": "x"}]
    with pytest.raises(BadRequest, match="kind"):
        check_study({"kind": "grid"})


def test_the_table_shows_intervals_and_what_became_of_the_trials() -> None:
    shown = "\n".join(lines(study_display.study_table(made_study(table=TABLE))))
    for text in ("* ", "hint", "2/3, 1 failed", "96.50 (95.25 … 97.75)", "-0.50", "97,198"):
        assert text in shown
    assert "the teacher: 97.50 test, 98.00 val, 316,270 parameters" in shown


def test_a_kind_that_this_client_does_not_know_shows_all_columns() -> None:
    study = made_study(kind="of tomorrow", table=TABLE)
    assert exit_code_of_study(study) == 0
    shown = "\n".join(lines(study_display.study_table(study)))
    for name in ("arm", "test_mean", "job_id"):
        assert name[:5] in shown
    assert "of tomorrow study_1" in shown
