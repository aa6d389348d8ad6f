"""What may be asked about torchvision's and timm's networks before anything is uploaded."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.ledger import uploads
from lit_spec import ErrorType, JobError
from tests.worker.bench import Bench, wait_for


def test_a_network_shows_its_sections_and_what_each_depth_saves(api: TestClient) -> None:
    shown = api.get("/v1/architectures/torchvision/resnet50").json()
    assert shown["blocks"] == [3, 4, 6, 3]
    assert shown["sections"][0] == ["layer1.0", "layer1.1", "layer1.2"]
    assert shown["parameters"] == 25557032
    students = shown["students"]
    assert [student["depth"] for student in students] == list(range(4, 17))
    assert students[0]["blocks"] == [1, 1, 1, 1]
    assert students[-1] == {
        "depth": 16,
        "blocks": [3, 4, 6, 3],
        "parameters": 25557032,
        "parameters_ratio": 1.0,
        "flops": shown["students"][-1]["flops"],
        "latency_ms": None,
    }
    flops = [student["flops"] for student in students]
    assert flops == sorted(flops)
    # 4.09 G multiply-adds with 224 pixels.
    assert shown["size"] == [64, 64]
    assert flops[-1] == pytest.approx(2 * 4.09e9 * (64 / 224) ** 2, rel=0.02)
    ratios = [student["parameters_ratio"] for student in students]
    assert ratios == sorted(ratios, reverse=True)


def test_a_tag_of_weights_changes_nothing(api: TestClient) -> None:
    plain = api.get("/v1/architectures/timm/vit_tiny_patch16_224").json()
    assert plain["blocks"] == [3, 3, 3, 3]
    assert api.get("/v1/architectures/timm/vit_tiny_patch16_224.augreg_in21k").json() == plain


def test_a_refusal_says_why(api: TestClient) -> None:
    shown = api.get("/v1/architectures/torchvision/densenet121").json()
    assert "changes the shape" in shown["refused"]
    assert (shown["blocks"], shown["students"]) == ([], [])


def test_an_unknown_name_is_told_its_neighbours(api: TestClient) -> None:
    answer = api.get("/v1/architectures/torchvision/resnet-50")
    assert answer.status_code == 404
    assert "resnet50" in answer.json()["detail"]
    assert api.get("/v1/architectures/keras/resnet50").status_code == 422


def test_the_list_is_searched_and_paged(api: TestClient) -> None:
    first = api.get("/v1/architectures", params={"library": "timm", "search": "VIT_", "limit": 3}).json()
    names = [item["name"] for item in first["items"]]
    assert len(names) == 3
    assert all("vit_" in name for name in names)
    query = {"library": "timm", "search": "VIT_", "limit": 3, "cursor": first["next_cursor"]}
    second = api.get("/v1/architectures", params=query).json()
    assert names[-1] < second["items"][0]["name"]
    assert api.get("/v1/architectures", params={"cursor": "!!"}).status_code == 422
    assert api.get("/v1/architectures", params={"search": "no such network"}).json() == {
        "items": [],
        "next_cursor": None,
    }


def test_a_tag_is_no_hindrance_to_a_search(api: TestClient) -> None:
    found = api.get("/v1/architectures", params={"search": "vit_tiny_patch16_224.augreg_in21k"}).json()["items"]
    assert "vit_tiny_patch16_224" in [item["name"] for item in found]


RESNET = {"library": "torchvision", "name": "resnet18", "kwargs": {}, "sections": None, "rename": None}


def state_of(api: TestClient, upload_id: str) -> tuple[str, object]:
    upload = api.get(f"/v1/uploads/{upload_id}").json()
    return upload["inspection_state"], upload["architecture"]


def fail(bench: Bench, upload_id: str, architecture: dict[str, Any] | None) -> None:
    error = JobError(type=ErrorType.BAD_TEACHER, detail="fits nothing", field="architecture.kwargs")
    with bench.database.session() as session:
        uploads.finish_inspection(session, upload_id, inspection=None, error=error, architecture=architecture)


def test_what_was_said_of_a_teacher_can_be_said_again_and_taken_back(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    path = f"/v1/uploads/{teacher}/architecture"
    assert api.put(path, json={"library": "torchvision", "name": "resnet18"}).status_code == 202
    assert state_of(api, teacher) == ("pending", RESNET)
    fail(bench, teacher, RESNET)
    assert state_of(api, teacher) == ("failed", RESNET)
    # A worker with another version of the library may know better.
    assert api.put(path, json={"library": "torchvision", "name": "resnet18"}).status_code == 202
    assert state_of(api, teacher) == ("pending", RESNET)
    fail(bench, teacher, RESNET)
    taken_back = api.delete(path)
    assert (taken_back.status_code, taken_back.json()["architecture"]) == (202, None)
    assert state_of(api, teacher) == ("pending", None)
    bench.inspected(teacher)
    assert api.delete(path).json()["inspection_state"] == "done"
    assert api.delete("/v1/uploads/upl_none/architecture").status_code == 404


def test_an_upload_may_be_announced_with_its_architecture(api: TestClient, bench: Bench) -> None:
    """So that it is inspected once, as that; and one that failed need not be sent again to be inspected otherwise."""
    content = (16).to_bytes(8, "little") + b'{"a":1}         '
    sha256 = hashlib.sha256(content).hexdigest()
    announced = {"kind": "teacher", "filename": "t", "size": len(content), "sha256": sha256}
    named = {"library": "torchvision", "name": "resnet18"}
    upload = api.post("/v1/uploads", json={**announced, "architecture": named}).json()
    assert upload["architecture"] == RESNET
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert api.patch(f"/v1/uploads/{upload['id']}", content=content, headers=headers).status_code == 204
    assert state_of(api, upload["id"]) == ("pending", RESNET)
    fail(bench, upload["id"], RESNET)
    again = api.post("/v1/uploads", json={**announced, "architecture": named | {"name": "resnet34"}})
    assert (again.status_code, again.json()["id"]) == (200, upload["id"])
    assert state_of(api, upload["id"]) == ("pending", RESNET | {"name": "resnet34"})
    fail(bench, upload["id"], RESNET | {"name": "resnet34"})
    assert api.post("/v1/uploads", json=announced).status_code == 201
    refused = api.post("/v1/uploads", json={**announced, "kind": "dataset", "architecture": named})
    assert refused.status_code == 422


def weights_of(upload: dict[str, Any]) -> tuple[str, object]:
    return upload["inspection_state"], upload["teacher_weights"]


def test_the_weights_of_a_teacher_can_be_chosen_and_the_choice_taken_back(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    path = f"/v1/uploads/{teacher}/weights"
    chosen = api.put(path, json={"teacher_weights": "ema"})
    assert (chosen.status_code, weights_of(chosen.json())) == (202, ("pending", "ema"))
    bench.inspected(teacher, teacher_weights="ema")
    assert weights_of(api.put(path, json={"teacher_weights": "ema"}).json()) == ("done", "ema")
    assert weights_of(api.delete(path).json()) == ("pending", None)
    bench.inspected(teacher)
    assert weights_of(api.delete(path).json()) == ("done", None)
    assert api.put(path, json={"teacher_weights": "best"}).status_code == 422
    dataset = bench.dataset()
    assert (
        "is a data set" in api.put(f"/v1/uploads/{dataset}/weights", json={"teacher_weights": "ema"}).json()["detail"]
    )


def test_a_file_is_announced_with_the_weights_to_take(api: TestClient, bench: Bench) -> None:
    """A known file that is announced without any is inspected with the default, whatever was asked for before."""
    content = (16).to_bytes(8, "little") + b'{"a":1}         '
    announced = {
        "kind": "teacher",
        "filename": "t",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    upload = api.post("/v1/uploads", json={**announced, "teacher_weights": "ema"}).json()
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert api.patch(f"/v1/uploads/{upload['id']}", content=content, headers=headers).status_code == 204
    bench.inspected(upload["id"], teacher_weights="ema")
    for weights, state in (("ema", "done"), (None, "pending"), ("raw", "pending")):
        again = api.post("/v1/uploads", json={**announced, "teacher_weights": weights}).json()
        assert (again["id"], *weights_of(again)) == (upload["id"], state, weights)
    refused = api.post("/v1/uploads", json={**announced, "kind": "dataset", "teacher_weights": "ema"})
    assert refused.status_code == 422


def test_a_data_set_has_no_architecture(api: TestClient, bench: Bench) -> None:
    dataset = bench.dataset()
    answer = api.put(f"/v1/uploads/{dataset}/architecture", json=RESNET)
    assert answer.status_code == 422
    assert "is a data set" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"sections": ["layer1", ["x" * 301]]}, "architecture.sections.1.0"),
        ({"sections": [["a"] * 1001]}, "architecture.sections.0"),
        ({"sections": [[]]}, "architecture.sections.0"),
        ({"kwargs": {"act_layer": "x" * 201}}, "architecture.kwargs.act_layer"),
        ({"kwargs": {"device": "cuda:1"}}, "architecture.kwargs"),
        ({"kwargs": {"dtype": "float64"}}, "architecture.kwargs"),
        ({"kwargs": {"layers": [1] * 101}}, "architecture.kwargs.layers"),
    ],
)
def test_what_is_said_of_a_network_has_bounds(api: TestClient, bench: Bench, more: dict[str, Any], field: str) -> None:
    teacher = bench.teacher()
    body = {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"ratio": 2}}
    answer = api.post("/v1/jobs", json={**body, "architecture": RESNET | more})
    assert answer.status_code == 422
    assert field in {error["field"] for error in answer.json()["errors"]}, answer.json()
    assert state_of(api, teacher) == ("done", None)


def test_jobs_that_divide_one_teacher_differently_at_once(api: TestClient, bench: Bench) -> None:
    """Whoever's division was overtaken is told, and gets no other's."""
    teacher = bench.teacher()
    mine, other = (RESNET | {"sections": sections} for sections in (["layer1"], ["layer2"]))
    body = {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 14}, "architecture": mine}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: api.post("/v1/jobs", json=body))
        wait_for(lambda: state_of(api, teacher) == ("pending", mine))
        assert api.put(f"/v1/uploads/{teacher}/architecture", json=other).status_code == 202
        bench.inspected(teacher, architecture=mine)
        assert state_of(api, teacher) == ("pending", other)
        bench.inspected(teacher, architecture=other)
        refused = answer.result()
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/inspected-otherwise")
    assert api.get("/v1/jobs").json()["items"] == []
