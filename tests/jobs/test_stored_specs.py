"""Jobs and studies that another version of LIT has stored: upgraded, failed with a reason, or left to newer workers."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from jobs.database.models import Job, Study
from jobs.errors import Conflict
from jobs.ledger import attempts, owned_jobs, workers
from jobs.studies import studies
from jobs.studies.advance import due
from jobs.studies.kinds.kind_of import kind_of
from jobs.studies.kinds.trials import StudySpec
from jobs.studies.status import read_status
from jobs.studies.stored_specs import read_study
from lit_spec import SPEC_VERSION, Feed, JobRequest, JobSpec, Method, Select, resolve
from lit_spec.networks.students import ParameterCounts
from lit_spec.requests.study import STUDY_VERSION
from lit_spec.requests.upgrades import JOB_STEPS, READABLE_SPEC_VERSIONS, STUDY_STEPS, UnknownVersion, upgrade
from lit_spec.states import JobState
from tests.jobs.study_bench import look, make_study, states, study_row, take
from tests.jobs.study_specs import make_spec
from tests.worker.bench import INSPECTION, OWNER, Bench

VERSION_1: dict[str, Any] = {
    "alpha": 0.25,
    "beta": 0.5,
    "tau": 4.0,
    "ir_loss": "mse",
    "schedule": {
        "lit": {
            "epochs": 20,
            "learning_rate": 0.1,
            "schedule": {"kind": "one_cycle", "warmup": 0.2},
            "frozen": ["stem", "head"],
        },
        "fine_tune": {
            "epochs": 10,
            "learning_rate": 0.03,
            "schedule": {"kind": "one_cycle", "warmup": 0.2},
            "frozen": [],
        },
        "batch_size": 32,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0001,
    },
    "seed": 5,
    "device": "cpu",
    "precision": "float32",
    "accept": {"max_accuracy_drop": 2.0},
    "max_attempts": 3,
    "time_limit_s": None,
    "spec_version": 1,
    "teacher": {
        "upload": "upl_teacher",
        "architecture": {
            "family": "resnet_cifar",
            "depth": 38,
            "blocks": [6, 6, 6],
            "channels": 1,
            "classes": 10,
            "options": {"width": 12, "shortcut": "A", "head": "fc", "projection": "downsample"},
        },
    },
    "dataset": {
        "size": None,
        "mean": "data",
        "std": "data",
        "class_order": None,
        "upload": None,
        "builtin": "digits",
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
    },
    "student": {"depth": 14, "blocks": [2, 2, 2], "init": "inherit"},
    "augmentation": {"shift": 1, "flip": False},
}
"""As the first version stored it."""
BEFORE_TARGETS: dict[str, Any] = {"target": None, "plan": None, "repair": False}
BEFORE_KEPT: dict[str, Any] = {"kept": None, **BEFORE_TARGETS}
"""What the students of jobs from before these fields have in them."""


def store(bench: Bench, job_id: str, **values: Any) -> None:
    with bench.database.session() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def store_study(bench: Bench, study_id: str, **values: Any) -> None:
    with bench.database.session() as session:
        session.execute(update(Study).where(Study.id == study_id).values(**values))


def claimed_spec(bench: Bench) -> JobSpec | None:
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], READABLE_SPEC_VERSIONS, 60)
        return None if claim is None else claim.spec


def waiting(bench: Bench, job_id: str) -> tuple[str, int, str]:
    with bench.database.session() as session:
        why = owned_jobs.waiting_reason(session, owned_jobs.get(session, OWNER, job_id))
    assert why is not None
    return why.reason, why.position, why.detail


def test_a_queued_job_of_the_first_version_runs_with_the_meaning_that_it_had(bench: Bench) -> None:
    old, newer = bench.job(), bench.job()
    store(bench, old, spec_version=1, spec=VERSION_1)
    with bench.database.session() as session:
        workers.register(session, "w", "host", ["cpu"], READABLE_SPEC_VERSIONS)
    assert waiting(bench, old)[:2] == ("starting", 1)
    assert waiting(bench, newer)[:2] == ("position", 2)
    spec = claimed_spec(bench)
    assert spec is not None
    assert (spec.spec_version, spec.method, spec.feed) == (SPEC_VERSION, Method.LIT, Feed.TEACHER)
    # Whatever the row says means the same as before.
    kept = spec.model_dump(mode="json")
    assert {name: kept[name] for name in ("alpha", "seed", "accept")} == {
        "alpha": 0.25,
        "seed": 5,
        "accept": {"max_accuracy_drop": 2.0, "min_psnr": None},
    }
    assert kept["schedule"]["fine_tune"] == VERSION_1["schedule"]["fine_tune"]
    row = bench.row(old)
    assert (row.state, row.spec_version, row.spec) == (JobState.RUNNING, 1, VERSION_1)


def test_a_job_from_before_blocks_could_be_named_chooses_them_as_it_did(bench: Bench) -> None:
    old = bench.job()
    spec = bench.row(old).spec
    student = {"depth": 14, "blocks": [2, 2, 2], "init": "inherit", "select": "first"}
    store(bench, old, spec_version=2, spec={**spec, "spec_version": 2, "student": student})
    read = claimed_spec(bench)
    assert read is not None
    assert (read.spec_version, read.student.select, read.student.kept) == (SPEC_VERSION, Select.FIRST, None)
    assert read.model_dump(mode="json") == {**spec, "student": {**student, **BEFORE_KEPT}}


def test_a_job_from_before_targets_keeps_its_blocks(bench: Bench) -> None:
    old = bench.job()
    spec = bench.row(old).spec
    student = {"depth": 14, "blocks": [2, 2, 2], "init": "inherit", "select": None, "kept": [[0, 1]] * 3}
    store(bench, old, spec_version=3, spec={**spec, "spec_version": 3, "student": student})
    read = claimed_spec(bench)
    assert read is not None
    assert read.model_dump(mode="json") == {**spec, "student": {**student, **BEFORE_TARGETS}}


@pytest.mark.parametrize(
    ("values", "repaired"),
    [
        ({"depth": 14, "blocks": None, "select": "recover"}, True),
        ({"depth": 14, "blocks": [2, 2, 2], "select": "even"}, False),
        ({"depth": 14, "blocks": [2, 2, 2], "select": None, "kept": [[0, 1]] * 3}, False),
    ],
)
def test_a_job_from_before_repairs_could_be_asked_for_is_repaired_as_it_was(
    bench: Bench, values: dict[str, Any], repaired: bool
) -> None:
    old = bench.job()
    spec = bench.row(old).spec
    student = {"init": "inherit", "kept": None, "target": None, "plan": None, **values}
    store(bench, old, spec_version=5, spec={**spec, "spec_version": 5, "student": student})
    read = claimed_spec(bench)
    assert read is not None
    assert read.model_dump(mode="json") == {**spec, "student": {**student, "repair": repaired}}


FROM_BEFORE_UNLABELLED = pytest.mark.parametrize(
    ("dataset", "modality", "unlabelled"),
    [
        ({"upload": "upl_d"}, "image", -1),
        ({"upload": "upl_d", "class_order": ["-1", "1"]}, "image", None),
        ({"upload": "upl_d"}, "text", None),
        ({"builtin": "digits"}, "image", None),
    ],
)


@FROM_BEFORE_UNLABELLED
def test_a_job_from_before_unlabelled_reads_minus_one_as_it_did(
    dataset: dict[str, Any], modality: str, unlabelled: int | None
) -> None:
    architecture = {**VERSION_1["teacher"]["architecture"], "modality": modality}
    old = {**VERSION_1, "teacher": {"upload": "upl_t", "architecture": architecture}, "dataset": dataset}
    read = JobSpec.model_validate(upgrade(old, 1, JOB_STEPS, SPEC_VERSION))
    assert (read.dataset.unlabelled, read.dataset.columns) == (unlabelled, None)


@FROM_BEFORE_UNLABELLED
def test_the_trials_of_a_study_from_before_unlabelled_read_minus_one_as_its_first_ones_did(
    dataset: dict[str, Any], modality: str, unlabelled: int | None
) -> None:
    stored = make_spec("depth", front=True).model_dump(mode="json", exclude_unset=True)
    stored["request"]["job"]["dataset"] = dataset
    stored["inspection"]["architecture"]["modality"] = modality
    read = StudySpec.model_validate(upgrade(stored, 6, STUDY_STEPS, STUDY_VERSION))
    kind = kind_of(read)
    trial = JobRequest.model_validate(kind.request(kind.next_steps({}, 1).new[0]))
    assert trial.dataset.unlabelled == unlabelled


@pytest.mark.parametrize("wrong", [{"spec_version": 0}, {"spec_version": 1, "spec": []}])
def test_a_job_that_cannot_be_upgraded_fails_with_a_sentence_and_blocks_nobody(
    bench: Bench, wrong: dict[str, Any]
) -> None:
    old, good = bench.job(), bench.job()
    store(bench, old, **wrong)
    assert claimed_spec(bench) is not None
    row = bench.row(old)
    assert (row.state, row.attempt) == (JobState.FAILED, 0)
    assert row.error is not None
    assert row.error["type"] == "bad-specification"
    assert "this version of LIT can't read the stored specification" in row.error["detail"]
    assert "send the request again" in row.error["detail"]
    assert bench.row(good).state == JobState.RUNNING


def test_a_job_of_a_newer_version_is_left_to_newer_workers_and_waiting_says_so(bench: Bench) -> None:
    newer, good = bench.job(), bench.job()
    store(bench, newer, spec_version=SPEC_VERSION + 1, spec={"of": "tomorrow"})
    with bench.database.session() as session:
        workers.register(session, "old", "host", ["cpu"], READABLE_SPEC_VERSIONS)
    assert waiting(bench, newer) == (
        "no-worker",
        1,
        f"no live worker reads version {SPEC_VERSION + 1} of the specification: start workers of a newer version of "
        "LIT",
    )
    # It holds nobody up.
    assert waiting(bench, good)[:2] == ("starting", 1)
    assert claimed_spec(bench) is not None
    assert claimed_spec(bench) is None
    assert bench.row(newer).state == JobState.QUEUED
    with bench.database.session() as session:
        workers.register(session, "new", "host", ["cpu"], [*READABLE_SPEC_VERSIONS, SPEC_VERSION + 1])
    assert waiting(bench, newer)[0] == "starting"


def test_every_older_version_has_its_step() -> None:
    assert sorted(JOB_STEPS) == list(range(1, SPEC_VERSION))
    assert sorted(STUDY_STEPS) == list(range(1, STUDY_VERSION))


def test_steps_are_applied_one_after_another_and_a_gap_is_refused() -> None:
    steps = {1: lambda old: {**old, "a": 1}, 2: lambda old: {**old, "b": old["a"] + 1}}
    assert upgrade({}, 1, steps, 3) == {"a": 1, "b": 2}
    assert upgrade({"a": 5}, 2, steps, 3) == {"a": 5, "b": 6}
    assert upgrade({}, 3, steps, 3) == {}
    for version, newest in ((0, 3), (1, 4), (4, 3)):
        with pytest.raises(UnknownVersion, match=f"version {version}"):
            upgrade({}, version, steps, newest)


@pytest.mark.parametrize(
    "wrong", [{"study_version": 0}, {"spec": {"request": None}}, {"spec": {}, "cancel_requested_at": "2026-01-01"}]
)
def test_a_study_that_cannot_be_read_ends_once_its_trials_have(bench: Bench, wrong: dict[str, Any]) -> None:
    study = make_study(bench, "compare", methods=["lit", "kd"], seeds=[0, 1])
    running = take(bench)
    store_study(bench, study, **wrong)
    look(bench, study)
    assert sorted(states(bench, study)) == ["cancelled", "cancelled", "cancelled", "running"]
    # Looking again changes nothing, and its owner can still read it.
    version = study_row(bench, study).version
    look(bench, study)
    assert (study_row(bench, study).state, study_row(bench, study).version) == ("running", version)
    with bench.database.session() as session:
        assert read_status(session, studies.get(session, OWNER, study)).table.rows == []
        attempts.cancelled(session, running)
    with bench.database.session() as session:
        assert due(session) == [study]
    look(bench, study)
    row = study_row(bench, study)
    if "cancel_requested_at" in wrong:
        assert (row.state, row.error) == ("cancelled", None)
    else:
        assert row.state == "failed"
        assert row.error is not None
        assert row.error["type"] == "outdated"
        assert "can't read the stored specification" in row.error["detail"]
        assert "create the study again" in row.error["detail"]
    with bench.database.session() as session, pytest.raises(Conflict, match="can't be resumed") as refused:
        studies.resume(session, OWNER, study)
    assert refused.value.type == "study-outdated"


def test_a_study_from_before_all_shares_were_compared_goes_on_with_even_ones(bench: Bench) -> None:
    study = make_study(bench, "compare", {"student": {"ratio": 1.2}}, methods=["lit", "kd"])
    counts = ParameterCounts(total=1000, blocks=[[10] * 6, [40] * 6, [100] * 6])
    inspected = INSPECTION.model_copy(update={"parameters": 6000, "parameter_counts": counts}).model_dump(mode="json")
    spec = dict(study_row(bench, study).spec)

    def blocks() -> list[int] | None:
        read, kind = read_study(study_row(bench, study))
        trial = JobRequest.model_validate(kind.request(kind.next_steps({}, 1).new[0]))
        return resolve(trial, read.inspection).student.blocks

    store_study(bench, study, spec={**spec, "inspection": inspected})
    assert blocks() is None, "a new study lets the trainer choose"
    store_study(bench, study, study_version=2, spec={**spec, "inspection": inspected})
    assert blocks() == [6, 6, 4]
    del inspected["parameter_counts"], inspected["first_blocks_stay"]
    store_study(bench, study, study_version=1, spec={**spec, "inspection": inspected})
    assert blocks() == [5, 5, 5]


def test_arms_that_name_their_blocks_stay_as_they_are(bench: Bench) -> None:
    arms = [{"name": "ends", "student": {"depth": None, "kept": [[0, 5]] * 3}}, "kd"]
    study = make_study(bench, "compare", {"student": {"depth": 14}}, methods=arms)
    store_study(bench, study, study_version=2)
    _, kind = read_study(study_row(bench, study))
    ends, kd = (JobRequest.model_validate(kind.request(key)).student for key in kind.next_steps({}, 1).new)
    assert (ends.kept, ends.select) == ([[0, 5]] * 3, None)
    assert (kd.depth, kd.select) == (14, "even")


@pytest.mark.parametrize(
    ("kind", "fields"), [("compare", {"methods": ["kd", {"name": "whole", "preset": "few"}]}), ("search", {})]
)
def test_a_study_from_before_rates_could_race_alone_goes_on_without_a_race(
    bench: Bench, kind: str, fields: dict[str, Any]
) -> None:
    study = make_study(bench, kind, {"student": {"depth": 14}, "preset": "few"}, **fields)

    def races() -> list[Any]:
        _, read = read_study(study_row(bench, study))
        return [read.request(key).get("race") for key in read.next_steps({}, 1).new][:2]

    assert races() == ["rates", None if kind == "compare" else "rates"]
    store_study(bench, study, study_version=5)
    assert races() == [False, None if kind == "compare" else False]


def test_a_study_of_a_newer_version_is_left_to_newer_processes(bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit", "kd"], seeds=[0, 1])
    store_study(bench, study, study_version=STUDY_VERSION + 1, spec={"request": {"of": "tomorrow"}})
    for _ in range(4):
        with bench.database.session() as session:
            attempts.cancelled(session, take(bench))
    with bench.database.session() as session:
        assert due(session) == []
    before = study_row(bench, study)
    assert look(bench, study) == []
    assert (study_row(bench, study).state, study_row(bench, study).version) == ("running", before.version)
    with bench.database.session() as session:
        assert read_status(session, studies.get(session, OWNER, study)).table.rows == []
    # A cancel reaches its trials; what finishes it is a process that can read it.
    with bench.database.session() as session:
        assert studies.request_cancel(session, OWNER, study).cancel_requested_at is not None
