"""Requests for jobs: what is made of them, and what is said of bad ones."""

from __future__ import annotations

import json
from typing import Any, BinaryIO, NoReturn

import httpx
import pytest
from fastapi import UploadFile
from fastapi.testclient import TestClient

from api.http.problems import Problem
from api.jobs import forms, requests
from jobs.ledger import uploads
from lit_client.command.job_request import parse_changes
from lit_spec import SPEC_VERSION, ErrorType, JobError
from tests.worker.bench import DATASET, INSPECTION, OWNER, Bench


def request(teacher: str, **changes: Any) -> dict[str, Any]:
    return {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 14}, **changes}


def test_the_smallest_request_becomes_an_explicit_specification(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    answer = api.post("/v1/jobs", json=request(teacher))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert job["state"] == "queued"
    assert job["spec"]["spec_version"] == job["spec_version"] == SPEC_VERSION
    assert job["spec"]["student"] == {
        "depth": 14,
        "blocks": None,
        "init": "inherit",
        "select": "recover",
        "kept": None,
        "target": None,
        "plan": None,
        "repair": True,
    }
    assert job["spec"]["teacher"]["architecture"]["depth"] == 38
    assert (job["spec"]["alpha"], job["spec"]["beta"], job["spec"]["tau"]) == (0.5, 0.5, 4.0)
    assert job["request"] == request(teacher)
    assert job["accepted"] is None
    again = api.get(f"/v1/jobs/{job['id']}").json()
    assert again["spec"] == job["spec"]
    assert again["waiting"]["reason"] == "no-worker"
    assert "litc worker" in again["waiting"]["detail"]


def test_the_methods_own_words_and_the_rest_reach_the_specification(api: TestClient, bench: Bench) -> None:
    dataset = bench.dataset()
    wanted = {
        "dataset": {"upload": dataset, "size": [8, 8], "mean": [0.3], "std": [0.2], "class_order": list("abcdefghij")},
        "student": {"blocks": [3, 2, 1], "init": "random", "select": "even"},
        "alpha": 0.25,
        "beta": 0,
        "tau": 2.5,
        "ir_loss": "l1",
        "schedule": {"lit": {"epochs": 1, "schedule": {"kind": "milestones", "milestones": [3]}}, "batch_size": 16},
        "seed": 7,
        "device": "cuda",
        "accept": {"max_accuracy_drop": 1.0},
        "name": "a job",
        "tags": ["x", "y"],
    }
    job = api.post("/v1/jobs", json={"teacher": bench.teacher(), **wanted}).json()
    spec = job["spec"]
    assert spec["student"] == {
        "depth": 14,
        "blocks": [3, 2, 1],
        "init": "random",
        "select": "even",
        "kept": None,
        "target": None,
        "plan": None,
        "repair": False,
    }
    assert (spec["alpha"], spec["beta"], spec["tau"], spec["ir_loss"]) == (0.25, 0.0, 2.5, "l1")
    assert spec["schedule"]["lit"]["schedule"] == {"kind": "milestones", "milestones": [3], "gamma": 0.1}
    assert spec["schedule"]["batch_size"] == 16
    assert (job["device"], spec["seed"], spec["accept"]) == ("cuda", 7, {"max_accuracy_drop": 1.0, "min_psnr": None})
    assert spec["dataset"]["class_order"] == list("abcdefghij")
    assert (job["name"], job["tags"]) == ("a job", ["x", "y"])


def test_the_named_blocks_reach_the_specification(api: TestClient, bench: Bench) -> None:
    kept = [[1, 5], [0, 2, 5], [0]]
    job = api.post("/v1/jobs", json=request(bench.teacher(), student={"kept": kept})).json()
    assert job["spec"]["student"] == {
        "depth": 14,
        "blocks": [2, 3, 1],
        "init": "inherit",
        "select": None,
        "kept": kept,
        "target": None,
        "plan": None,
        "repair": False,
    }
    assert job["request"]["student"] == {"kept": kept}


def test_a_target_waits_for_the_worker_without_blocks(api: TestClient, bench: Bench) -> None:
    target = {"latency_ratio": 1.5, "batch": 8}
    answer = api.post("/v1/jobs", json=request(bench.teacher(), student={"target": target}))
    assert answer.status_code == 202
    job = answer.json()
    stored = job["spec"]["student"]
    assert (stored["depth"], stored["blocks"], stored["select"]) == (None, None, "recover")
    assert {name: value for name, value in stored["target"].items() if value is not None} == target
    # Another target in a rerun.
    changes = {"student": {"target": {"latency_ratio": None, "latency_ms": 4}}}
    again = api.post(f"/v1/jobs/{job['id']}/rerun", json=changes).json()
    assert again["request"]["student"] == {"target": {"batch": 8, "latency_ms": 4}}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"alpah": 0.5}, "alpah", "did you mean alpha?"),
        ({"schedule": {"lit": {"epoch": 3}}}, "schedule.lit.epoch", "did you mean epochs?"),
        ({"student": {"depth": 14, "width": 3}}, "student.width", "known are allow_same_depth, blocks, depth, init"),
        ({"alpha": 1.5}, "alpha", "less than or equal to 1"),
        ({"alpha": -0.1}, "alpha", "greater than or equal to 0"),
        ({"beta": 1.01}, "beta", "less than or equal to 1"),
        ({"tau": 0}, "tau", "greater than 0"),
        ({"tau": -4}, "tau", "greater than 0"),
        ({"student": {"depth": 38}}, "student.depth", "choose one of [8, 14, 20, 26, 32]"),
        ({"student": {"depth": 44, "allow_same_depth": True}}, "student.depth", "not smaller than the teacher's depth"),
        ({"student": {"depth": 15}}, "student.depth", "choose one of [8, 14, 20, 26, 32]"),
        ({"student": {}}, "student", '"depth" (as 14), "blocks"'),
        ({"student": {"blocks": [2, 2]}}, "student.blocks", "give 3 numbers"),
        (
            {"student": {"blocks": [9, 2, 2]}},
            "student.blocks",
            "more blocks in a section than the teacher: give at most [6, 6, 6]",
        ),
        ({"student": {"kept": [[0], [0], [3, 1]]}}, "student.kept.2", "write [1, 3]"),
        ({"student": {"kept": [[0], [0], [6]]}}, "student.kept.2", "give 0 to 5"),
        ({"student": {"kept": [[0], [0], [2]]}}, "student.kept.2", "keep block 0"),
        ({"student": {"kept": [[0], [0], [0]], "select": "even"}}, "student", "leave out one of them"),
        ({"student": {"target": {"parameters_ratio": 999}}}, "student.target", "smallest student reaches only 300"),
        ({"student": {"target": {"size_mb": 5, "latency_ms": 3}}}, "student.target", "give exactly one of"),
        ({"student": {"target": {"size_mb": 5}, "depth": 14}}, "student", "not several"),
        ({"student": {"target": {"latency_ratio": 1.0}}}, "student.target.latency_ratio", "greater than 1"),
        ({"dataset": {}}, "dataset", 'exactly one of "upload"'),
        ({"dataset": {"builtin": "mnist"}}, "dataset.builtin", "'digits'"),
        ({"dataset": {"builtin": "digits", "mean": [0.1, 0.2]}}, "dataset.mean", "takes 1 input channels"),
        ({"dataset": {"builtin": "digits", "class_order": ["a"]}}, "dataset.class_order", "has 10 classes"),
        ({"dataset": {"upload": "upl_none"}}, "dataset.upload", "there is no upload 'upl_none'"),
        ({"teacher": "upl_none"}, "teacher", "there is no upload 'upl_none'"),
        ({"device": "tpu"}, "device", "'auto', 'cpu' or 'cuda'"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"schedule": {"lit": {"epochs": 0}, "fine_tune": {"epochs": 0}}}, "schedule", "at least one phase must train"),
        ({"schedule": {"lit": {"schedule": {"kind": "zigzag"}}}}, "schedule.lit.schedule", "'one_cycle'"),
        ({"accept": {"max_accuracy_drop": -1}}, "accept.max_accuracy_drop", "greater than or equal to 0"),
        ({"dataset": {"builtin": "digits", "mean": "x"}}, "dataset.mean", "valid list, or input should be 'data'"),
        ({"dataset": {"builtin": "digits", "mean": ["x"]}}, "dataset.mean.0", "valid number"),
        (
            {"schedule": {"lit": {"schedule": {"kind": "one_cycle", "wamup": 0.1}}}},
            "schedule.lit.schedule.wamup",
            "did you mean warmup?",
        ),
        (
            {"schedule": {"lit": {"schedule": {"kind": "milestones"}}}},
            "schedule.lit.schedule.milestones",
            "required",
        ),
    ],
)
def test_a_bad_request_names_the_field_and_what_would_be_right(
    api: TestClient, bench: Bench, changes: dict[str, Any], field: str, said: str
) -> None:
    answer = api.post("/v1/jobs", json=request(bench.teacher()) | changes)
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/invalid-request"
    [error] = problem["errors"]
    assert error["field"] == field
    assert said in error["message"]
    assert api.get("/v1/jobs").json()["items"] == []


def test_allow_same_depth(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher(), student={"depth": 38, "allow_same_depth": True})
    assert api.post("/v1/jobs", json=body).json()["spec"]["student"]["blocks"] == [6, 6, 6]


def test_a_teacher_without_a_smaller_depth_is_told_apart(api: TestClient, bench: Bench) -> None:
    shallow = INSPECTION.model_copy(
        update={
            "architecture": INSPECTION.architecture.model_copy(update={"depth": 8, "blocks": [1, 1, 1]}),
            "students": INSPECTION.students[:1],
        }
    )
    answer = api.post("/v1/jobs", json=request(bench.teacher(inspection=shallow)))
    [error] = answer.json()["errors"]
    assert error["field"] == "student.depth"
    assert "give a deeper teacher" in error["message"]


def test_uploads_that_cannot_be_used(api: TestClient, bench: Bench) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    swapped = api.post("/v1/jobs", json=request(dataset))
    assert (swapped.status_code, swapped.json()["errors"][0]["field"]) == (422, "teacher")
    assert "is a dataset: give the id of a teacher upload" in swapped.json()["detail"]
    swapped = api.post("/v1/jobs", json=request(teacher, dataset={"upload": teacher}))
    assert (swapped.status_code, swapped.json()["errors"][0]["field"]) == (422, "dataset.upload")

    begun = api.post("/v1/uploads", json={"kind": "dataset", "filename": "x.npz", "size": 10}).json()
    unfinished = api.post("/v1/jobs", json=request(teacher, dataset={"upload": begun["id"]}))
    assert (unfinished.status_code, unfinished.json()["type"]) == (409, "/problems/upload-unfinished")
    assert "only 0 of its 10 bytes" in unfinished.json()["detail"]


def test_a_teacher_of_another_architecture(api: TestClient, bench: Bench) -> None:
    detail = "the checkpoint is no CIFAR ResNet: unexpected keys features.0.weight"
    content = (16).to_bytes(8, "little") + b'{"a":1}         '
    upload = api.post("/v1/uploads", json={"kind": "teacher", "filename": "t", "size": len(content)}).json()
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert api.patch(f"/v1/uploads/{upload['id']}", content=content, headers=headers).status_code == 204
    with bench.database.session() as session:
        error = JobError(type=ErrorType.BAD_TEACHER, detail=detail, field="teacher")
        uploads.finish_inspection(session, upload["id"], inspection=None, error=error)
    answer = api.post("/v1/jobs", json=request(upload["id"]))
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-teacher")
    assert answer.json()["errors"] == [{"field": "teacher", "message": detail}]


def test_run_again_with_changes(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    before = api.post("/v1/jobs", json=request(teacher, alpha=0.2, accept={"max_accuracy_drop": 1})).json()
    changes = {"beta": 0.9, "accept": None, "schedule": {"lit": {"epochs": 3}}}
    after = api.post(f"/v1/jobs/{before['id']}/rerun", json=changes)
    assert after.status_code == 202
    spec = after.json()["spec"]
    assert after.json()["id"] != before["id"]
    assert (spec["alpha"], spec["beta"], spec["accept"], spec["schedule"]["lit"]["epochs"]) == (0.2, 0.9, None, 3)
    wrong = api.post(f"/v1/jobs/{before['id']}/rerun", json={"tau": -1})
    assert wrong.json()["errors"][0]["field"] == "tau"
    assert api.post("/v1/jobs/job_none/rerun", json={}).status_code == 404


@pytest.mark.parametrize(
    ("settings", "section", "field", "left"),
    [
        (["student.blocks=[2,2,1]"], "student", "blocks", [2, 2, 1]),
        (["student.kept=[[0],[0,2],[0]]"], "student", "kept", [[0], [0, 2], [0]]),
        (["dataset.upload={dataset}"], "dataset", "upload", "{dataset}"),
    ],
)
def test_run_again_with_the_other_of_two_fields(
    api: TestClient, bench: Bench, settings: list[str], section: str, field: str, left: Any
) -> None:
    """The command's words take back what the job was made with."""
    dataset = bench.dataset()
    before = api.post("/v1/jobs", json=request(bench.teacher())).json()
    changes = parse_changes([setting.format(dataset=dataset) for setting in settings])
    after = api.post(f"/v1/jobs/{before['id']}/rerun", json=changes)
    assert after.status_code == 202, after.text
    assert after.json()["request"][section] == {field: dataset if left == "{dataset}" else left}


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"{", "application/json", 400, "not valid JSON"),
        (b"[1]", "application/json", 400, "is not a JSON object"),
        (b'{"tau": NaN}', "application/json", 400, "NaN is not a JSON number"),
        (b'{"name": "a\\u0000b"}', "application/json", 400, "NUL"),
        (b'{"a\\u0000b": 1}', "application/json", 400, "NUL"),
        (b'{"name": "\\ud800"}', "application/json", 400, "surrogates"),
        (b'{"tau": 1e999}', "application/json", 400, "float"),
        (b"[" * 100_000, "application/json", 400, "not valid JSON"),
        (b'{"name": "' + b"x" * (1 << 20) + b'"}', "application/json", 413, "1048576 bytes"),
        (b"{}", "application/x-www-form-urlencoded", 415, "application/json"),
        (b"{}", "text/plain", 415, "application/json"),
        (b"\xff\xfe", "application/json", 400, "not valid JSON"),
    ],
)
def test_bodies_that_are_not_json_objects(api: TestClient, content: bytes, kind: str, status: int, said: str) -> None:
    answer = api.post("/v1/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/uploads"])
def test_the_answer_to_very_many_wrong_fields_is_short(api: TestClient, path: str) -> None:
    answer = api.post(path, json={f"field{number}": number for number in range(9_000)})
    errors = answer.json()["errors"]
    assert answer.status_code == 422
    assert len({error["field"] for error in errors}) == len(errors) <= 21
    if path != "/v1/studies":  # the kind of a study is missing, which is its only mistake
        assert errors[-1] == {"field": "body", "message": "has more mistakes: correct these first"}
    assert len(answer.content) < 50_000
    # Nobody describes them all: that would keep other requests waiting.
    more = api.post(path, json={f"field{number}": number for number in range(40_000)})
    assert (more.status_code, [error["field"] for error in more.json()["errors"]]) == (422, ["body"])
    assert "more than 10000 fields" in more.json()["detail"]
    long = api.post(path, json={"x" * 1_000_000: 1})
    assert (long.status_code, len(long.content) < 50_000) == (422, True)


def test_a_backslash_before_u0000_is_no_nul(api: TestClient, bench: Bench) -> None:
    name = "C:\\u0000\\data"
    made = api.post("/v1/jobs", json=request(bench.teacher(), name=name))
    assert (made.status_code, made.json()["name"]) == (202, name)


@pytest.mark.usefixtures("inspected_datasets")
def test_a_form_with_both_files(api: TestClient, bench: Bench) -> None:
    content = b"PK\x03\x04 a teacher as torch.save writes it"
    known = bench_teacher_with(api, bench, content)
    job = {"student": {"depth": 14}, "dataset": {"mean": [0.5]}, "alpha": 0.1}
    files = {"teacher": ("t.pt", content), "dataset": ("d.npz", b"PK\x03\x04 arrays")}
    answer = api.post("/v1/jobs", data={"job": json.dumps(job)}, files=files)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert made["request"]["teacher"] == known
    assert made["request"]["dataset"]["mean"] == [0.5]
    dataset = api.get(f"/v1/uploads/{made['request']['dataset']['upload']}").json()
    assert (dataset["kind"], dataset["filename"], dataset["state"]) == ("dataset", "d.npz", "complete")
    with bench.storage.open(f"uploads/{dataset['id']}/data") as file:
        assert file.read() == b"PK\x03\x04 arrays"
    # Sending the same files again makes a job, and no new uploads.
    count = len(api.get("/v1/uploads").json()["items"])
    assert api.post("/v1/jobs", data={"job": json.dumps(job)}, files=files).status_code == 202
    assert len(api.get("/v1/uploads").json()["items"]) == count


@pytest.mark.parametrize("dataset", [{"mounted": "svhn"}, {"builtin": "digits"}])
def test_a_form_whose_data_set_is_no_file(api: TestClient, bench: Bench, dataset: dict[str, str]) -> None:
    content = b"PK\x03\x04 a teacher as torch.save writes it"
    known = bench_teacher_with(api, bench, content)
    job = {"student": {"depth": 14}, "dataset": dataset}
    answer = api.post("/v1/jobs", data={"job": json.dumps(job)}, files={"teacher": ("t.pt", content)})
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"] == {**job, "teacher": known}
    twice = api.post("/v1/jobs", data={"job": json.dumps(job)}, files={"teacher": content, "dataset": b"x"})
    [error] = twice.json()["errors"]
    assert (error["field"], error["message"][:18]) == ("dataset", "is given as a file")


def bench_teacher_with(api: TestClient, bench: Bench, content: bytes) -> str:
    """An inspected teacher upload with this content."""
    upload = api.post("/v1/uploads", json={"kind": "teacher", "filename": "t.pt", "size": len(content)}).json()
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert api.patch(f"/v1/uploads/{upload['id']}", content=content, headers=headers).status_code == 204
    bench.inspected(upload["id"])
    return str(upload["id"])


@pytest.mark.parametrize(
    ("job", "files", "field"),
    [
        ('{"student": {"depth": 14}, "tau": 0}', {"teacher": b"PK\x03\x04", "dataset": b"x"}, "tau"),
        ('{"student": {"depth": 14}, "teacher": "upl_x"}', {"teacher": b"PK\x03\x04", "dataset": b"x"}, "teacher"),
        ('{"student": {"depth": 14}, "dataset": {"builtin": "digits"}}', {"teacher": b"P", "dataset": b"x"}, "dataset"),
        ('{"student": {"depth": 14}}', {"teacher": b"", "dataset": b"x"}, "teacher"),
        ('{"student": {"depth": 14}}', {"teacher": b"PK\x03\x04", "model": b"x"}, "model"),
        (None, {"teacher": b"PK\x03\x04"}, "job"),
        ('{"student": {"depth": 14, "width": 3}}', {"teacher": b"PK\x03\x04", "dataset": b"x"}, "student.width"),
    ],
)
def test_a_bad_form_keeps_nothing(api: TestClient, job: str | None, files: dict[str, bytes], field: str) -> None:
    parts = {name: (name, content) for name, content in files.items()}
    answer = api.post("/v1/jobs", data={"job": job} if job else {}, files=parts)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert api.get("/v1/uploads").json()["items"] == []


def test_the_temporary_files_of_a_form_go_before_the_inspection_is_awaited(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[BinaryIO] = []
    upload = forms.FormUploads._upload

    def watched(stored: forms.FormUploads, file: UploadFile, *rest: Any) -> str:
        received.append(file.file)
        return upload(stored, file, *rest)

    async def waiting(*_: Any) -> NoReturn:
        raise Problem(503, "inspection-pending", f"closed: {[file.closed for file in received]}")

    monkeypatch.setattr(forms.FormUploads, "_upload", watched)
    monkeypatch.setattr(requests, "inspections_of", waiting)
    job = json.dumps({"student": {"depth": 14}})
    answer = api.post("/v1/jobs", data={"job": job}, files={"teacher": b"PK\x03\x04", "dataset": b"x"})
    assert answer.json()["detail"] == "closed: [True, True]"


def test_a_form_with_a_damaged_teacher_keeps_nothing(api: TestClient) -> None:
    job = json.dumps({"student": {"depth": 14}, "dataset": {"builtin": "digits"}})
    answer = api.post("/v1/jobs", data={"job": job}, files={"teacher": ("t.safetensors", b"not one of those")})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-upload")
    assert api.get("/v1/uploads").json()["items"] == []


@pytest.mark.parametrize(
    ("job", "said"),
    [("{", "not valid JSON"), ('{"tau": NaN}', "NaN"), ('{"name": "a\\u0000"}', "NUL"), ("[" * 9999, "not valid JSON")],
)
def test_the_json_of_a_form_is_read_like_every_other(api: TestClient, job: str, said: str) -> None:
    as_text = api.post("/v1/jobs", data={"job": job}, files={"teacher": b"PK\x03\x04"})
    as_file = api.post("/v1/jobs", files={"job": ("job.json", job.encode())})
    for answer in (as_text, as_file):
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")
        assert said in answer.json()["detail"]


def test_a_form_whose_parts_are_wrong_names_each(api: TestClient) -> None:
    files = {"dataset": ("d", b""), "model": ("m", b"x")}
    answer = api.post("/v1/jobs", data={"job": "{}", "teacher": "upl_x"}, files=files)
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")
    found = {error["field"]: error["message"] for error in answer.json()["errors"]}
    assert set(found) == {"teacher", "dataset", "model"}
    assert found["teacher"].startswith("is not a file")
    assert found["dataset"] == "is an empty file: send a file with content"
    assert found["model"] == "unknown field: known are dataset, discriminator, job, teacher"


def test_a_form_with_a_part_twice(api: TestClient) -> None:
    answer = api.post("/v1/jobs", files=[("job", ("job.json", b"{}")), ("job", ("job.json", b"{}"))])
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")
    assert "part twice" in answer.json()["detail"]


def test_the_parts_of_a_form_are_few_and_small(api: TestClient) -> None:
    five = [f"part{number}" for number in range(5)]
    files = api.post("/v1/jobs", files={name: (name, b"x") for name in five})
    fields = api.post("/v1/jobs", files=dict.fromkeys(five, (None, b"x")))
    long = api.post("/v1/jobs", files={"job": (None, b" " * ((1 << 20) + 1))})
    for answer, said in ((files, "files is 4"), (fields, "fields is 4"), (long, "size of 1024KB")):
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")
        assert said in answer.json()["detail"]


def test_the_json_of_a_form_may_have_one_mebibyte(api: TestClient) -> None:
    def send(content: bytes) -> httpx.Response:
        answer: httpx.Response = api.post("/v1/jobs", files={"job": ("job.json", content)})
        return answer

    largest = b"{}".ljust(1 << 20)
    assert send(largest).status_code == 422
    answer = send(largest + b" ")
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")


def test_a_form_says_its_length(api: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = api.post("/v1/jobs", content=iter([b"--x--\r\n"]), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (411, "/problems/length-required")
    answer = api.post("/v1/jobs", content=b"--x--\r\n", headers=headers | {"Content-Length": str(1 << 60)})
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"dataset": {"size": [8, 8]}}, None, ""),
        ({"dataset": {"crop": 9}}, "dataset.crop", "a side of 8 pixels: give at most 8"),
        ({"dataset": {"train_samples": 801}}, "dataset.train_samples", "the training split has 800 samples"),
        ({"dataset": {"class_order": list("abcdefghij")}}, None, ""),
    ],
)
def test_a_request_is_checked_against_its_data_set(
    api: TestClient, bench: Bench, changes: dict[str, Any], field: str | None, said: str
) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    job = request(teacher, **{**changes, "dataset": {"upload": dataset, **changes["dataset"]}})
    study = {"kind": "compare", "methods": ["lit"], "job": job}
    for path, body, prefix in (("/v1/jobs", job, ""), ("/v1/studies", study, "job.")):
        answer = api.post(path, json=body)
        if field is None:
            assert answer.status_code == 202, answer.text
            continue
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["field"]) == (422, prefix + field)
        assert said in error["message"]


def test_a_data_set_that_no_request_can_use(api: TestClient, bench: Bench) -> None:
    upload = api.post("/v1/uploads", json={"kind": "dataset", "filename": "d.zip", "size": 3}).json()["id"]
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    api.patch(f"/v1/uploads/{upload}", content=b"zip", headers=headers)
    error = JobError(type=ErrorType.BAD_DATASET, detail="cat/7.png can't be read", member="cat/7.png")
    with bench.database.session() as session:
        uploads.finish_inspection(session, upload, inspection=None, error=error)
    shown = api.get(f"/v1/uploads/{upload}").json()
    assert (shown["inspection_state"], shown["inspection_error"]["member"]) == ("failed", "cat/7.png")
    answer = api.post("/v1/jobs", json=request(bench.teacher(), dataset={"upload": upload}))
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-dataset")
    assert answer.json()["errors"] == [{"field": "dataset.upload", "message": "cat/7.png can't be read"}]
    assert api.get(answer.json()["type"]).status_code == 200


@pytest.mark.usefixtures("inspected_datasets")
def test_a_data_set_from_before_inspections_is_inspected_at_its_first_use(api: TestClient, bench: Bench) -> None:
    dataset = bench.dataset()
    with bench.database.session() as session:
        row = uploads.get(session, OWNER, dataset)
        row.inspection = row.inspection_state = None
    assert api.get(f"/v1/uploads/{dataset}").json()["dataset_inspection"] is None
    assert api.post("/v1/jobs", json=request(bench.teacher(), dataset={"upload": dataset})).status_code == 202
    assert api.get(f"/v1/uploads/{dataset}").json()["dataset_inspection"]["format"] == "npz"


def test_an_upload_of_its_own_may_be_the_test_split(api: TestClient, bench: Bench) -> None:
    teacher, dataset, test = bench.teacher(), bench.dataset(), bench.dataset(b"held out")
    body = request(teacher, dataset={"upload": dataset, "test_upload": test})
    made = api.post("/v1/jobs", json=body)
    assert made.status_code == 202, made.text
    assert made.json()["spec"]["dataset"]["test_upload"] == test
    assert api.delete(f"/v1/uploads/{test}").json()["type"] == "/problems/upload-in-use"
    found = DATASET.model_copy(update={"classes": ["0", "12"], "number_of_classes": 13})
    for wrong, said in (
        ({"upload": dataset, "test_upload": "upl_none"}, "there is no upload"),
        ({"upload": dataset, "test_upload": teacher}, "is a teacher"),
        ({"upload": dataset, "test_upload": bench.dataset(b"other", found)}, "has labels up to 12"),
        ({"builtin": "digits", "test_upload": test}, 'goes with an "upload"'),
    ):
        answer = api.post("/v1/jobs", json=request(teacher, dataset=wrong))
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text
