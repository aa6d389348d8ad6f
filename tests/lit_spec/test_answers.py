"""Answers of the API: one definition for API and client, and tolerant of a newer service in the client alone."""

from __future__ import annotations

import importlib
import json
import pkgutil
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel, ValidationError

import api
from lit_spec import ErrorType, JobError, SpecModel
from lit_spec.answers.base import Answer
from lit_spec.answers.jobs import Job
from lit_spec.answers.studies import Study, StudyTable
from lit_spec.answers.uploads import Upload
from lit_spec.base import OpenEnum
from lit_spec.requests.upload import UploadRequest
from lit_spec.states import InspectionState, JobState, StudyState
from tests.worker.bench import DATASET, INSPECTION

NOW = "2026-01-02T03:04:05Z"
UPLOAD: dict[str, Any] = {
    "id": "upl_1",
    "kind": "teacher",
    "filename": "teacher.pt",
    "size": 3,
    "received": 3,
    "sha256": None,
    "state": "complete",
    "architecture": {"library": "timm", "name": "resnet18", "kwargs": {}, "sections": None, "rename": None},
    "teacher_weights": "ema",
    "inspection_state": "done",
    "inspection": INSPECTION.model_dump(mode="json"),
    "dataset_inspection": DATASET.model_dump(mode="json"),
    "inspection_error": {"type": "bad-teacher", "detail": "no tensors", "field": "teacher", "member": None},
    "created_at": NOW,
    "completed_at": NOW,
    "parts": None,
    "expires_at": None,
}


def routes() -> Iterator[APIRoute]:
    """Those of every resource: `api.<resource>.endpoints`."""
    for module in pkgutil.walk_packages(api.__path__, "api."):
        if module.name.endswith(".endpoints"):
            for router in vars(importlib.import_module(module.name)).values():
                if isinstance(router, APIRouter):
                    yield from (route for route in router.routes if isinstance(route, APIRoute))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, and those of their fields."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
            for field in annotation.model_fields.values():
                yield from models_in(field.annotation)
        return
    for part in typing.get_args(annotation):
        yield from models_in(part)


def choices_in(annotation: Any) -> Iterator[Any]:
    """The enums and literals that an annotation names."""
    is_enum = isinstance(annotation, type) and issubclass(annotation, Enum)
    if is_enum or typing.get_origin(annotation) is typing.Literal:
        yield annotation
    for part in typing.get_args(annotation):
        yield from choices_in(part)


ANSWERED = [route.response_model for route in routes() if route.response_model]


def test_every_route_answers_with_a_class_that_the_client_reads() -> None:
    assert len(ANSWERED) > 15
    for model in ANSWERED:
        assert issubclass(model, Answer), model
        defined = model.__pydantic_generic_metadata__["origin"] or model
        assert defined.__module__.startswith("lit_spec.answers."), model


def test_every_choice_in_an_answer_may_grow() -> None:
    models = {found for model in ANSWERED for found in models_in(model)}
    assert {Job, Upload, Study, StudyTable} <= models
    choices = {
        choice for model in models for field in model.model_fields.values() for choice in choices_in(field.annotation)
    }
    assert JobState in choices
    for choice in choices:
        assert isinstance(choice, type), f"{choice}: a client fails at a value that a newer service adds"
        assert issubclass(choice, OpenEnum), f"{choice}: a client fails at a value that a newer service adds"


def of_tomorrow(value: Any) -> Any:
    """The same answer with a field more in every object."""
    if isinstance(value, list):
        return [of_tomorrow(item) for item in value]
    if isinstance(value, dict):
        return {name: of_tomorrow(item) for name, item in value.items()} | {"a_field_of_tomorrow": {"x": 1}}
    return value


def read(answer: dict[str, Any]) -> Upload:
    return Upload.read(json.dumps(answer).encode())


def test_a_client_ignores_unknown_fields_at_every_depth() -> None:
    # The names of its splits are free as well.
    dataset = {name: value for name, value in UPLOAD["dataset_inspection"].items() if name != "splits"}
    known = {"architecture": None, "inspection": inspection_without_free_objects(), "dataset_inspection": dataset}
    upload = read(of_tomorrow({**UPLOAD, **known}))
    assert upload.inspection is not None
    assert upload.inspection.architecture.blocks == [6, 6, 6]
    assert "a_field_of_tomorrow" not in upload.model_dump_json()


def inspection_without_free_objects() -> dict[str, Any]:
    """`options` and `choices` have the names that a family gives them, so that a new one is none too many."""
    inspection = INSPECTION.model_dump(mode="json")
    for free in ("options", "choices"):
        del inspection["architecture"][free]
    return inspection


def test_a_client_keeps_unknown_values() -> None:
    architecture = {**UPLOAD["inspection"]["architecture"], "task": "dreaming", "modality": "smell"}
    answer = {
        **UPLOAD,
        "kind": "tokeniser",
        "state": "half",
        "inspection_state": "paused",
        "architecture": {**UPLOAD["architecture"], "library": "keras"},
        "inspection": {**UPLOAD["inspection"], "format": "gguf", "architecture": architecture},
        "inspection_error": {**UPLOAD["inspection_error"], "type": "eclipse"},
    }
    upload = read(answer)
    assert json.loads(upload.model_dump_json()) == answer
    assert (upload.kind, upload.complete, upload.inspecting) == ("tokeniser", False, False)
    assert str(upload.inspection_error) == "no tensors (teacher) [eclipse]"
    assert isinstance(upload.inspection_state, InspectionState)


@pytest.mark.parametrize("states", [JobState, StudyState])
def test_an_unknown_state_is_not_finished(states: type[JobState | StudyState]) -> None:
    class WithState(Answer):
        state: states  # type: ignore[valid-type]

    assert not WithState.read(b'{"state": "paused"}').state.finished  # type: ignore[attr-defined]
    assert WithState.read(b'{"state": "failed"}').state.finished  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "value", "field"),
    [
        (type(INSPECTION), {**UPLOAD["inspection"], "format": "gguf"}, "format"),
        (type(INSPECTION), {**UPLOAD["inspection"], "more": 1}, "more"),
        (JobError, {"type": "eclipse", "detail": ""}, "type"),
        (UploadRequest, {"kind": "tokeniser", "filename": "x", "size": 1}, "kind"),
        (Upload, {**UPLOAD, "state": "half"}, "state"),
    ],
)
def test_everybody_else_refuses_them(model: type[SpecModel | Answer], value: dict[str, Any], field: str) -> None:
    for validate in (model.model_validate, lambda given: model.model_validate_json(json.dumps(given))):
        with pytest.raises(ValidationError) as refused:
            validate(value)
        assert [error["loc"] for error in refused.value.errors()] == [(field,)]


def test_something_else_is_no_answer() -> None:
    for content in (b"<html>", b"[]", b'{"id": "upl_1"}', json.dumps({**UPLOAD, "kind": 3}).encode()):
        with pytest.raises(ValidationError):
            Upload.read(content)


def test_an_error_is_a_sentence_with_the_place_to_look_at() -> None:
    error = JobError(type=ErrorType.BAD_DATASET, detail="a file is cut off", field="dataset", member="a.png")
    assert str(error) == "a file is cut off (dataset, a.png) [bad-dataset]"
