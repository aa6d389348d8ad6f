"""What `litc study` shows: a study's table and progress, and lists of studies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.table import Table

from lit_client.command import display
from lit_client.command.display import FittedTable
from lit_client.models import Study
from lit_spec import Split
from lit_spec.answers.studies import TeacherRow
from lit_spec.trainer.plan import MeasuredStudents

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


def _number(name: str, form: str = "{:.2f}") -> Callable[[Row], str]:
    return lambda row: _format(form, row.get(name))


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(name) is None else str(row[name])


def _interval(mean: str, low: str, high: str) -> Callable[[Row], str]:
    """`97.10 (96.80 … 97.40)`, or the mean alone."""

    def show(row: Row) -> str:
        text = _format("{:.2f}", row.get(mean))
        if row.get(low) is None:
            return text
        return f"{text} ({row[low]:.2f} … {row[high]:.2f})"

    return show


def _trials(row: Row) -> str:
    """`3/5`, and what became of the others."""
    others = [f"{row[name]} {name}" for name in ("failed", "stopped") if row.get(name)]
    return ", ".join([f"{row.get('succeeded', 0)}/{row.get('trials', 0)}", *others])


def kept_text(kept: Sequence[Sequence[int]]) -> str:
    """As `litc compress --kept` takes it: `0/0,2`."""
    return "/".join(",".join(map(str, section)) for section in kept)


def _yes_or_no(name: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else "yes" if value else "no"

    return show


_VALIDATION: Column = ("val", _number("validation_mean"))
_TEST: Column = ("test (95 % interval)", _interval("test_mean", "test_low", "test_high"))
_PARAMETERS: Column = ("parameters", _number("parameters", "{:,}"))
_SECONDS: Column = ("seconds", _number("seconds", "{:.1f}"))
_TRIALS: Column = ("trials", _trials)
PLAN: tuple[Column, ...] = (
    ("depth", _text("depth")),
    ("kept", lambda row: kept_text(row["kept"])),
    ("size (MB)", lambda row: f"{row['file_size'] / 1e6:.2f}"),
    ("latency (ms)", _number("latency_ms", "{:.3f}")),
    ("speedup", _number("speedup")),
    ("damage", _number("damage", "{:.3f}")),
    ("untrained", _number("untrained")),
    ("repaired", _number("repaired")),
    ("front", _yes_or_no("front")),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "compare": (
        ("arm", _text("arm")),
        _TRIALS,
        _VALIDATION,
        _TEST,
        ("difference to the first", _interval("difference_mean", "difference_low", "difference_high")),
        _PARAMETERS,
        _SECONDS,
    ),
    "search": (
        ("stage", _text("stage")),
        ("τ", _text("tau")),
        ("α", _text("alpha")),
        ("β", _text("beta")),
        _TRIALS,
        _VALIDATION,
        _TEST,
        _SECONDS,
    ),
    "depth": (
        ("depth", _text("depth")),
        _TRIALS,
        _VALIDATION,
        ("drop, val", _number("validation_drop")),
        ("good enough", _yes_or_no("within")),
        _TEST,
        _PARAMETERS,
        ("latency (ms)", _number("latency_ms", "{:.3f}")),
        ("speedup", _number("speedup")),
        ("front", _yes_or_no("front")),
        _SECONDS,
    ),
    "plan": PLAN,
}


DISPENSABLE = (
    "seconds",
    "parameters",
    "size (MB)",
    "damage",
    "front",
    "stage",
    "latency (ms)",
    "trials",
    "good enough",
    "speedup",
    "val",
)
"""The columns that a narrow window shows last."""


def study_table(study: Study) -> FittedTable:
    """The table so far, with a star before the chosen row."""
    found = study.table
    columns = COLUMNS.get(study.kind) or tuple((name, _text(name)) for name in (found.columns if found else ()))

    def make(left_out: Collection[str]) -> Table:
        shown = [column for column in columns if column[0] not in left_out]
        table = Table("", *(label for label, _ in shown), title=title(study), title_justify="left")
        for row in found.rows if found else ():
            table.add_row("*" if row.get("chosen") else "", *(show(row) for _, show in shown))
        if found is not None and found.teacher is not None:
            table.caption = f"{found.test_metric or found.validation_metric}; the teacher: {_teacher(found.teacher)}"
            table.caption_justify = "left"
        return table

    return FittedTable(make, _dispensable(columns))


def _dispensable(columns: Sequence[Column]) -> list[str]:
    """Of a newer service's kind of study only the first column is known to be needed."""
    labels = [label for label, _ in columns]
    known = [label for label in DISPENSABLE if label in labels]
    return known or list(reversed(labels[1:]))


def plan_table(result: dict[str, Any]) -> FittedTable:
    """The students of a plan, from its job's `result`."""
    found = MeasuredStudents.model_validate(result)

    def make(left_out: Collection[str]) -> Table:
        shown = [column for column in PLAN if column[0] not in left_out]
        caption = f"{found.metric}, {Split.VALIDATION}"
        table = Table(*(label for label, _ in shown), caption=caption, caption_justify="left")
        for row in found.rows:
            table.add_row(*(show(row) for _, show in shown))
        return table

    return FittedTable(make, _dispensable(PLAN))


def _teacher(row: TeacherRow) -> str:
    parts = [
        ("{:.2f} test", row.test),
        ("{:.2f} val", row.validation),
        ("{:,} parameters", row.parameters),
        ("{:.3f} ms", row.latency_ms),
    ]
    return ", ".join(_format(form, value) for form, value in parts if value is not None)


def title(study: Study) -> str:
    named = f" {study.name}" if study.name else ""
    return f"{study.kind} {study.id}{named}: {status(study)}"


def status(study: Study) -> str:
    """State and number of trials, in one line."""
    progress = study.progress
    parts = [f"{study.state}, {progress.finished} of at most {progress.planned} trials"]
    parts += [
        f"{count} {name}"
        for name in ("running", "queued", "failed", "cancelled", "stopped")
        if (count := getattr(progress, name))
    ]
    if study.cancel_requested and not study.finished:
        parts.append("cancel requested")
    return ", ".join(parts)


def result_lines(study: Study) -> list[str]:
    """The choice and the best job, or why the study failed."""
    lines = []
    if study.choice is not None:
        lines.append("chosen: " + ", ".join(f"{name} {_as_text(value)}" for name, value in study.choice.items()))
    if study.best_job is not None:
        lines.append(f"best job: {study.best_job}")
    if study.error is not None:
        lines.append(f"failed: {study.error}")
    return lines


def studies_table(studies: Iterable[Study]) -> FittedTable:
    rows = [
        {
            "id": study.id,
            "name": study.name or "",
            "kind": study.kind,
            "state": str(study.state),
            "trials": f"{study.progress.finished}/{study.progress.planned}",
            "created": display.format_minute(study.created_at),
        }
        for study in studies
    ]

    def make(left_out: Collection[str]) -> Table:
        return display.table_of(["id", "name", "kind", "state", "trials", "created"], rows, left_out)

    return FittedTable(make, ["created", "trials"])


@contextmanager
def live_table() -> Iterator[Callable[[Study], None]]:
    """On a terminal a table that is kept up to date; elsewhere a line whenever the study has changed."""
    if display.stderr.is_terminal:
        with Live(console=display.stderr, auto_refresh=False, transient=True) as live:
            yield lambda study: live.update(study_table(study), refresh=True)
        return
    printed: list[str] = []

    def print_if_new(study: Study) -> None:
        line = status(study)
        if printed[-1:] != [line]:
            display.stderr.print(line)
            printed.append(line)

    yield print_if_new


def _as_text(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _format(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)
