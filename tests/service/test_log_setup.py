"""How the processes of the service write their logs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.log_setup import set_up_logs

Written = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Written:
    """Reads the lines that were written as JSON."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_the_module_that_logs_or_the_name_that_it_gives(written: Written) -> None:
    set_up_logs("json")
    structlog.get_logger().info("from here")
    structlog.get_logger("elsewhere").info("from there")
    logging.getLogger("library").info("from a library")
    assert [(line["event"], line["logger"], line["level"]) for line in written()] == [
        ("from here", __name__, "info"),
        ("from there", "elsewhere", "info"),
        ("from a library", "library", "info"),
    ]


def test_what_is_quiet_is_not_written(written: Written) -> None:
    set_up_logs("json")
    log = structlog.get_logger()
    log.debug("quiet")
    log.log(logging.DEBUG, "quiet")
    log.log(logging.WARNING, "loud")
    logging.getLogger("httpx").info("quiet")
    assert [(line["event"], line["level"]) for line in written()] == [("loud", "warning")]


def test_exceptions_are_written_with_their_traceback(written: Written) -> None:
    set_up_logs("json")
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    ours, librarys = written()
    for line in (ours, librarys):
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: bad")


def test_threads_and_libraries_write_whole_lines(written: Written) -> None:
    set_up_logs("json")
    long = "x" * 10_000

    def write(number: int) -> None:
        structlog.get_logger().info(long, number=number)
        logging.getLogger("library").info(long)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(100)))
    lines = written()
    assert len(lines) == 200
    assert {line["event"] for line in lines} == {long}


def test_whoever_logs_goes_on_when_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails too
    monkeypatch.setattr(sys, "stderr", full)
    set_up_logs("json")
    log = structlog.get_logger()
    log.info("on a full disk")
    with pytest.raises(OSError, match="No space left"):
        full.close()
    log.info("after it was closed")
