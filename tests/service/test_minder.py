"""The process minder: restarts with growing pauses, a limit, and everything stopped in order."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.settings import Settings
from service.child_process import ChildProcess
from service.errors import ChildFailed
from service.minder import ProcessMinder, RestartPolicy

QUICK = RestartPolicy(first_pause=0.01, max_failures=3, steady_seconds=60, look_seconds=0.005)


class FakeChild:
    """Runs until `die` is called. The starts whose numbers are in `failing_starts` fail."""

    def __init__(self, name: str, journal: list[str], failing_starts: range = range(0)) -> None:
        self.name = name
        self.exit_code: int | None = None
        self.starts = 0
        self._journal = journal
        self._failing_starts = failing_starts
        self._alive = False

    def start(self) -> None:
        self.starts += 1
        if self.starts in self._failing_starts:
            raise ChildFailed(f"{self.name} can't be started")
        self._alive = True

    def alive(self) -> bool:
        return self._alive

    def die(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self._alive = False

    def stop(self) -> bool:
        self._journal.append(self.name)
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_child_that_ends_is_started_again_and_the_others_are_left_alone() -> None:
    one, other = FakeChild("one", []), FakeChild("other", [])
    with ProcessMinder(policy=QUICK) as minder:
        minder.start(one)
        minder.start(other)
        for death in (1, 2):
            one.die(1)
            wait_for(lambda death=death: one.starts == 1 + death)
    assert (one.starts, other.starts) == (3, 1)


def test_the_last_started_are_stopped_first() -> None:
    journal: list[str] = []
    with ProcessMinder(policy=QUICK) as minder:
        for name in ("database", "broker", "worker"):
            minder.start(FakeChild(name, journal))
    assert journal == ["worker", "broker", "database"]
    assert minder.stopped_cleanly


def test_children_of_one_group_are_stopped_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=10)

    class Waiting(FakeChild):
        def stop(self) -> bool:
            together.wait()
            return True

    with ProcessMinder(policy=QUICK) as minder:
        minder.start(Waiting("one", []), Waiting("other", []))
    assert minder.stopped_cleanly


def test_a_child_that_cannot_be_stopped_is_reported_and_the_others_are_stopped() -> None:
    journal: list[str] = []

    class Stuck(FakeChild):
        def stop(self) -> bool:
            raise OSError("no such process")

    with ProcessMinder(policy=QUICK) as minder:
        minder.start(FakeChild("database", journal))
        minder.start(Stuck("worker", journal))
    assert not minder.stopped_cleanly
    assert journal == ["database"]


def test_a_child_that_fails_again_and_again_is_given_up() -> None:
    journal: list[str] = []
    given_up = threading.Event()
    hopeless, healthy = FakeChild("hopeless", journal, failing_starts=range(2, 100)), FakeChild("healthy", journal)

    def run() -> None:
        with ProcessMinder(given_up.set, policy=QUICK) as minder:
            minder.start(hopeless)
            minder.start(healthy)
            hopeless.die(7)
            assert given_up.wait(10)
            # Its death, and two starts that failed. It is for the owner of the minder to stop the rest.
            assert hopeless.starts == 3
            assert journal == []

    with pytest.raises(ChildFailed, match=r"hopeless failed 3 times in a row.*: hopeless can't be started"):
        run()
    assert journal == ["healthy", "hopeless"]


def test_a_child_that_cannot_start_here_is_not_started_again() -> None:
    given_up = threading.Event()
    child = FakeChild("worker", [])

    def run() -> None:
        with ProcessMinder(given_up.set, policy=QUICK) as minder:
            minder.start(child)
            child.die(os.EX_CONFIG)
            assert given_up.wait(10)

    with pytest.raises(ChildFailed, match="worker can't start, so everything was stopped; it has said why"):
        run()
    assert child.starts == 1


def test_a_child_that_could_start_before_is_tried_again_whatever_it_says() -> None:
    child = FakeChild("worker", [])
    with ProcessMinder(policy=QUICK) as minder:
        minder.start(child)
        for code in (-signal.SIGKILL, os.EX_CONFIG):
            starts = child.starts
            child.die(code)
            wait_for(lambda starts=starts: child.starts == starts + 1)
    assert minder.failure is None


def test_a_child_that_ran_for_long_has_its_failures_forgotten() -> None:
    policy = RestartPolicy(first_pause=0.001, max_failures=2, steady_seconds=0.05, look_seconds=0.005)
    child = FakeChild("child", [])
    with ProcessMinder(policy=policy) as minder:
        minder.start(child)
        for death in range(1, 4):
            time.sleep(0.1)
            child.die(1)
            wait_for(lambda death=death: child.starts == 1 + death)
    assert minder.failure is None


def test_pauses_double() -> None:
    assert [RestartPolicy().pause(failures) for failures in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert RestartPolicy().first_pause == Settings().restart_seconds


def test_a_first_start_that_fails_stops_what_runs() -> None:
    journal: list[str] = []

    def run() -> None:
        with ProcessMinder(policy=QUICK) as minder:
            minder.start(FakeChild("database", journal))
            minder.start(FakeChild("broker", journal, failing_starts=range(1, 2)))

    with pytest.raises(ChildFailed, match="broker can't be started"):
        run()
    # The one whose start failed too: a part of it may run.
    assert journal == ["broker", "database"]


def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"import os, time; print(os.getpid(), file=open({str(pids)!r}, 'a'), flush=True); time.sleep(60)"
    child = ChildProcess("sleeper", [sys.executable, "-c", program], seconds_to_stop=10)

    def started() -> list[int]:
        return [int(line) for line in pids.read_text().splitlines()] if pids.exists() else []

    with ProcessMinder(policy=QUICK) as minder:
        minder.start(child)
        wait_for(lambda: len(started()) == 1)
        os.kill(started()[0], signal.SIGKILL)
        wait_for(lambda: len(started()) == 2)
        assert child.alive()
    assert not child.alive()
    assert minder.stopped_cleanly


@pytest.mark.parametrize(
    ("on_sigterm", "clean"),
    [("signal.SIG_DFL", True), ("lambda *_: sys.exit(0)", True), ("lambda *_: sys.exit(3)", False)],
)
def test_whether_a_process_ended_well_when_stopped(tmp_path: Path, on_sigterm: str, clean: bool) -> None:
    assert handling(tmp_path, on_sigterm, seconds_to_stop=10).stop() == clean


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    child = handling(tmp_path, "signal.SIG_IGN", seconds_to_stop=0.1)
    assert not child.stop()
    assert child.exit_code == -signal.SIGKILL


def handling(tmp_path: Path, on_sigterm: str, seconds_to_stop: float) -> ChildProcess:
    """A process that has its handler of SIGTERM."""
    ready = tmp_path / "ready"
    program = (
        f"import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, {on_sigterm}); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    child = ChildProcess("child", [sys.executable, "-c", program], seconds_to_stop=seconds_to_stop)
    child.start()
    wait_for(ready.exists)
    return child


def test_a_program_that_does_not_exist() -> None:
    child = ChildProcess("nothing", ["/no/such/program"], seconds_to_stop=1)
    with pytest.raises(ChildFailed, match="nothing can't be started: "):
        child.start()
    assert child.stop()
