"""Reads specifications that earlier versions of LIT have stored.

Each step turns a stored specification into the next version's. Rows are upgraded when they are read, and stay as they
are in the ledger, so that during an upgrade of the service older processes can go on with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lit_spec.networks.architecture import Modality
from lit_spec.requests.job import SPEC_VERSION
from lit_spec.requests.study import STUDY_VERSION, StudyKind

Stored = Mapping[str, Any]
Steps = Mapping[int, Callable[[Stored], Stored]]


class UnknownVersion(ValueError):
    """A stored specification has a version that this version of LIT can't read."""


def _with_method_and_feed(job: Stored) -> Stored:
    """Version 1 knew only LIT, as in the paper: each section gets the output of the teacher's section before it."""
    return {**job, "spec_version": 2, "method": "lit", "feed": "teacher"}


def _without_kept(job: Stored) -> Stored:
    """Version 2 knew no `student.kept`. Its workers would fail a job that has the field."""
    return {**job, "spec_version": 3}


def _without_target(job: Stored) -> Stored:
    """Version 3 knew no `student.target`: each student had its blocks. Its workers would fail a job without them."""
    return {**job, "spec_version": 4}


def _without_plan(job: Stored) -> Stored:
    """Version 4 knew no `student.plan`. Its workers would fail a job that has the field."""
    return {**job, "spec_version": 5}


def _with_repair(job: Stored) -> Stored:
    """In version 5 `recover` repaired every student that it chose, and other students were never repaired."""
    student = job["student"]
    repaired = student.get("select") == "recover" and student.get("plan") is None
    return {**job, "spec_version": 6, "student": {**student, "repair": repaired}}


def _without_race_of_rates(job: Stored) -> Stored:
    """Version 6 knew no `race: rates`. Its workers would fail a job that has it."""
    return {**job, "spec_version": 7}


def _with_minus_one_unlabelled(job: Stored) -> Stored:
    """Version 7 knew no `dataset.columns` and no `dataset.unlabelled`. In arrays and Parquet -1 meant no label; of
    texts, which may also be tables where it was a class, only their author knows, and is asked.

    It knew neither `dataset.resize` and `dataset.resampling` nor the preprocessing of a teacher's library: it resized
    images to `size` itself, and measured `mean` and `std` on the data, as a job without these fields still does.
    And it knew no `teacher.sha256`: its workers would read another teacher."""
    return {**job, "spec_version": 8, "dataset": _read_as_before(job["dataset"], job["teacher"]["architecture"])}


def _without_trackers(job: Stored) -> Stored:
    """Version 8 knew no `dataset.url`, no `tensorboard` and no export `openvino`, and its workers no trackers.

    They would fail such jobs, or run a tracked job untracked.
    """
    return {**job, "spec_version": 9}


def _on_one_device(job: Stored) -> Stored:
    """Version 9 trained on one device. The fields that version 10 adds have the defaults of what version 9 did."""
    return {**job, "spec_version": 10}


def _with_a_whole_teacher(job: Stored) -> Stored:
    """Version 10 knew no `shard_teacher`, and would fail such jobs."""
    return {**job, "spec_version": 11}


def _read_as_before(dataset: Stored, teacher: Stored) -> Stored:
    """A data set from before `unlabelled`, with what -1 meant for a teacher of this architecture."""
    uploaded = dataset.get("upload") is not None and "-1" not in (dataset.get("class_order") or ())
    if uploaded and teacher.get("modality", Modality.IMAGE) == Modality.IMAGE:
        return {**dataset, "unlabelled": -1}
    return dataset


def _with_the_inspected_students(study: Stored) -> Stored:
    """The inspections of version 1 had no `parameter_counts`, so a ratio goes on giving one of their students."""
    return study


def _with_even_blocks(study: Stored) -> Stored:
    """In version 2 the default of `select` was `even`. The study's later trials choose blocks as its first ones did."""
    request = study["request"]
    student = request["job"].get("student", {})
    if student.get("kept") is not None or student.get("select") is not None:
        return study
    job = {**request["job"], "student": {**student, "select": "even"}}
    return {**study, "request": {**request, "job": job, **_arms_with_kept(request)}}


def _without_plans(study: Stored) -> Stored:
    """Version 3 knew no studies of kind `plan`, and would fail them."""
    return study


def _without_repair(study: Stored) -> Stored:
    """Version 4 knew no `student.repair`, and would fail a study that has the field."""
    return study


def _with_no_race(study: Stored) -> Stored:
    """In version 5 trials that stand for a method or a value did not race unless the request said so. The study's later
    trials do as its first ones did."""
    request = study["request"]
    if request["kind"] == StudyKind.SEARCH:
        return {**study, "request": {**request, "job": {"race": False, **request["job"]}}}
    if request["kind"] == StudyKind.COMPARE and "race" not in request["job"]:
        arms = [{"race": False, **arm} if "method" in arm else arm for arm in request["methods"]]
        return {**study, "request": {**request, "methods": arms}}
    return study


def _with_minus_one_unlabelled_in_trials(study: Stored) -> Stored:
    """As for jobs, version 6 knew no `dataset.unlabelled`, so that the study's later trials read -1 as its first ones
    did.

    Its inspections had no `preprocessing`, so the later trials also preprocess images as the first ones did. It knew no
    `teacher_weights`, and would fail a study that has the field."""
    request = study["request"]
    job = request["job"]
    dataset = _read_as_before(job["dataset"], study["inspection"]["architecture"])
    return {**study, "request": {**request, "job": {**job, "dataset": dataset}}}


def _without_trackers_in_trials(study: Stored) -> Stored:
    """Version 7 knew no `dataset.url`, `track`, `tensorboard` and export `openvino`, and would fail such studies."""
    return study


def _on_one_device_in_trials(study: Stored) -> Stored:
    """Version 8 trained on one device, and would fail studies that ask for more. It cached no teachers, so that the
    later trials see as many variations of the samples as the first ones."""
    request = study["request"]
    return {**study, "request": {**request, "job": {"teacher_cache": "off", **request["job"]}}}


def _with_a_whole_teacher_in_trials(study: Stored) -> Stored:
    """Version 9 knew no `shard_teacher`, and would fail such studies."""
    return study


def _arms_with_kept(request: Stored) -> Stored:
    """The arms of `compare`, of which those that name their blocks leave out the rule of the others."""
    if "methods" not in request:
        return {}
    arms = request["methods"]
    return {"methods": [_without_rule(arm) if isinstance(arm, dict) else arm for arm in arms]}


def _without_rule(arm: Stored) -> Stored:
    student = arm.get("student") or {}
    names_blocks = student.get("kept") is not None and "select" not in student
    return {**arm, "student": {**student, "select": None}} if names_blocks else arm


JOB_STEPS: Steps = {
    1: _with_method_and_feed,
    2: _without_kept,
    3: _without_target,
    4: _without_plan,
    5: _with_repair,
    6: _without_race_of_rates,
    7: _with_minus_one_unlabelled,
    8: _without_trackers,
    9: _on_one_device,
    10: _with_a_whole_teacher,
}
"""By the version that the step starts from; there is one for each version below SPEC_VERSION."""
STUDY_STEPS: Steps = {
    1: _with_the_inspected_students,
    2: _with_even_blocks,
    3: _without_plans,
    4: _without_repair,
    5: _with_no_race,
    6: _with_minus_one_unlabelled_in_trials,
    7: _without_trackers_in_trials,
    8: _on_one_device_in_trials,
    9: _with_a_whole_teacher_in_trials,
}
"""The same for the specifications of studies, below STUDY_VERSION."""
READABLE_SPEC_VERSIONS = (*sorted(JOB_STEPS), SPEC_VERSION)


def upgrade_job(stored: Stored, version: int) -> Stored:
    """A job's specification as one of SPEC_VERSION. Raises UnknownVersion."""
    return upgrade(stored, version, JOB_STEPS, SPEC_VERSION)


def upgrade_study(stored: Stored, version: int) -> Stored:
    """A study's specification as one of STUDY_VERSION. Raises UnknownVersion."""
    return upgrade(stored, version, STUDY_STEPS, STUDY_VERSION)


def upgrade(stored: Stored, version: int, steps: Steps, newest: int) -> Stored:
    """Apply the steps from `version` to `newest`. Raises UnknownVersion."""
    if version > newest:
        raise UnknownVersion(f"version {version} is newer than {newest}, the newest that this version of LIT reads")
    for step in range(version, newest):
        if step not in steps:
            raise UnknownVersion(f"version {version} is too old for this version of LIT")
        stored = steps[step](stored)
    return stored
