"""Whatever is in a request's body, the answer is one of those that docs/api.md lists, and never 500."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.jobs import requests
from tests.worker.bench import Bench

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        0.5,
        1e308,
        -(10**30),
        2**63,
        "",
        "x" * 5000,
        "a\0b",
        "\ud800",
        "upl_x",
        "-1",
        "nan",
    ),
    *([], [[]], [None], [0] * 200, {}, {"a": {}}, [["a"]], {"": ""}, float("nan"), float("inf"), "é\u202e", ["x", 1]),
)
DEEP = 60


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a body."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


def changed(rng: Random, body: dict[str, Any]) -> Any:
    made: Any = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 2, 4))):
        found = places(made)[1:]
        if not found:
            return made
        *outer, last = rng.choice(found)
        inner = made
        for key in outer:
            inner = inner[key]
        how = rng.random()
        if how < 0.15:
            del inner[last]
        elif how < 0.3 and isinstance(inner, dict):
            inner[rng.choice(("new", "", "spec_version", "kind", "a\0", str(last) + " "))] = rng.choice(VALUES)
        elif how < 0.35:
            inner[last] = nested(rng.randrange(DEEP))
        else:
            inner[last] = copy.deepcopy(rng.choice(VALUES))
    return made


def nested(depth: int) -> Any:
    made: Any = 1
    for level in range(depth):
        made = [made] if level % 2 else {"a": made}
    return made


def test_no_body_is_answered_with_500(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody inspects the teachers here that a request names otherwise.
    monkeypatch.setattr(requests, "INSPECTION_SECONDS", 0.01)
    other = bench.teacher()
    teacher, dataset, test = bench.teacher(), bench.dataset(), bench.dataset(b"held out")
    named = {"library": "timm", "name": "resnet18", "kwargs": {"width": 2}, "sections": [["layer1.0"], "layer2"]}
    job: dict[str, Any] = {
        "teacher": teacher,
        "dataset": {
            "upload": dataset,
            "test_upload": test,
            "size": [8, 8],
            "resize": 9,
            "mean": [0.5],
            "std": "data",
            "class_order": list("abcdefghij"),
            "columns": {"text": ["a", "b"], "label": "c"},
            "unlabelled": -1,
            "train_samples": 50,
        },
        "student": {"kept": [[0], [0, 2], [1]], "init": "inherit", "repair": True},
        "schedule": {"lit": {"epochs": 1, "schedule": {"kind": "milestones", "milestones": [1]}}, "batch_size": 8},
        "teacher_options": {"downsampling": "conv"},
        "augmentation": {"shift": 1, "flip": True},
        "accept": {"max_accuracy_drop": 1},
        "then": ["prune:0.5"],
        "exports": ["onnx"],
        "tags": ["a"],
        "teacher_accuracy": 90,
    }
    plain = {"teacher": teacher, "dataset": {"upload": dataset}, "student": {"depth": 14}}
    upload = {"kind": "teacher", "filename": "t.pt", "size": 9, "sha256": "0" * 64, "architecture": named}
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/jobs", job),
        ("POST", "/v1/jobs", plain),
        ("POST", "/v1/uploads", upload),
        ("PUT", f"/v1/uploads/{other}/architecture", named),
        ("PUT", f"/v1/uploads/{other}/weights", {"teacher_weights": "ema"}),
        (
            "POST",
            "/v1/studies",
            {"kind": "compare", "methods": ["lit", {"method": "kd"}], "seeds": [0, 1], "job": plain},
        ),
        ("POST", "/v1/studies", {"kind": "search", "taus": [1, 4], "alphas": [0.5], "job": plain}),
        ("POST", "/v1/studies", {"kind": "depth", "max_accuracy_drop": 1, "depths": [8], "job": plain}),
        ("POST", "/v1/studies", {"kind": "plan", "students": 3, "job": plain}),
    ]
    answers: set[int] = set()

    for seed in range(400):
        rng = Random(seed)
        method, path, body = rng.choice(bodies)
        content = json.dumps(changed(rng, body)).encode("ascii")
        answer = api.request(method, path, content=content, headers={"Content-Type": "application/json"})
        answers.add(answer.status_code)
        pending = answer.status_code == 503 and answer.json()["type"] == "/problems/inspection-pending"
        assert pending or answer.status_code < 500, (seed, method, path, content[:2000], answer.text)
        if answer.status_code >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["type"].startswith("/problems/")
    assert {202, 422} <= answers
