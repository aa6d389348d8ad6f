"""How far a job is, as text and as a bar: on a terminal, in a notebook, or as lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from lit_client.models import Event, Job
from lit_spec import Phase
from lit_spec.states import JobState

ProgressReport = Callable[[str, float | None], None]
"""Called with what is being done, and how much of it is done, from 0 to 1; None if that is unknown."""

PHASE_NAMES: dict[str, str] = {
    Phase.LIT: "LIT",
    Phase.FINE_TUNE: "fine-tuning",
    Phase.PRUNE: "fine-tuning of the pruned",
}
EPOCH_METRICS = (
    ("student_accuracy", "student {:.2f} %"),
    ("teacher_accuracy", "teacher {:.2f} %"),
    ("agreement", "agreement {:.2f} %"),
    ("psnr", "PSNR {:.2f} dB"),
    ("validation_ir_loss", "IR loss {:.4g}"),
)


def phase_name(phase: str) -> str:
    """`measuring_teacher` as `measuring teacher`; the training's phases have names of their own."""
    return PHASE_NAMES.get(phase, phase.replace("_", " "))


def phase_line(job: Job) -> str:
    """Phase, epoch and step of a running job: `LIT 3/10, step 120/400`. A queued job: why it waits."""
    if job.waiting is not None:
        return f"queued: {job.waiting.detail}"
    progress = job.progress
    if job.state != JobState.RUNNING or progress is None:
        return str(job.state)
    epochs = f" {progress.epoch}/{progress.epochs}" if progress.epochs else ""
    line = f"{phase_name(progress.phase)}{epochs}"
    if progress.step is None:
        return line
    return f"{line}, step {progress.step}" + ("" if progress.steps is None else f"/{progress.steps}")


def fraction(job: Job) -> float | None:
    """How much of the training is done, from 0 to 1. Between the epochs the steps count, if the service tells them."""
    return None if job.progress is None else min(max(job.progress.fraction, 0.0), 1.0)


def time_left(job: Job, now: datetime | None = None) -> str:
    """`2:05` until the training will have finished; empty while that is unknown."""
    if job.estimated_finish is None or job.finished:
        return ""
    seconds = max(0, round((job.estimated_finish - (now or datetime.now(UTC))).total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def epoch_line(data: dict[str, Any]) -> str:
    """One epoch in a line: phase, number and what was measured on the validation split."""
    metrics = data.get("metrics", {})
    shown = [form.format(metrics[name]) for name, form in EPOCH_METRICS if metrics.get(name) is not None]
    return "  ".join([f"{phase_name(str(data.get('phase')))} {data.get('epoch')}/{data.get('epochs')}", *shown])


def epoch_score(data: dict[str, Any]) -> str:
    """The first of an epoch's numbers, which fits beside a bar; empty if there is none."""
    _, *metrics = epoch_line(data).split("  ")
    return metrics[0] if metrics else ""


class JobReport:
    """Tells a ProgressReport of a job that is followed."""

    def __init__(self, report: ProgressReport) -> None:
        self._report = report
        self._score = ""

    def job(self, job: Job) -> None:
        left = time_left(job)
        parts = [phase_line(job), self._score, f"{left} left" if left else ""]
        self._report("  ".join(part for part in parts if part), fraction(job))

    def event(self, event: Event) -> None:
        if event.type == "epoch":
            self._score = epoch_score(event.data)


@contextmanager
def shown_progress() -> Iterator[ProgressReport]:
    """A bar of tqdm in a notebook, if it is installed, a bar of rich on a terminal, and nothing elsewhere."""
    if _in_notebook():
        with _notebook_bar() as report:
            yield report
    elif sys.stderr.isatty():
        with _terminal_bar() as report:
            yield report
    else:
        yield lambda _what, _fraction: None


def _in_notebook() -> bool:
    # Only what the caller has imported already: asking costs nothing.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def _notebook_bar() -> Iterator[ProgressReport]:
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        yield _printed_if_new()
        return
    with tqdm(total=100, bar_format="{desc} {percentage:3.0f} %|{bar}| {elapsed}") as bar:

        def report(what: str, done: float | None) -> None:
            bar.set_description_str(what, refresh=False)
            bar.n = round(100 * (done or 0.0))
            bar.refresh()

        yield report


def _printed_if_new() -> ProgressReport:
    printed: list[str] = []

    def report(what: str, _done: float | None) -> None:
        if printed[-1:] != [what]:
            printed[:] = [what]
            sys.stderr.write(f"{what}\n")

    return report


@contextmanager
def _terminal_bar() -> Iterator[ProgressReport]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, done: progress.update(task, description=what, completed=done or 0.0)
