"""Which tracking server a job's run goes to, and how its row in the ledger is shared."""

from __future__ import annotations

import pytest

from jobs.database.models import Job, TrackedRun
from jobs.errors import RequestRefused, Stale
from jobs.ledger import attempts
from jobs.settings import Settings
from jobs.tracking import runs
from jobs.tracking.trackers import Tracker, Trackers
from lit_spec import SPEC_VERSION, JobRequest, SpecError, resolve
from tests.worker.bench import INSPECTION, Bench

DEFAULT, OTHER = "http://mlflow:5000", "https://other.example.org/mlflow"
TRACKERS = Trackers(Tracker(DEFAULT), (Tracker(OTHER, "me", "secret"),))


def request(**fields: object) -> JobRequest:
    return JobRequest.model_validate(
        {"teacher": "upl_1", "dataset": {"builtin": "digits"}, "student": {"depth": 14}, **fields}
    )


def refusal(trackers: Trackers, **fields: object) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as refused:
        trackers.check(request(**fields))
    return refused.value.mistakes[0].field, refused.value.detail


def test_settings_become_servers_whose_passwords_nobody_sees() -> None:
    settings = Settings(
        MLFLOW_TRACKING_URI=f"{DEFAULT}/", mlflow_tracking_uris="https://me:se%40cret@other.example.org/mlflow, "
    )
    found = Trackers.of(settings)
    assert found == Trackers(Tracker(DEFAULT), (Tracker(OTHER, "me", "se@cret"),))
    assert "se@cret" not in repr(found)
    assert not Trackers.of(Settings())
    assert not Trackers.of(Settings(MLFLOW_TRACKING_URI="", mlflow_tracking_uris=""))


@pytest.mark.parametrize("uri", ["mlflow:5000", "sqlite:///x.db", "http://", "http://h?x=1", "http://h:port"])
def test_what_is_no_server_is_refused_as_a_setting(uri: str) -> None:
    with pytest.raises(ValueError, match="address of a tracking server"):
        Settings(mlflow_tracking_uris=f"{DEFAULT},{uri}")
    with pytest.raises(ValueError, match="address of a tracking server"):
        Settings(MLFLOW_TRACKING_URI=uri)


def test_a_request_goes_to_the_default_to_a_named_server_or_to_none() -> None:
    named = {"mlflow": {"tracking_uri": f"{OTHER}/"}}
    for fields, uri in (
        ({}, DEFAULT),
        ({"track": {"mlflow": {}}}, DEFAULT),
        ({"track": named}, OTHER),
        ({"track": {"mlflow": False}}, None),
    ):
        asked = request(**fields)
        TRACKERS.check(asked)
        assert TRACKERS.uri_for(asked.track) == uri


def test_servers_that_are_not_allowed_are_refused_with_those_that_are() -> None:
    field, detail = refusal(TRACKERS, track={"mlflow": {"tracking_uri": "http://169.254.169.254"}})
    assert field == "track.mlflow.tracking_uri"
    assert f"{DEFAULT}, {OTHER}" in detail
    field, detail = refusal(Trackers(), track={"mlflow": {"experiment": "x"}})
    assert field == "track.mlflow.tracking_uri"
    assert "LIT_MLFLOW_TRACKING_URIS" in detail
    assert refusal(Trackers(), register="student")[0] == "register"
    assert refusal(TRACKERS, register="student", track={"mlflow": False})[0] == "register"
    Trackers().check(request())


@pytest.mark.parametrize(
    "mlflow",
    [
        {"tracking_uri": "http://me:secret@mlflow:5000"},
        {"tracking_uri": "file:///etc"},
        {"tags": {"lit.job_id": "x"}},
        {"tags": {"mlflow.user": "root"}},
        {"tags": {"": "x"}},
        {"run_name": ""},
        {"token": "x"},
        True,
    ],
)
def test_other_contents_of_track_are_invalid(mlflow: object) -> None:
    with pytest.raises(ValueError, match=r"track\.mlflow"):
        request(track={"mlflow": mlflow})


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a\nb"])
def test_names_that_mlflow_reads_as_addresses_are_invalid(name: str) -> None:
    with pytest.raises(ValueError, match="register"):
        request(register=name)


def test_only_a_student_with_an_onnx_file_is_registered() -> None:
    for fields in ({"exports": ["pt2"]}, {"student": {"plan": {"students": 3}}}):
        with pytest.raises(SpecError) as refused:
            resolve(request(register="student", **fields), INSPECTION)
        assert refused.value.field == "register"
    with pytest.raises(SpecError, match="tensorboard"):
        resolve(request(tensorboard=True, student={"plan": {"students": 3}}), INSPECTION)


def test_a_claim_lets_a_run_follow_the_job_and_turns_fence_each_other(bench: Bench) -> None:
    tracked, left_out = bench.job(), bench.job(track={"mlflow": False})
    with bench.database.session() as session:
        for trackers in (TRACKERS, TRACKERS):
            assert attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60, trackers=trackers)
    with bench.database.session() as session:
        found = runs.of_jobs(session, [tracked, left_out])
    assert {job: (run.tracking_uri, run.stage) for job, run in found.items()} == {tracked: (DEFAULT, "new")}
    with bench.database.session() as session:
        assert runs.take(session, left_out=[DEFAULT]) is None
        taken = runs.take(session)
    assert taken is not None
    first = taken[0]
    with bench.database.session() as session:
        assert runs.take(session) is None
        runs.write(session, first, run_id="r", seconds=0)
    with bench.database.session() as session:
        again = runs.take(session)
    assert again is not None
    assert (again[1].run_id, again[0].number) == ("r", first.number + 1)
    with bench.database.session() as session, pytest.raises(Stale):
        runs.write(session, first, run_id="another")
    # The first attempt's server stays that of the run, whatever the next worker's default is.
    with bench.database.session() as session:
        runs.follow(session, bench.row(tracked), Trackers(Tracker(OTHER)))
        assert session.get_one(TrackedRun, tracked).tracking_uri == DEFAULT


def test_a_track_that_this_version_cannot_read_fails_its_job_and_blocks_no_other(bench: Bench) -> None:
    unreadable, other = bench.job(), bench.job()
    with bench.database.session() as session:
        row = session.get_one(Job, unreadable)
        row.request = row.request | {"track": {"mlflow": {"of_a_later_version": 1}}}
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60, trackers=TRACKERS)
    assert claim is not None
    assert claim.job_id == other
    failed = bench.row(unreadable)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "of_a_later_version" in failed.error["detail"]
    assert "send the request again" in failed.error["detail"]
