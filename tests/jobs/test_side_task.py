"""Side tasks: an exception is logged and the task goes on; a stop ends it."""

from __future__ import annotations

import threading

import pytest
import structlog
from structlog.testing import capture_logs

from jobs import backoff
from jobs.side_task import SideTask
from tests.worker.bench import wait_for


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)


class Failing:
    """Fails three times, then waits until it is stopped."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, stopped: threading.Event) -> None:
        self.calls += 1
        if self.calls <= 3:
            raise ValueError(f"failure {self.calls}")
        stopped.wait()


def test_whatever_it_raises_is_logged_with_a_traceback_and_it_starts_again() -> None:
    failing = Failing()
    task = SideTask("failing", failing)
    with capture_logs() as logs:
        task.start()
        wait_for(lambda: failing.calls == 4)
    assert not task.over
    task.stop()
    assert task.over
    assert [(entry["task"], entry["exc_info"], entry["log_level"]) for entry in logs] == [
        ("failing", True, "error")
    ] * 3


def test_it_goes_on_when_not_even_the_log_can_be_written() -> None:
    def break_the_log(*_: object) -> None:
        raise OSError(28, "No space left on device")

    failing = Failing()
    task = SideTask("failing", failing)
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[break_the_log])
    try:
        task.start()
        wait_for(lambda: failing.calls == 4)
    finally:
        structlog.configure(processors=before)
        task.stop()


def test_it_can_be_stopped_while_it_waits_before_it_was_started_and_after_it_has_returned() -> None:
    def fail(_: threading.Event) -> None:
        raise ValueError

    backoff.FIRST_SECONDS = 3600  # set back by the fixture
    waiting = SideTask("waiting", fail, longest_pause=3600)
    waiting.start()
    waiting.stop(10)
    assert waiting.over
    never = SideTask("never", fail)
    never.stop()
    done = SideTask("done", lambda stopped: None)
    done.start()
    wait_for(lambda: done.over)
    done.stop()
