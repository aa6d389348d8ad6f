"""Streams of events in the client: how they are read, and what happens when they break."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from jobs.ledger import attempts
from jobs.ledger.attempts import Event
from lit_client import Client, ProblemError, ServiceUnreachable, UnexpectedAnswer
from lit_client.events import ServerSentEvent, StreamParser
from lit_client.models import Event as ShownEvent
from lit_client.models import Job, JobLive
from tests.jobs.study_bench import take
from tests.lit_client.faults import Fault, FaultyTransport, busy
from tests.lit_client.scripted_worker import ScriptedWorker
from tests.worker.bench import Bench

STREAM = (
    "retry: 1000\n\n"
    ": keep-alive\n\n"
    'id: 7\nevent: epoch\ndata: {"a": "\u2028é"}\n\n'
    "event: progress\ndata: {\ndata:}\n\n"
    "data\ndata: x\nunknown: y\n\n"
    "event: without data\n\n"
    "id: 8\ndata: cut off\n"
)
EVENTS = [
    ServerSentEvent("epoch", '{"a": "\u2028é"}', "7"),
    ServerSentEvent("progress", "{\n}", None),
    ServerSentEvent("message", "\nx", None),
]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece", [1, 2, 5, 10_000])
def test_events_are_read_whatever_the_pieces_and_the_ends_of_lines(ending: str, piece: int) -> None:
    content, parser = STREAM.replace("\n", ending).encode(), StreamParser()
    pieces: Iterator[bytes] = (content[start : start + piece] for start in range(0, len(content), piece))
    assert [event for part in pieces for event in parser.feed(part)] == EVENTS


def stream(client: Client, job: str, after: int = 0) -> list[ShownEvent | JobLive]:
    return list(client.stream_events(job, after=after))


def numbers(told: list[ShownEvent | JobLive]) -> list[int]:
    return [one.seq for one in told if isinstance(one, ShownEvent)]


def test_a_stream_that_breaks_goes_on_after_its_last_event(
    client: Client, transport: FaultyTransport, bench: Bench, worker: ScriptedWorker
) -> None:
    worker.events = [Event("epoch", {"epoch": number}) for number in range(1, 20)]
    job = client.wait_job(bench.job()).id
    whole = stream(client, job)
    assert numbers(whole) == list(range(1, 23))
    assert isinstance(whole[-1], JobLive)
    assert (whole[-1].state, whole[-1].estimated_finish) == ("succeeded", None)
    assert numbers(stream(client, job, after=20)) == [21, 22]

    asked = len(transport.requests)
    transport.faults["GET"].extend(
        [busy(), Fault(cut_answer_after=700), Fault(lost=httpx.ReadError("reset")), Fault(cut_answer_after=1500), None]
    )
    assert numbers(stream(client, job)) == list(range(1, 23))
    sent = [int(request.headers.get("Last-Event-ID", 0)) for request in transport.requests[asked:]]
    assert sent[:2] == [0, 0]
    assert sent == sorted(sent)
    assert 0 < sent[2] == sent[3] < sent[4] < 22


def test_a_stream_that_can_not_go_on_says_why(client: Client, transport: FaultyTransport, bench: Bench) -> None:
    with pytest.raises(ProblemError, match="job_none") as refused:
        stream(client, "job_none")
    assert refused.value.status == 404
    transport.faults["GET"].append(Fault(answer=httpx.Response(200, json={"items": [], "last": 0})))
    with pytest.raises(UnexpectedAnswer, match=r"Client\.follow"):
        stream(client, "job_1")
    nonsense = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=b"id: 1\ndata: {}\n\n")
    transport.faults["GET"].append(Fault(answer=nonsense))
    with pytest.raises(UnexpectedAnswer, match="Field required"):
        stream(client, "job_1")
    transport.faults["GET"].extend([Fault(lost=httpx.ReadError("reset"))] * 4)
    with pytest.raises(ServiceUnreachable):
        stream(client, "job_1")
    transport.faults["GET"].extend([busy()] * 4)
    with pytest.raises(ProblemError, match="Not now"):
        stream(client, "job_1")


def test_a_job_is_followed_by_a_stream_and_while_it_waits_by_polls(
    client: Client, transport: FaultyTransport, bench: Bench
) -> None:
    job, told = bench.job(), list[Job]()
    following = client.follow(job, on_job=told.append, every=0.1)
    assert next(following).type == "queued"
    assert told[-1].waiting is not None
    assert sent_as(transport) == ["polled"]
    claim = take(bench)
    progress = {"phase": "lit", "epoch": 1, "epochs": 4, "step": 7, "steps": 20, "fraction": 0.3}
    with bench.database.session() as session:
        attempts.record(session, claim, [Event("epoch", {"epoch": 1})], [], progress, None, seconds_left=60)
    while next(following).type != "epoch":
        pass
    with bench.database.session() as session:
        attempts.release(session, claim)
    while next(following).type != "released":
        pass
    claim = take(bench)
    with bench.database.session() as session:
        attempts.succeed(session, claim, {}, [])
    assert [event.type for event in following][-1] == "succeeded"
    assert (told[-1].state, told[-1].result, told[-1].waiting) == ("succeeded", {}, None)
    running = [one for one in told if one.state == "running" and one.progress is not None and one.progress.step == 7]
    assert running[0].estimated_finish is not None
    assert running[0].waiting is None
    assert "streamed" in sent_as(transport)


def sent_as(transport: FaultyTransport) -> list[str]:
    """How events were asked for."""
    asked = [request for request in transport.requests if request.url.path.endswith("/events")]
    return ["streamed" if request.headers["Accept"] == "text/event-stream" else "polled" for request in asked]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(answer=httpx.Response(200, json={"items": [], "last": 0})),
        Fault(lost=httpx.ReadTimeout("held back by a proxy")),
    ],
)
def test_without_a_stream_the_events_are_polled(
    client: Client, transport: FaultyTransport, bench: Bench, fault: Fault
) -> None:
    job = bench.job()
    with bench.database.session() as session:
        attempts.succeed(session, take(bench), {}, [])
    transport.faults["GET"].extend([None, fault])
    types = [event.type for event in client.follow(job)]
    assert (types[0], types[-1]) == ("queued", "succeeded")
    assert sent_as(transport)[:2] == ["streamed", "polled"]
    assert "streamed" not in sent_as(transport)[1:]
