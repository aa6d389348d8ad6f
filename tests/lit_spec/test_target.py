"""What a student must reach: which requests name it, and what is decided before a worker has measured anything."""

from __future__ import annotations

from typing import Any

import pytest

from lit_spec import (
    Architecture,
    DatasetRequest,
    Init,
    Inspection,
    JobRequest,
    JobSpec,
    SpecError,
    StudentOption,
    StudentSpec,
    Target,
    resolve,
)
from lit_spec.mistakes import mistakes
from lit_spec.networks.architecture import TeacherFormat
from lit_spec.networks.students import BlockCosts, ParameterCounts

COUNTS = ParameterCounts(total=1_000_000, blocks=[[10_000] * 6, [40_000] * 6, [100_000] * 6])
"""The smallest student, with one block of each section, has 250,000 parameters."""


def inspection(**changes: Any) -> Inspection:
    students = [
        StudentOption(depth=6 * k + 2, blocks=[k] * 3, parameters=100_000 + 150_000 * k, parameters_ratio=1.0)
        for k in range(1, 7)
    ]
    found = Inspection(
        format=TeacherFormat.PT,
        architecture=Architecture(family="resnet_cifar", depth=38, blocks=[6] * 3, channels=1, classes=10),
        parameters=COUNTS.total,
        students=students,
        parameter_counts=COUNTS,
    )
    return found.model_copy(update=changes)


def student(of: dict[str, Any], found: Inspection | None = None, **changes: Any) -> StudentSpec:
    """Of evenly spaced blocks, unless `of` says otherwise."""
    of = of if changes.get("method", "").startswith("born-again") else {"select": "even", **of}
    request = {"teacher": "upl_t", "dataset": {"builtin": "digits"}, "student": of, **changes}
    spec = resolve(JobRequest.model_validate(request), found or inspection())
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    return spec.student


@pytest.mark.parametrize(
    ("target", "field", "says"),
    [
        ({}, "student.target", 'give exactly one of "latency_ratio" (as 1.5)'),
        ({"size_mb": 5, "latency_ms": 3}, "student.target", "has latency_ms and size_mb: give exactly one"),
        ({"size_mb": 5, "batch": 8}, "student.target", 'leave "batch" out'),
        ({"speedup": 2}, "student.target.speedup", "known are"),
        ({"latency_ratio": 1}, "student.target.latency_ratio", "greater than 1"),
        ({"latency_ms": 0}, "student.target.latency_ms", "greater than 0"),
        ({"max_accuracy_drop": 101}, "student.target.max_accuracy_drop", "less than or equal to 100"),
    ],
)
def test_a_target_is_one_value_in_one_term(target: dict[str, Any], field: str, says: str) -> None:
    body = {"teacher": "upl_t", "dataset": {"builtin": "digits"}, "student": {"target": target}}
    with pytest.raises(ValueError) as failure:  # noqa: PT011 - pydantic's own
        JobRequest.model_validate(body)
    (mistake,) = mistakes(JobRequest, body, failure.value)
    assert (mistake.field, says in mistake.message) == (field, True), mistake


def test_parameters_and_size_are_decided_from_the_inspection() -> None:
    asked = student({"target": {"parameters_ratio": 1.12}})
    assert (asked.blocks, asked.depth, asked.target) == ([5, 6, 5], 34, Target(parameters_ratio=1.12))
    assert student({"ratio": 1.12}) == asked
    # Four bytes each: 700,000 parameters.
    assert student({"target": {"size_mb": 2.8}}).blocks == [6, 6, 3]
    assert student({"target": {"size_mb": 2.7999}}).blocks == [5, 6, 3]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"parameters_ratio": 4.5}, "the smallest student reaches only 4: give at most that"),
        ({"size_mb": 0.9}, "the smallest student has 1: give at least that"),
        ({"size_mb": 4}, "the teacher itself has only 4: give less"),
    ],
)
def test_what_no_student_reaches_is_refused_with_what_one_does(target: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as failure:
        student({"target": target})
    assert (failure.value.field, says in failure.value.message) == ("student.target", True), failure.value
    # What is said can be asked for.
    assert (
        student({"target": {"parameters_ratio": 4}}).blocks == student({"target": {"size_mb": 1}}).blocks == [1, 1, 1]
    )


def test_a_teacher_without_a_block_to_spare_has_no_student() -> None:
    one_each = COUNTS.model_copy(update={"blocks": [[10_000], [40_000], [100_000]]})
    with pytest.raises(SpecError, match="no student costs less than the teacher: give a deeper teacher"):
        student({"ratio": 1.1}, inspection(parameter_counts=one_each))


@pytest.mark.parametrize("target", [{"latency_ratio": 1.5}, {"latency_ms": 3, "batch": 8}, {"max_accuracy_drop": 2}])
def test_what_must_be_measured_is_left_to_the_trainer(target: dict[str, Any]) -> None:
    found = student({"target": target, "select": "first"})
    assert (found.depth, found.blocks, found.select) == (None, None, "first")
    assert found.target == Target.model_validate(target)


@pytest.mark.parametrize("select", ["importance", "recover", None])
def test_blocks_that_the_data_chooses_are_left_to_the_trainer(select: str | None) -> None:
    """Which blocks stay decides how many parameters do."""
    found = student({"ratio": 1.5, "select": select})
    assert (found.depth, found.blocks, found.select) == (None, None, select or "recover")
    with pytest.raises(SpecError, match="the smallest student reaches only 4"):
        student({"ratio": 4.5, "select": select})


def test_blocks_of_fixed_rules_are_known_at_once() -> None:
    # To leave out the largest block, of the first ones four are kept and of evenly spaced ones two.
    uneven = COUNTS.model_copy(update={"blocks": [[10_000] * 6, [40_000] * 6, [10_000] * 4 + [500_000, 10_000]]})
    found = inspection(parameter_counts=uneven)
    assert student({"ratio": 2, "select": "first"}, found).blocks == [6, 6, 4]
    assert student({"ratio": 2}, found).blocks == [6, 6, 2]


def test_flops_are_decided_for_the_inspected_size_only() -> None:
    found = inspection(flops=BlockCosts(total=100, blocks=[[10] * 6, [1] * 6, [1] * 6]), input_shape=[1, 32, 32])
    target = {"target": {"flops_ratio": 1.11}}
    assert student(target, found).blocks is None
    assert student(target, found, dataset={"builtin": "digits", "size": [8, 8]}).blocks is None
    assert student(target, found, dataset={"builtin": "digits", "size": [32, 32]}).blocks == [5, 6, 6]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": {"target": {"max_accuracy_drop": 2}, "init": "random"}}, "init is random"),
        ({"student": {"target": {"size_mb": 3}}, "method": "born-again-kd"}, "keeps all blocks"),
        ({"student": {"target": {"latency_ratio": 2}}, "method": "prune"}, "give parameters_ratio or size_mb"),
        ({"student": {"target": {"flops_ratio": 2}}, "method": "prune"}, "give parameters_ratio or size_mb"),
    ],
)
def test_a_target_that_means_nothing_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says) as failure:
        student(changes.pop("student"), **changes)
    assert failure.value.field == "student.target"


def test_a_teacher_of_one_block_in_each_section_can_lose_none() -> None:
    shallow = Architecture(family="resnet_cifar", depth=8, blocks=[1, 1, 1], channels=1, classes=10)
    with pytest.raises(SpecError, match="one block in each section") as failure:
        student({"target": {"max_accuracy_drop": 2}}, inspection(architecture=shallow))
    assert failure.value.field == "teacher"


def test_a_stored_student_has_blocks_a_depth_or_a_target() -> None:
    with pytest.raises(ValueError, match="neither blocks nor a depth nor a target"):
        StudentSpec(depth=None, blocks=None, init=Init.INHERIT)


def test_texts_have_their_size_in_the_request() -> None:
    texts = Architecture(
        family="vdcnn",
        modality="text",
        depth=9,
        blocks=[6] * 3,
        channels=None,
        classes=4,
        options={"vocabulary_size": 69},
    )
    flops = BlockCosts(total=100, blocks=[[10] * 6, [1] * 6, [1] * 6])
    found = inspection(architecture=texts, flops=flops, input_shape=[DatasetRequest(builtin="digits").length])
    target = {"target": {"flops_ratio": 1.11}}
    assert student(target, found, dataset={"upload": "upl_d"}).blocks == [5, 6, 6]
    assert student(target, found, dataset={"upload": "upl_d", "length": 512}).blocks is None
