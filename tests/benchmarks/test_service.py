"""What `make bench-service` measures: that its clients and servers do what is timed. MLflow's part takes a minute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.service.client import Failed, Load, measure, parse_head, request
from benchmarks.service.figures import Effort, Figure
from benchmarks.service.run import ratios, run, summary
from benchmarks.service.servers import Name, running_servers

SHORT = Effort(rounds=1, seconds=0.1, connections=(2,), file_bytes=3_000_000)
PROCESSES = {
    f"{what}, {processes}"
    for what in ("poll, ended", "poll, running", "create")
    for processes in ("1 process", "2 processes")
}
POLLS = {"poll, ended, unchanged", "poll, ended", "poll, running", "poll, queued"}


def measured(folder: Path, names: list[Name]) -> tuple[list[Figure], dict[tuple[str, str], float]]:
    figures = run(["requests", "points", "transfers", "workers", "memory"], SHORT, folder, names)
    return figures, {(one.server.value, one.what): one.median for one in figures}


def test_every_section_measures_lit_and_the_bare_framework(tmp_path: Path) -> None:
    figures, medians = measured(tmp_path, [Name.LIT, Name.BARE])
    lit = {what for server, what in medians if server == "lit"}
    assert lit == POLLS | PROCESSES | {"list 50", "create", "metric points", "upload", "download", "memory"}
    bare = {what for server, what in medians if server == "bare"}
    assert bare == {"constant", "constant, unchanged", "upload", "download", "memory"}
    assert all(value > 0 for value in medians.values())
    told = json.loads(json.dumps(summary(figures, None, SHORT, 1)))
    assert (told["bench"], told["machine"]["cores"] > 0) == ("service", True)
    assert set(told["ratios"]) == {
        "poll_unchanged_to_bare",
        "poll_unchanged_to_bare_304",
        "upload_to_bare",
        "download_to_bare",
        "two_processes_to_one_poll_ended",
        "two_processes_to_one_poll_running",
        "two_processes_to_one_create",
    }


@pytest.mark.long
def test_every_section_measures_mlflow(tmp_path: Path) -> None:
    _, medians = measured(tmp_path, [Name.MLFLOW])
    assert {what for _, what in medians} == {
        "poll",
        "list 50",
        "create",
        "metric points",
        "upload",
        "download",
        "memory",
    }


def test_ratios_compare_the_same_number_of_connections() -> None:
    figures = [
        Figure("create", Name.LIT, "1/s", [30.0, 10.0, 20.0], 8),
        Figure("create", Name.MLFLOW, "1/s", [10.0], 8),
        Figure("create", Name.MLFLOW, "1/s", [1.0], 1),
    ]
    assert ratios(figures) == {"create_to_mlflow": {"8": 2.0}}


def test_heads_are_read_whole() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n") is None
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
    assert head is not None
    assert (head.status, head.rest, head.left) == (200, b"ab", 1)


def test_another_answer_than_expected_is_no_measurement(tmp_path: Path) -> None:
    with running_servers(tmp_path, [Name.BARE]) as servers:
        server = servers[Name.BARE]
        load = Load(server.host, server.port, [request("GET", "/nowhere")], 1, 0.3, 200)
        with pytest.raises(Failed, match="404"):
            measure(load)
