"""Types of JSON values: in a request, true is not a number, 1 is not true, and "1" is neither."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from lit_spec import JobRequest, LibraryRequest
from lit_spec.base import SpecModel
from lit_spec.mistakes import mistakes
from lit_spec.requests.study import AnyStudyRequest, CompareRequest, DepthRequest, SearchRequest
from lit_spec.requests.upload import UploadRequest

REQUESTS = (JobRequest, UploadRequest, LibraryRequest, CompareRequest, SearchRequest, DepthRequest)
JOB = {"teacher": "upl_a", "dataset": {"builtin": "digits"}, "student": {"depth": 14}}
UPLOAD = {"kind": "dataset", "filename": "x", "size": 1}


def models(*roots: type[BaseModel]) -> set[type[BaseModel]]:
    """The models that requests consist of."""
    found: set[type[BaseModel]] = set()

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found.add(annotation)
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for part in get_args(annotation):
            visit(part)

    for root in roots:
        visit(root)
    return found


def leaves(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for part in get_args(annotation):
        yield from leaves(part)


def errors(model: type[BaseModel], value: dict[str, Any]) -> set[str]:
    try:
        model.model_validate(value)
    except ValidationError as failure:
        return {found.field.split(".")[0] for found in mistakes(model, value, failure)}
    return set()


def numbers_and_flags() -> Iterator[Any]:
    for model in sorted(models(*REQUESTS), key=lambda model: model.__name__):
        assert issubclass(model, SpecModel)
        for name, field in model.model_fields.items():
            types = set(leaves(field.annotation))
            if types & {int, float} and bool not in types:
                yield pytest.param(model, name, (True, False, [True], [False]), id=f"{model.__name__}.{name}")
            elif bool in types and not types & {int, float}:
                yield pytest.param(model, name, (0, 1, 0.0, 1.0, "true", "yes"), id=f"{model.__name__}.{name}")


@pytest.mark.parametrize(("model", "name", "values"), list(numbers_and_flags()))
def test_no_field_of_a_request_converts(model: type[BaseModel], name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert name in errors(model, {name: value}), value


@pytest.mark.parametrize(
    ("model", "value", "field", "said"),
    [
        (UploadRequest, UPLOAD | {"size": True}, "size", "valid integer"),
        (UploadRequest, UPLOAD | {"size": "1"}, "size", "valid integer"),
        (JobRequest, JOB | {"tau": "4"}, "tau", "valid number"),
        (JobRequest, JOB | {"seed": True}, "seed", "valid integer"),
        (JobRequest, JOB | {"student": {"blocks": [2, True, 2]}}, "student.blocks.1", "valid integer"),
        (JobRequest, JOB | {"student": {"depth": 14, "allow_same_depth": 1}}, "student.allow_same_depth", "boolean"),
        (JobRequest, JOB | {"dataset": {"builtin": "digits", "mean": [True]}}, "dataset.mean.0", "valid number"),
        (JobRequest, JOB | {"dataset": {"builtin": "digits", "mean": ["0.5"]}}, "dataset.mean.0", "valid number"),
        (JobRequest, JOB | {"student": {"blocks": (2, "2", 2)}}, "student.blocks.1", "valid integer"),
        (JobRequest, JOB | {"augmentation": {"flip": "yes"}}, "augmentation.flip", "valid boolean"),
        (JobRequest, JOB | {"student": {"blocks": [[[[[[2]]]]]]}}, "student.blocks.0", "valid integer"),
    ],
)
def test_a_value_of_another_type_is_named(model: type[BaseModel], value: Any, field: str, said: str) -> None:
    with pytest.raises(ValidationError) as failure:
        model.model_validate(value)
    [found] = mistakes(model, value, failure.value)
    assert found.field == field
    assert said in found.message


def test_wrong_types_are_named_together_with_other_mistakes() -> None:
    assert errors(JobRequest, JOB | {"tau": True, "alpha": 2, "alpah": 1}) == {"tau", "alpha", "alpah"}


def test_a_trial_of_a_study_has_the_same_types() -> None:
    study = {"kind": "search", "job": JOB, "taus": [1, True]}
    with pytest.raises(ValidationError, match="valid number"):
        TypeAdapter[Any](AnyStudyRequest).validate_python(study)


def test_values_that_are_of_a_type_stay() -> None:
    body = JOB | {"seed": 2.0, "tau": 4, "teacher_options": {"a": True, "b": 1, "c": "1"}}
    job = JobRequest.model_validate(body)
    assert (job.seed, job.tau) == (2, 4.0)
    assert job.teacher_options == {"a": True, "b": 1, "c": "1"}
    assert [type(value) for value in job.teacher_options.values()] == [bool, int, str]
    kwargs = {"a": True, "b": 1, "c": 1.5, "d": "1", "e": [1, False]}
    network = LibraryRequest.model_validate({"library": "timm", "name": "x", "kwargs": kwargs})
    assert [type(value) for value in network.kwargs.values()] == [bool, int, float, str, list]
    assert network.kwargs == kwargs
