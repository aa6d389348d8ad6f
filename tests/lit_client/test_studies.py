"""Studies from Python and by `litc study`: what is sent, what is shown, and the exit codes."""

from __future__ import annotations

import json

import pytest

from lit_client.command.job_request import BadRequest
from lit_client.command.study_request import check_study, parse_arms, parse_numbers
from lit_client.errors import InspectedOtherwise
from lit_spec import DatasetRequest, JobRequest
from lit_spec.requests.study import CompareRequest
from tests.lit_client.test_cli import litc

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
PROGRESS = {"planned": 3, "queued": 1, "running": 0, "succeeded": 2, "failed": 0, "cancelled": 0, "stopped": 0}
UNDER_WAY = {"table": TABLE, "progress": PROGRESS}
DONE = {"state": "succeeded", "choice": {"arm": "hint"}, "best_job": "job_0", "table": TABLE, "progress": PROGRESS}


@pytest.fixture
def teacher(tmp_path):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(b"tensors")
    return path


def test_a_study_by_the_client(client, faulty, tmp_path):
    faulty.study_answers = [UNDER_WAY, UNDER_WAY, DONE]
    job = JobRequest(teacher="upl_0", dataset=DatasetRequest(builtin="digits"))
    made = client.create_study(CompareRequest(kind="compare", job=job, methods=["lit", {"name": "x", "beta": 0.1}]))
    request = faulty.studies[made.id][0]["request"]
    # Only what was set, so that the service's defaults hold.
    assert request["job"] == {"teacher": "upl_0", "dataset": {"builtin": "digits"}}
    assert request["methods"] == [{"name": "lit", "method": "lit"}, {"name": "x", "beta": 0.1}]
    assert [study.state for study in client.follow_study(made.id)] == ["running", "running", "succeeded"]
    done = client.wait_study(made.id)
    assert (done.finished, done.choice, done.best_job, done.progress.finished) == (True, {"arm": "hint"}, "job_0", 2)
    assert client.study_table(made.id).rows == [ROW]
    assert client.study_csv(made.id).splitlines() == ["arm,test_mean", "lit,97.5"]
    assert [study.id for study in client.studies()] == [made.id]
    assert client.cancel_study(made.id).id == client.resume_study(made.id).id == made.id
    keys = [
        headers["Idempotency-Key"]
        for method, path, headers in faulty.requests
        if path == "/v1/studies" and method == "POST"
    ]
    assert all(keys)


def test_compare_sends_follows_shows_and_fetches(faulty, teacher, tmp_path):
    faulty.study_answers = [UNDER_WAY, UNDER_WAY, DONE]
    faulty.add_file("model.safetensors", b"student")
    done = litc(
        faulty,
        *("study", "compare", teacher, "--dataset", "digits", "--depth", 14, "--epochs", 3, "--set", "tau=2"),
        *("--method", "lit", "--method", '{"name": "weak", "beta": 0.9}', "--init", "inherit", "--seeds", "0,1"),
        *("--name", "n", "--tag", "t", "--output", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert faulty.studies["study_0"][0]["request"] == {
        "kind": "compare",
        "job": {
            "teacher": "upl_0",
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
    for text in ("hint", "2/3, 1 failed", "96.50 (95.25 … 97.75)", "97,198", "chosen: arm hint", "best job: job_0"):
        assert text in done.stdout
    assert "the teacher: 97.50 test" in done.stdout
    # A line for each step, not for each look.
    assert done.stderr.count("running, 2 of at most 3 trials, 1 queued") == 1
    assert (tmp_path / "out/model.safetensors").read_bytes() == b"student"


def test_search_and_depth_send_their_grids(faulty, teacher):
    data = teacher.with_name("data.npz")
    data.write_bytes(b"arrays")
    words = ["--taus", "1,2.5", "--betas", "0.5", "--dataset", data, "--depth", 8, "--detach"]
    done = litc(faulty, "study", "search", teacher, *words)
    assert (done.returncode, done.stdout.strip()) == (0, "study_0"), done.stderr
    sent = faulty.studies["study_0"][0]["request"]
    assert (sent["taus"], sent["betas"], "alphas" in sent) == ([1.0, 2.5], [0.5], False)
    assert sent["job"]["dataset"] == {"upload": "upl_1"}
    words = ["--max-accuracy-drop", 1.5, "--depths", "8,14", "--front", "--no-stop-early", "--dataset", "digits"]
    litc(faulty, "study", "depth", teacher, *words, "--detach")
    sent = faulty.studies["study_1"][0]["request"]
    assert (sent["max_accuracy_drop"], sent["depths"], sent["front"], sent["stop_early"]) == (1.5, [8, 14], True, False)


def test_a_network_of_a_library_is_named_with_its_file(faulty, teacher):
    for words in (["search"], ["compare", "--method", "lit"], ["depth", "--front"]):
        faulty.uploads.clear()
        named = ["--architecture", "timm/resnet18", "--dataset", "digits", "--detach"]
        done = litc(faulty, "study", words[0], teacher, *words[1:], *named)
        assert done.returncode == 0, done.stderr
        (upload,) = faulty.uploads.values()
        assert (upload["architecture"]["library"], upload["architecture"]["name"]) == ("timm", "resnet18")
    sent = faulty.studies["study_0"][0]["request"]
    assert sent["job"]["architecture"] == {"library": "timm", "name": "resnet18"}


def test_whoever_is_overtaken_is_told(client, faulty, teacher):
    upload = client.upload(teacher, "teacher", architecture={"library": "timm", "name": "resnet18"})
    with pytest.raises(InspectedOtherwise, match="was inspected as another architecture"):
        client.wait_inspection(upload.id, architecture={"library": "timm", "name": "resnet34"})


def test_run_takes_a_file(faulty, teacher, tmp_path):
    request = {"kind": "compare", "methods": ["kd"], "job": {"student": {"depth": 8}, "dataset": {"builtin": "digits"}}}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(request))
    without = litc(faulty, "study", "run", file, "--detach")
    assert (without.returncode, "--teacher" in without.stderr) == (2, True)
    done = litc(faulty, "study", "run", file, "--teacher", teacher, "--detach", "--json")
    assert json.loads(done.stdout)["id"] == "study_0", done.stderr
    sent = faulty.studies["study_0"][0]["request"]
    assert sent == request | {"job": request["job"] | {"teacher": "upl_0"}}
    # A data set's file takes the place of what the file names.
    data = tmp_path / "data.npz"
    data.write_bytes(b"arrays")
    litc(faulty, "study", "run", file, "--teacher", teacher, "--dataset", data, "--detach")
    assert faulty.studies["study_1"][0]["request"]["job"]["dataset"] == {"upload": "upl_1"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (DONE, 0),
        ({"state": "failed", "error": {"type": "no-result", "detail": "nothing"}}, 1),
        ({"state": "cancelled"}, 1),
        ({"kind": "depth", "state": "succeeded", "choice": {"depth": None}}, 3),
        ({"kind": "depth", "state": "succeeded", "choice": {"depth": 8}}, 0),
        ({"kind": "of tomorrow", "state": "succeeded", "table": TABLE}, 0),
    ],
)
def test_exit_codes(faulty, answer, code):
    faulty.studies["study_0"] = [{"id": "study_0", "kind": "compare"} | answer]
    done = litc(faulty, "study", "show", "study_0", "--wait")
    assert done.returncode == code, done.stderr
    assert litc(faulty, "study", "show", "study_0").returncode == 0


def test_looking_and_acting(faulty):
    faulty.studies["study_0"] = [{"id": "study_0", "kind": "compare", "name": "mine"} | DONE]
    assert "mine" in litc(faulty, "study", "list").stdout
    assert litc(faulty, "study", "table", "study_0", "--csv").stdout == "arm,test_mean\nlit,97.5\n"
    assert json.loads(litc(faulty, "study", "table", "study_0", "--json").stdout)["rows"] == [ROW]
    assert "study_0: succeeded" in litc(faulty, "study", "cancel", "study_0").stdout
    assert json.loads(litc(faulty, "study", "resume", "study_0", "--json").stdout)["id"] == "study_0"
    refused = litc(faulty, "study", "delete", "study_0")
    assert (refused.returncode, faulty.count("DELETE", "studies/study_0")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "--method", "litt", "--depth", 8, "--dataset", "digits"], "methods.0"),
        (["compare", "--method", "{", "--depth", 8, "--dataset", "digits"], "--method"),
        (["compare", "--method", "lit", "--depth", 8], "--dataset"),
        (["compare", "--method", "lit", "--seeds", "a", "--dataset", "digits"], "--seeds"),
        (["search", "--taus", "0", "--dataset", "digits", "--depth", 8], "taus.0"),
        (["depth", "--dataset", "digits"], "max_accuracy_drop"),
    ],
)
def test_wrong_use_ends_with_2_before_anything_is_sent(faulty, teacher, words, said):
    kind, *rest = words
    done = litc(faulty, "study", kind, teacher, *rest)
    assert done.returncode == 2
    assert said in done.stderr
    assert faulty.requests == []


def test_words_become_fields():
    assert parse_numbers("--taus", "1,2.5", float) == [1.0, 2.5]
    assert parse_arms(["lit", ' {"name": "x"}']) == ["lit", {"name": "x"}]
    with pytest.raises(BadRequest, match="kind"):
        check_study({"kind": "grid"})
