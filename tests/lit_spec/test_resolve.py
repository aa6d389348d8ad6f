"""What a request may say, and how it is resolved against its teacher."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lit_spec import (
    SPEC_VERSION,
    Architecture,
    Init,
    Inspection,
    JobRequest,
    JobSpec,
    SpecError,
    StudentOption,
    StudentSpec,
    resolve,
)
from lit_spec.networks.architecture import TeacherFormat
from lit_spec.networks.students import ParameterCounts

SMALLEST: dict[str, Any] = {"teacher": "upl_a", "dataset": {"builtin": "digits"}, "student": {"depth": 14}}

KEPT = [[0], [0, 2], [0, 4, 5]]


def inspection(n: int = 6) -> Inspection:
    teacher = Architecture(family="resnet_cifar", depth=6 * n + 2, blocks=[n] * 3, channels=1, classes=10)
    students = [
        StudentOption(depth=6 * k + 2, blocks=[k] * 3, parameters=100 * k, parameters_ratio=n / k)
        for k in range(1, n + 1)
    ]
    return Inspection(format=TeacherFormat.PT, architecture=teacher, parameters=100 * n, students=students)


def request(**changes: Any) -> JobRequest:
    return JobRequest.model_validate({**SMALLEST, **changes})


def test_the_smallest_request_resolves_to_explicit_values() -> None:
    spec = resolve(request(), inspection())
    assert spec.spec_version == SPEC_VERSION == 11
    assert (spec.student.depth, spec.student.blocks, spec.student.select) == (14, None, "recover")
    assert spec.schedule.lit.frozen == ["stem", "head"]
    assert spec.schedule.fine_tune.frozen == []
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "scratch"},
        {"method": "prune"},
        {"method": "born-again-kd", "student": {}},
        {"student": {"depth": 14, "init": "random"}},
    ],
)
def test_blocks_that_can_not_be_recovered_are_evenly_spaced(changes: dict[str, Any]) -> None:
    spec = resolve(request(**changes), inspection())
    assert (spec.student.select, spec.student.blocks is not None) == ("even", True)
    if changes.get("method", "").startswith("born-again"):
        return
    asked = {**changes, "student": {**SMALLEST["student"], **changes.get("student", {}), "select": "recover"}}
    with pytest.raises(SpecError) as failure:
        resolve(request(**asked), inspection())
    assert failure.value.field == "student.select"


def test_the_default_recipe_feeds_by_schedule_and_fine_tunes_briefly() -> None:
    spec = resolve(request(), inspection())
    assert (spec.feed, spec.alpha, spec.beta, spec.tau) == ("scheduled", 0.5, 0.5, 4)
    lit, last = spec.schedule.lit, spec.schedule.fine_tune
    assert (lit.epochs, lit.learning_rate, lit.schedule.kind) == (26, 0.1, "one_cycle")
    assert (last.epochs, last.learning_rate, last.schedule.kind) == (4, 0.01, "cosine")


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"devices": 33}, "devices", "33 processes"),
        ({"devices": 8, "nodes": 5}, "nodes", "40 processes"),
        ({"devices": 2, "student": {"plan": {}}}, "devices", "trains none"),
        ({"nodes": 2, "student": {"plan": {}}}, "nodes", "trains none"),
    ],
)
def test_processes_need_rows_and_a_training(changes: dict[str, Any], field: str, says: str) -> None:
    assert resolve(request(devices=8, nodes=4), inspection()).processes == 32
    with pytest.raises(SpecError, match=says) as failure:
        resolve(request(**changes), inspection())
    assert failure.value.field == field


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"devices": 1}, "shard_teacher", "one process"),
        ({"devices": 1, "student": {"plan": {}}}, "shard_teacher", "trains none"),
        ({"method": "prune"}, "shard_teacher", "whole teacher"),
        ({"student": {"depth": 14, "select": "recover"}}, "student.select", "even, first or importance"),
        ({"student": {"depth": 14, "select": "even", "repair": True}}, "student.repair", "leave it out"),
        ({"student": {"target": {"latency_ratio": 1.5}}}, "student.target", "latency_ratio.*flops_ratio"),
        ({"student": {"target": {"max_accuracy_drop": 2}}}, "student.target", "max_accuracy_drop"),
    ],
)
def test_what_needs_the_whole_teacher_is_refused_beside_a_sharded_one(
    changes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(SpecError, match=says) as failure:
        resolve(request(**{"devices": 2, "shard_teacher": True, **changes}), inspection())
    assert failure.value.field == field


@pytest.mark.parametrize("student", [{"depth": 14}, {"ratio": 1.5}, {"depth": 14, "select": "importance"}])
def test_a_student_of_a_sharded_teacher_is_chosen_without_trying_students_out(student: dict[str, Any]) -> None:
    spec = resolve(request(nodes=2, shard_teacher=True, student=student), inspection()).student
    assert (spec.select, spec.repair) == (student.get("select", "even"), False)


def test_noise_needs_representations_of_the_teacher_that_are_fed() -> None:
    assert resolve(request(noise=0.1), inspection()).noise == 0.1
    with pytest.raises(SpecError, match="teacher's representations") as failure:
        resolve(request(noise=0.1, feed="student"), inspection())
    assert failure.value.field == "noise"


def test_part_of_a_schedule_keeps_the_other_defaults() -> None:
    made = request(schedule={"lit": {"epochs": 3}})
    assert made.schedule.lit.epochs == 3
    assert made.schedule.lit.learning_rate == request().schedule.lit.learning_rate
    assert made.schedule.fine_tune == request().schedule.fine_tune


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"alpha": 1.01}, "alpha"),
        ({"alpha": -0.01}, "alpha"),
        ({"beta": 2}, "beta"),
        ({"tau": 0}, "tau"),
        ({"tau": -1}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"colour": "red"}, "colour"),
        ({"seed": -1}, "seed"),
        ({"device": "tpu"}, "device"),
        ({"dataset": {}}, "dataset"),
        ({"dataset": {"builtin": "digits", "upload": "x"}}, "dataset"),
        ({"dataset": {"builtin": "digits", "std": [0.0]}}, "dataset"),
        ({"dataset": {"builtin": "digits", "unlabelled": -1}}, "dataset"),
        ({"dataset": {"mounted": "cifar10", "columns": {"label": "stars"}}}, "dataset"),
        ({"dataset": {"upload": "upl_d", "unlabelled": -1, "class_order": ["-1", "1"]}}, "dataset"),
        ({"dataset": {"upload": "upl_d", "unlabelled": True}}, "dataset"),
        ({"dataset": {"upload": "upl_d", "unlabelled": 0.5}}, "dataset"),
        ({"dataset": {"upload": "upl_d", "columns": {"text": []}}}, "dataset"),
        ({"dataset": {"upload": "upl_d", "columns": {"labels": "stars"}}}, "dataset"),
        ({"student": {"depth": 14, "blocks": [2, 2, 2]}}, "student"),
        ({"schedule": {"lit": {"epochs": 0}, "fine_tune": {"epochs": 0}}}, "schedule"),
        ({"schedule": {"lit": {"schedule": {"kind": "zigzag"}}}}, "schedule"),
        ({"accept": {"max_accuracy_drop": -1}}, "accept"),
    ],
)
def test_bad_values_name_their_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as failure:
        request(**changes)
    assert failure.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("student", "field", "says"),
    [
        ({"depth": 38}, "student.depth", "not smaller than the teacher's depth 38"),
        ({"depth": 44}, "student.depth", "not smaller"),
        ({"depth": 44, "allow_same_depth": True}, "student.depth", "not smaller"),
        ({"depth": 15}, "student.depth", "choose one of [8, 14, 20, 26, 32]"),
        ({"blocks": [2, 2]}, "student.blocks", "give 3 numbers"),
        ({"blocks": [2, 7, 2]}, "student.blocks", "more blocks in a section"),
        ({"blocks": [6, 6, 6]}, "student.blocks", "teacher's own depth"),
        ({}, "student", "exactly one"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(student: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(SpecError) as failure:
        resolve(request(student=student), inspection())
    assert failure.value.field == field
    assert says in failure.value.message


@pytest.mark.parametrize("given", [{"ratio": 2.0}, {"select": "first"}, {"kept": [[0], [0], [0]]}, {"repair": True}])
def test_born_again_networks_leave_nothing_out(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"student.{next(iter(given))}: has no effect"):
        resolve(request(student=given, method="born-again-kd"), inspection())


@pytest.mark.parametrize(
    ("changes", "repaired"),
    [
        ({"student": {"depth": 14}}, True),
        ({"student": {"depth": 14, "repair": False}}, False),
        ({"student": {"depth": 14, "select": "even"}}, False),
        ({"student": {"ratio": 2.0, "select": "even", "repair": True}}, True),
        ({"student": {"target": {"flops_ratio": 1.5}, "select": "importance", "repair": True}}, True),
        ({"student": {"kept": KEPT}}, False),
        ({"student": {"kept": KEPT, "repair": True}, "method": "mimic"}, True),
        ({"student": {"depth": 14}, "method": "scratch"}, False),
        ({"student": {"depth": 14, "init": "random", "repair": False}}, False),
        ({"student": {"repair": False}, "method": "born-again-kd"}, False),
    ],
)
def test_students_of_recover_are_repaired_and_others_where_that_is_asked_for(
    changes: dict[str, Any], repaired: bool
) -> None:
    assert resolve(request(**changes), inspection()).student.repair is repaired


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": {"depth": 14, "init": "random"}}, "no repair for random blocks: leave it out"),
        ({"student": {"depth": 14, "init": "inherit"}, "method": "scratch"}, "no repair for method scratch"),
        ({"student": {"kept": KEPT}, "method": "prune"}, "no repair for method prune"),
        ({"student": {"plan": {}}}, "student.plan.repair"),
    ],
)
def test_a_repair_of_what_cannot_be_repaired_is_refused(changes: dict[str, Any], says: str) -> None:
    asked = {**changes, "student": {**changes["student"], "repair": True}}
    with pytest.raises(SpecError) as failure:
        resolve(request(**asked), inspection())
    assert failure.value.field == "student.repair"
    assert says in failure.value.message


def test_a_ratio_is_reached_to_the_last_parameter() -> None:
    """`parameters_ratio` is rounded down for people. The inspection of an older version has only these students."""
    found = inspection()
    students = [
        StudentOption(depth=8, blocks=[1, 1, 1], parameters=1000, parameters_ratio=6.0),
        StudentOption(depth=14, blocks=[2, 2, 2], parameters=10_001, parameters_ratio=3.0),
        StudentOption(depth=38, blocks=[6, 6, 6], parameters=30_000, parameters_ratio=1.0),
    ]
    found = found.model_copy(update={"parameters": 30_000, "students": students})
    assert resolve(request(student={"ratio": 3.0}), found).student.depth == 8
    assert resolve(request(student={"ratio": 2.9997}), found).student.depth == 14


def test_a_ratio_gives_the_least_reduced_student_of_all() -> None:
    counts = ParameterCounts(total=1000, blocks=[[10] * 6, [40] * 6, [100] * 6])
    found = inspection().model_copy(update={"parameters": 1000, "parameter_counts": counts})
    student = resolve(request(student={"ratio": 1.12, "select": "even"}), found).student
    assert (student.blocks, student.depth) == ([5, 6, 5], 34)
    with pytest.raises(
        SpecError, match=r"asks for parameters_ratio 7, but the smallest student reaches only 4"
    ) as failure:
        resolve(request(student={"ratio": 7}), found)
    assert failure.value.field == "student.ratio"


def test_named_blocks_are_stored_with_their_number_per_section() -> None:
    spec = resolve(request(student={"kept": KEPT}), inspection())
    assert spec.student == StudentSpec(depth=14, blocks=[1, 2, 3], init=Init.INHERIT, select=None, kept=KEPT)
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert resolve(request(student={"kept": KEPT}, method="scratch"), inspection()).student.kept == KEPT


@pytest.mark.parametrize(
    ("kept", "field", "says"),
    [
        ([[0], [0]], "student.kept", "has 2 sections, but the teacher has 3"),
        ([[0], [0, 6], [0]], "student.kept.1", "has the index 6, but the section has 6 blocks: give 0 to 5"),
        ([[0], [1, 2], [0]], "student.kept.1", "keep block 0"),
        ([[*range(6)]] * 3, "student.kept", "leave out at least one"),
    ],
)
def test_named_blocks_that_the_teacher_does_not_have_or_needs_are_refused(
    kept: list[list[int]], field: str, says: str
) -> None:
    found = inspection().model_copy(update={"first_blocks_stay": [False, True, True]})
    with pytest.raises(SpecError) as failure:
        resolve(request(student={"kept": kept}), found)
    assert failure.value.field == field
    assert says in failure.value.message


def test_a_first_block_may_go_where_nothing_says_that_it_must_stay() -> None:
    found = inspection().model_copy(update={"first_blocks_stay": [False, True, True]})
    assert resolve(request(student={"kept": [[1], [0], [0]]}), found).student.kept == [[1], [0], [0]]
    # An inspection by an older version doesn't tell: the trainer looks.
    assert resolve(request(student={"kept": [[1], [1], [1]]}), inspection()).student.kept == [[1], [1], [1]]
    everything = {"kept": [[*range(6)]] * 3, "allow_same_depth": True}
    assert resolve(request(student=everything), found).student.depth == 38


@pytest.mark.parametrize(
    "student",
    [
        {"kept": [[0], [2, 0]]},
        {"kept": [[0], [0, 0]]},
        {"kept": [[0], []]},
        {"kept": []},
        {"kept": [[-1, 0]]},
        {"kept": [["0"]]},
        {"kept": KEPT, "depth": 14},
        {"kept": KEPT, "blocks": [1, 2, 3]},
        {"kept": KEPT, "ratio": 2},
        {"kept": KEPT, "select": "even"},
    ],
)
def test_named_blocks_are_ascending_and_stand_alone(student: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as failure:
        request(student=student)
    assert failure.value.errors()[0]["loc"][0] == "student"


def test_the_same_depth_is_allowed_when_asked_for() -> None:
    assert resolve(request(student={"depth": 38, "allow_same_depth": True}), inspection()).student.blocks == [6, 6, 6]


@pytest.mark.parametrize(
    ("dataset", "field"),
    [
        ({"mean": [0.1, 0.2]}, "dataset.mean"),
        ({"std": [0.1, 0.2]}, "dataset.std"),
        ({"class_order": ["a"]}, "dataset.class_order"),
        ({"class_order": ["a"] * 10}, "dataset.class_order"),
        ({"columns": {"text": "review"}, "builtin": None, "upload": "upl_d"}, "dataset.columns.text"),
    ],
)
def test_preprocessing_must_fit_the_teacher(dataset: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as failure:
        resolve(request(dataset={"builtin": "digits", **dataset}), inspection())
    assert failure.value.field == field


@given(n=st.integers(1, 40), blocks=st.lists(st.integers(1, 40), min_size=3, max_size=3))
def test_blocks_resolve_to_their_depth_or_are_refused(n: int, blocks: list[int]) -> None:
    try:
        spec = resolve(request(student={"blocks": blocks, "allow_same_depth": True}), inspection(n))
    except SpecError:
        assert max(blocks) > n
    else:
        assert spec.student.blocks == blocks
        if n > 1:
            assert spec.student.depth == 2 * sum(blocks) + 2


def test_the_specification_loads_no_torch() -> None:
    code = "import sys, lit_spec; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def text_inspection(choices: dict[str, Any], **options: Any) -> Inspection:
    options = {"vocabulary_size": 69, "downsampling": "maxpool", "shortcut": False, "least_length": 64, **options}
    teacher = Architecture(
        family="vdcnn",
        modality="text",
        depth=17,
        blocks=[2, 2, 2, 2],
        channels=None,
        classes=2,
        options=options,
        choices=choices,
    )
    students = [
        StudentOption(depth=8 * n + 1, blocks=[n] * 4, parameters=100 * n, parameters_ratio=2 / n) for n in (1, 2)
    ]
    return Inspection(format=TeacherFormat.PT, architecture=teacher, parameters=200, students=students)


def text_request(**changes: Any) -> JobRequest:
    return request(**{"dataset": {"upload": "upl_d"}, "student": {"depth": 9}, **changes})


DOWNSAMPLING = {"downsampling": ["maxpool", "conv", "kmaxpool"]}


def test_what_tensors_cannot_tell_is_chosen_or_assumed() -> None:
    found = text_inspection(DOWNSAMPLING)
    assert resolve(text_request(), found).teacher.architecture == found.architecture
    chosen = resolve(text_request(teacher_options={"downsampling": "conv"}), found).teacher.architecture
    assert chosen.options == {**found.architecture.options, "downsampling": "conv"}
    assert chosen.choices == DOWNSAMPLING
    assert found.architecture.options["downsampling"] == "maxpool"
    plain = text_inspection({"shortcut": [False, True]})
    spec = resolve(text_request(teacher_options={"shortcut": True}, preset="paper"), plain)
    assert spec.teacher.architecture.options["shortcut"] is True


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"downsampling": "stride"}, "teacher_options.downsampling", '"maxpool", "conv", "kmaxpool"'),
        ({"downsampling": True}, "teacher_options.downsampling", "is true"),
        ({"k": 4}, "teacher_options.k", "give only downsampling"),
    ],
)
def test_a_choice_that_is_none_is_refused(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(SpecError) as failure:
        resolve(text_request(teacher_options=options), text_inspection(DOWNSAMPLING))
    assert failure.value.field == field
    assert says in failure.value.message


def test_a_teacher_without_choices_has_none() -> None:
    with pytest.raises(SpecError, match="leave it out"):
        resolve(request(teacher_options={"width": 4}), inspection())


@pytest.mark.parametrize(
    ("dataset", "options", "field"),
    [
        ({"length": 63}, {}, "dataset.length"),
        ({}, {"vocabulary_size": 68}, "dataset.vocabulary"),
        ({"vocabulary": "abc"}, {"vocabulary_size": 4}, "dataset.vocabulary"),
        ({"vocabulary": "aa"}, {}, "dataset.vocabulary"),
        ({"size": [8, 8]}, {}, "dataset.size"),
        ({"columns": {"image": "photo"}}, {}, "dataset.columns.image"),
    ],
)
def test_texts_must_fit_the_teacher(dataset: dict[str, Any], options: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as failure:
        resolve(text_request(dataset={"upload": "upl_d", **dataset}), text_inspection({}, **options))
    assert failure.value.field == field
    columns = {"text": ["title", "review"], "label": "stars"}
    spec = resolve(text_request(dataset={"upload": "upl_d", "columns": columns, "unlabelled": -1}), text_inspection({}))
    assert spec.dataset.model_dump()["columns"] == {**columns, "image": None}
    assert spec.dataset.unlabelled == -1
    assert resolve(text_request(dataset={"upload": "upl_d", "length": 64}), text_inspection({})).dataset.length == 64


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"output": "embedding"}, "output", "lit_core.compress"),
        ({"race": True, "method": "scratch", "student": {"depth": 8}}, "race", "lit, kd, at, mimic"),
        ({"race": True, "method": "prune"}, "race", "method is prune"),
        ({"race": True, "method": "born-again-kd", "student": {}}, "race", "born-again-kd"),
        ({"mixing": 0.5, "method": "scratch"}, "mixing", "only a teacher can label"),
        ({"teacher_precision": "bfloat16", "method": "scratch"}, "teacher_precision", "method scratch has none"),
        ({"teacher_precision": "float32", "method": "scratch"}, "teacher_precision", "leave it out"),
    ],
)
def test_parts_of_the_recipe_that_the_job_has_no_use_for_are_refused(
    changes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(SpecError) as failure:
        resolve(request(**changes), inspection())
    assert failure.value.field == field
    assert says in failure.value.message


def test_texts_are_not_mixed() -> None:
    with pytest.raises(SpecError, match="texts") as failure:
        resolve(text_request(mixing=0.5), text_inspection({}))
    assert failure.value.field == "mixing"
    assert resolve(text_request(preset="few"), text_inspection({})).mixing == 0


@pytest.mark.parametrize("method", ["scratch", "prune", "born-again-kd", "born-again-lit"])
def test_the_preset_for_few_samples_leaves_out_what_a_method_has_no_use_for(method: str) -> None:
    """Studies compare methods with one preset."""
    student = {} if method.startswith("born") else {"depth": 14}
    spec = resolve(request(preset="few", method=method, student=student), inspection())
    assert not spec.race
    assert (spec.mixing == 0) == (method == "scratch")
    fresh = method != "prune"
    assert (spec.schedule.batch_norm == "train") == fresh, "random blocks have no statistics that are worth keeping"
    asked = resolve(request(preset="few"), inspection())
    assert (asked.race, asked.mixing, asked.schedule.batch_norm) == (True, 0.5, "frozen")
