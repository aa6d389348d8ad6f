"""The events of many jobs in one read: each follower gets what it lacks, and only of its owner's jobs."""

from __future__ import annotations

from jobs.ledger import attempts
from jobs.ledger.attempts import Event
from jobs.ledger.new_events import Position, read_news
from lit_spec import SPEC_VERSION
from tests.worker.bench import OWNER, Bench


def test_each_position_gets_what_comes_after_it(bench: Bench) -> None:
    long, short = bench.job(), bench.job()
    with bench.database.session() as session:
        claimed = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
        assert claimed is not None
        assert claimed.job_id == long
        attempts.record(session, claimed, [Event("epoch", {"epoch": number}) for number in range(5)], [], None, None)
    positions = [
        Position(OWNER, long, 0),
        Position(OWNER, long, 4),
        Position(OWNER, long, 7),
        Position(OWNER, short, 0),
        Position("somebody", long, 0),
        Position(OWNER, "job_none", 0),
    ]
    with bench.database.reading() as session:
        news = read_news(session, positions, 4)
    numbers = {position: [event.seq for event in found.events] for position, found in news.items()}
    assert numbers == {positions[0]: [1, 2, 3, 4], positions[1]: [5, 6, 7], positions[2]: [], positions[3]: [1]}
    assert {position.job_id: found.job.state for position, found in news.items()} == {long: "running", short: "queued"}
    assert news[positions[1]].events[0].data == {"epoch": 2}


def test_nobody_follows_anything(bench: Bench) -> None:
    with bench.database.reading() as session:
        assert read_news(session, [Position(OWNER, "job_none", 0)], 10) == {}
