"""Streams of server-sent events, over real sockets: every event once and in order, whatever breaks, and the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from api.http import event_streams, stream_slots
from api.http.accept import prefers
from api.jobs import events as job_events
from jobs.database.notifications import Subscription
from jobs.ledger import attempts, owned_jobs
from jobs.ledger.attempts import Claim, Event
from jobs.ledger.new_events import News, Position, read_news
from lit_client import Client
from lit_client.events import ServerSentEvent, StreamParser
from lit_client.models import Event as ShownEvent
from lit_client.models import JobLive
from lit_spec import SPEC_VERSION, ErrorType, JobError
from tests.api.conftest import serving
from tests.api.test_studies import request
from tests.worker.bench import OWNER, Bench, wait_for

STREAM = {"Accept": "text/event-stream"}
FAILURE = JobError(type=ErrorType.DIVERGED, detail="the loss is not finite")


def claim(bench: Bench) -> Claim:
    with bench.database.session() as session:
        claimed = attempts.claim(session, "worker-a", ["cpu"], [SPEC_VERSION], 60)
    assert claimed is not None
    return claimed


def record(bench: Bench, claimed: Claim, events: Sequence[Event] = (), step: int | None = None) -> None:
    progress = {"phase": "lit", "epoch": 0, "epochs": 2, "step": step, "steps": 100, "fraction": 0.1}
    with bench.database.session() as session:
        attempts.record(
            session,
            claimed,
            events,
            [],
            None if step is None else progress,
            None,
            seconds_left=None if step is None else 60,
        )


def fail(bench: Bench, claimed: Claim) -> None:
    with bench.database.session() as session:
        attempts.fail(session, claimed, FAILURE)


class Reader:
    """Reads a stream in a thread."""

    def __init__(self, address: tuple[str, int], path: str, headers: dict[str, str]) -> None:
        self.events: list[ServerSentEvent] = []
        self.response: httpx.Response | None = None
        self.path = path
        self._url = f"http://{address[0]}:{address[1]}{path}"
        self._headers = headers
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        parser = StreamParser()
        with httpx.stream("GET", self._url, headers=self._headers, timeout=30) as response:
            self.response = response
            for piece in response.iter_bytes():
                self.events += parser.feed(piece)

    def data(self, kind: str) -> list[Any]:
        return [json.loads(event.data) for event in self.events if event.event == kind]

    def numbers(self) -> list[int]:
        return [int(event.id) for event in self.events if event.id is not None]


@contextmanager
def reading(address: tuple[str, int], path: str, **headers: str) -> Iterator[Reader]:
    """A stream that the test brings to its end."""
    reader = Reader(address, path, {**STREAM, **headers})
    yield reader
    reader.thread.join(20)
    assert not reader.thread.is_alive()


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; q=0.8, application/json;q=0.5", True),
        ("text/event-stream, */*", True),
        ("text/*", True),
        ("application/json, text/event-stream", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0.000, text/*", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0.5, */*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/event-streams", False),
        (",;q=1,,text/event-stream/x", False),
    ],
)
def test_only_who_asks_for_a_stream_gets_one(accept: str, streams: bool) -> None:
    assert prefers(accept, "text/event-stream", over="application/json") is streams


def test_a_job_from_its_first_event_to_its_end(bench: Bench, address: tuple[str, int]) -> None:
    job = bench.job()
    with reading(address, f"/v1/jobs/{job}/events") as reader:
        wait_for(lambda: reader.data("progress"))
        claimed = claim(bench)
        record(bench, claimed, [Event("epoch", {"name": "\u2028 two\r\nlines"})])
        record(bench, claimed, step=7)
        wait_for(
            lambda: [told for told in reader.data("progress") if told["progress"] and told["progress"]["step"] == 7]
        )
        fail(bench, claimed)
    assert reader.numbers() == [1, 2, 3, 4]
    assert [event.event for event in reader.events if event.id] == ["queued", "claimed", "epoch", "failed"]
    assert reader.data("epoch")[0]["data"] == {"name": "\u2028 two\r\nlines"}
    first, *_, last = reader.data("progress")
    assert (first["state"], first["progress"], first["estimated_finish"]) == ("queued", None, None)
    (stepped,) = [told for told in reader.data("progress") if told["estimated_finish"]]
    assert (stepped["state"], stepped["progress"]["phase"], stepped["progress"]["steps"]) == ("running", "lit", 100)
    assert (last["state"], last["progress"]["step"], last["estimated_finish"]) == ("failed", 7, None)
    assert [event.event for event in reader.events[-2:]] == ["progress", "end"]
    assert reader.data("end") == [last]
    versions = [told["version"] for told in reader.data("progress")]
    assert versions == sorted(set(versions))
    assert reader.response is not None
    told = reader.response.headers
    assert (told["Content-Type"].partition(";")[0], told["Cache-Control"]) == ("text/event-stream", "no-cache")
    assert (told["X-Accel-Buffering"], told["Vary"]) == ("no", "Accept")


def test_where_a_stream_begins(bench: Bench, address: tuple[str, int]) -> None:
    job = bench.job()
    claimed = claim(bench)
    record(bench, claimed, [Event("epoch", {"epoch": number}) for number in range(1100)])
    fail(bench, claimed)
    path = f"/v1/jobs/{job}/events"
    with reading(address, path) as all_of_them, reading(address, f"{path}?after=1000") as later:
        pass
    assert all_of_them.numbers() == list(range(1, 1104))
    assert later.numbers() == list(range(1001, 1104))
    with reading(address, f"{path}?after=5", **{"Last-Event-ID": "1102"}) as resumed:
        pass
    assert resumed.numbers() == [1103]
    with reading(address, path, **{"Last-Event-ID": "1103"}) as ended:
        pass
    assert [event.event for event in ended.events] == ["progress", "end"]
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", headers=STREAM) as api:
        for wrong in ("-1", "x", "1.0", "9" * 30):
            refused = api.get(path, headers={"Last-Event-ID": wrong})
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
        assert api.get("/v1/jobs/job_none/events").json()["type"] == "/problems/not-found"
        as_json = api.get(path, headers={"Accept": "*/*"})
        assert (as_json.headers["Content-Type"], as_json.json()["last"]) == ("application/json", 1103)
        assert as_json.headers["Vary"] == "Accept"


def test_a_restart_of_the_service_costs_no_event_and_repeats_none(bench: Bench) -> None:
    """It also ends in time: nothing limits how long a stream would hold it up."""
    job = bench.job()
    told: list[ShownEvent | JobLive] = []

    def follow(port: int) -> None:
        with Client(f"http://127.0.0.1:{port}", first_pause=0.05) as client:
            for one in client.stream_events(job):
                told.append(one)

    def last() -> int:
        return max((one.seq for one in told if isinstance(one, ShownEvent)), default=0)

    with serving(bench) as (_, port):
        thread = threading.Thread(target=follow, args=[port])
        thread.start()
        claimed = claim(bench)
        record(bench, claimed, [Event("epoch")] * 3)
        wait_for(lambda: last() == 5)
    record(bench, claimed, [Event("epoch")] * 2)
    with serving(bench, port):
        wait_for(lambda: last() == 7)
        record(bench, claimed, [Event("epoch")])
        fail(bench, claimed)
        thread.join(20)
        assert not thread.is_alive()
    assert [one.seq for one in told if isinstance(one, ShownEvent)] == list(range(1, 10))
    lives = [one for one in told if isinstance(one, JobLive)]
    assert (lives[-1].state, lives[-1].version) == ("failed", bench.row(job).version)


def test_streams_hold_no_connections_and_end_when_the_client_goes(
    bench: Bench, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than an API process has connections to the ledger, and than it has threads."""
    job, ended, leave = bench.job(), [], Subscription.__exit__
    monkeypatch.setattr(Subscription, "__exit__", lambda *arguments: [leave(*arguments), ended.append(1)])
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=8, limits=httpx.Limits()) as api:
        streams = [
            api.send(api.build_request("GET", f"/v1/jobs/{job}/events", headers=STREAM), stream=True) for _ in range(60)
        ]
        assert [response.status_code for response in streams] == [200] * 60
        assert api.get("/v1/jobs").status_code == 200
        assert ended == []
        for response in streams:
            response.close()
        wait_for(lambda: len(ended) == 60)


def test_a_long_stream_ends_and_a_deleted_job_is_gone(
    bench: Bench, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.job()
    monkeypatch.setattr(event_streams, "LONGEST_STREAM_SECONDS", 0.0)
    with reading(address, f"/v1/jobs/{job}/events") as cut:
        pass
    assert [event.event for event in cut.events] == ["queued", "progress"]
    monkeypatch.undo()
    with reading(address, f"/v1/jobs/{job}/events") as deleted:
        wait_for(lambda: deleted.data("progress"))
        with bench.database.session() as session:
            owned_jobs.request_cancel(session, OWNER, job)
            owned_jobs.delete(session, OWNER, job)
    assert [event.event for event in deleted.events] == ["queued", "progress"]


def test_a_study_and_its_end(bench: Bench, address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=20) as api:
        study = api.post("/v1/studies", json=request(bench.teacher(), methods=["lit", "kd"], seeds=[0])).json()
        path = f"/v1/studies/{study['id']}"
        with reading(address, path) as reader:
            wait_for(lambda: reader.data("study"))
            assert api.post(f"{path}/cancel").status_code == 202
        assert api.get(path).json() == reader.data("end")[0]
    assert [told["state"] for told in reader.data("study")] == ["running", "cancelled"]
    assert reader.events[-1].event == "end"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[Position]]:
    """What the streams have read, together in each read."""
    found: list[list[Position]] = []

    def read(session: Session, positions: Sequence[Position], limit: int) -> dict[Position, News]:
        found.append(list(positions))
        return read_news(session, positions, limit)

    monkeypatch.setattr(job_events, "read_news", read)
    return found


def test_streams_share_a_look_at_each_change_and_at_each_moment(
    bench: Bench, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, reads: list[list[Position]]
) -> None:
    monkeypatch.setattr(event_streams, "LOOK_SECONDS", 1.0)
    jobs = [bench.job() for _ in range(3)]
    claims = [claim(bench) for _ in jobs]
    with ExitStack() as stack:
        streams = [stack.enter_context(reading(address, f"/v1/jobs/{jobs[number % 3]}/events")) for number in range(12)]
        wait_for(lambda: all(stream.data("progress") for stream in streams), 20)
        # Nothing is notified, so this is the moment at which all look.
        reads.clear()
        wait_for(lambda: any({position.job_id for position in read} == set(jobs) for read in reads))
        changed = claims[0].job_id
        followers = [stream for stream in streams if stream.path == f"/v1/jobs/{changed}/events"]
        reads.clear()
        record(bench, claims[0], [Event("epoch")])
        wait_for(lambda: all(stream.data("epoch") for stream in followers))
        before = Position(OWNER, changed, 2)
        # One read for all four, and perhaps one that had begun before.
        assert 1 <= sum(before in read for read in reads) <= 2
        for claimed in claims:
            fail(bench, claimed)
    assert all(stream.events[-1].event == "end" for stream in streams)


@pytest.mark.parametrize("limit", ["STREAMS_OF_OWNER", "STREAMS_OF_PROCESS"])
def test_only_so_many_streams_are_open(
    address: tuple[str, int], bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(stream_slots, limit, 1)
    job = bench.job()
    path = f"/v1/jobs/{job}/events"
    with reading(address, path) as first:
        wait_for(lambda: bool(first.data("progress")))
        refused = httpx.get(f"http://{address[0]}:{address[1]}{path}", headers=STREAM)
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-streams")
        assert int(refused.headers["Retry-After"]) > 0
        fail(bench, claim(bench))
    # The first has ended, so there is room again.
    with reading(address, path) as again:
        pass
    assert again.data("end")
