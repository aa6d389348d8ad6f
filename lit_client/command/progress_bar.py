"""What `litc compress` and `litc job --wait` show while a job runs."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from lit_client.command import display
from lit_client.models import Event, Job
from lit_client.progress import epoch_line, epoch_score, fraction, phase_line, phase_name, time_left
from lit_spec import Phase, Split
from lit_spec.states import JobState

SECONDS_BETWEEN_UPDATES = 1.0
# The job itself tells of its place in the queue and of its claim.
SILENT_EVENTS = {"checkpoint", "claimed", "queued", "started"}
BAR_WIDTH = 20


class JobBar:
    """On a terminal a bar with the phase, the step and the time left; elsewhere a line for each epoch and phase."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        self.progress = Progress(*columns, console=display.stderr, disable=not display.stderr.is_terminal)
        self.task = self.progress.add_task("queued", total=1.0, left="")
        self._score = ""
        self._told = ""

    @property
    def every(self) -> float | None:
        """How often a queued job is looked at, in seconds: only a terminal shows each change of its place."""
        return SECONDS_BETWEEN_UPDATES if display.stderr.is_terminal else None

    def show_job(self, job: Job) -> None:
        """How far it is, or why it waits."""
        left = time_left(job)
        line = phase_line(job)
        self.progress.update(
            self.task,
            completed=fraction(job) or 0.0,
            description="  ".join(part for part in (line, self._score) if part),
            left=f"{left} left" if left else "",
        )
        if job.waiting is not None:
            self._print_once(line)
        elif job.state == JobState.RUNNING and job.progress is not None and job.progress.phase not in list(Phase):
            # Epochs have lines of their own.
            self._print_once(phase_name(job.progress.phase))

    def show_event(self, event: Event) -> None:
        """An epoch with its numbers, or what else has happened."""
        if event.type in SILENT_EVENTS:
            return
        line = event_line(event)
        if event.type == "epoch":
            self._score = epoch_score(event.data)
            # The line has more numbers than fit beside a bar.
            self.progress.update(self.task, description="  ".join(line.split("  ")[:2]))
        else:
            self.progress.update(self.task, description=line)
        self._print_once(line)

    def _print_once(self, line: str) -> None:
        if not display.stderr.is_terminal and line != self._told:
            display.stderr.print(line, soft_wrap=True)
            self._told = line


def event_line(event: Event) -> str:
    """An event in a line."""
    lines = {
        "epoch": epoch_line,
        "teacher_measured": measured_line,
        "student_measured": student_line,
        "student_chosen": chosen_line,
    }
    return lines[event.type](event.data) if event.type in lines else event.type.replace("_", " ")


def student_line(data: dict[str, Any]) -> str:
    """One student of a plan in a line."""
    parts = [f"student {data.get('number')} of {data.get('students')}: {sum(data.get('blocks', []))} blocks"]
    for name in ("untrained", "repaired"):
        if (agreed := display.value_at(data, name, "agreement", "val")) is not None:
            parts.append(f"{name} agreement {agreed:.2f} %")
    return ", ".join(parts)


def measured_line(data: dict[str, Any]) -> str:
    """What was measured of the teacher before training."""
    numbers = {name: value for name, value in data.items() if isinstance(value, int | float) and name != "samples"}
    shown = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}{_interval_of(data) if name == 'accuracy' else ''}"
        for name, value in numbers.items()
    )
    split = str(data.get("split", Split.VALIDATION))
    line = f"teacher on the {display.SPLIT_WORDS.get(split, split)} split: {shown}" if shown else "teacher measured"
    return f"{line}. Warning: {data['note']}" if data.get("note") else line


def _interval_of(data: dict[str, Any]) -> str:
    """How certain a measured accuracy is."""
    if not data.get("interval"):
        return ""
    low, high = data["interval"]
    return f" (95 % interval {low:.4g} to {high:.4g}, {data.get('samples')} samples)"


def chosen_line(data: dict[str, Any]) -> str:
    """Which student the trainer chose, and for a target what is expected of it."""
    blocks, target = ", ".join(map(str, data.get("blocks", []))), data.get("target")
    if not target:
        return f"student: depth {data.get('depth')}, blocks {blocks}"
    teacher, expected = (display.format_value("{:,.4g}", target.get(name)) for name in ("teacher", "expected"))
    asked = display.target_text(target.get("asked", {}))
    return f"student for {asked}: blocks {blocks}, expected {expected} {target.get('unit')} (teacher {teacher})"
