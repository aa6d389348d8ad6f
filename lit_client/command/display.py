"""What `litc` shows: tables on stdout, progress on stderr, so that a pipe gets only the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.segment import Segment
from rich.table import Table

from lit_client.files import ProgressCallback
from lit_client.models import Job, Upload
from lit_client.progress import phase_line, time_left
from lit_spec import Split
from lit_spec.shown import harmless
from lit_spec.trainer.report import Outcome

PIPE_WIDTH = 1000
SPLIT_WORDS: dict[str, str] = {split.value: split.word for split in Split}


class HarmlessConsole(Console):
    """A console that writes no control character but its own: names and messages come from others."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


# Without markup: a name such as "[red]" is shown as it is.
stdout = HarmlessConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False)
stderr = HarmlessConsole(stderr=True, highlight=False, markup=False)


@contextmanager
def transfer_bar(title: str) -> Iterator[ProgressCallback]:
    """A bar over the bytes of an upload or download."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@dataclass(frozen=True)
class FittedTable:
    """A table that leaves out columns, in the order `dispensable`, until the others fit into the window."""

    make: Callable[[Collection[str]], Table]
    """Of the table without the columns with these names."""
    dispensable: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out: list[str] = []
        table = self.make(left_out)
        for name in self.dispensable:
            if Measurement.get(console, options.update(width=PIPE_WIDTH), table).maximum <= options.max_width:
                break
            left_out.append(name)
            table = self.make(left_out)
        yield table
        if left_out:
            yield f"Too wide for the window, and left out: {', '.join(left_out)}. --json has all."


def is_plan(job: Job) -> bool:
    return value_at(job.spec, "student", "plan") is not None


def jobs_table(jobs: Iterable[Job]) -> FittedTable:
    cells = [
        {
            "id": job.id,
            "name": job.name or "",
            "state": f"{job.state} {_progress_of(job)}".rstrip(),
            "student": _student_of(job),
            "test": _test_score(job),
            "created": format_minute(job.created_at),
        }
        for job in jobs
    ]

    def make(left_out: Collection[str]) -> Table:
        return table_of(["id", "name", "state", "student", "test", "created"], cells, left_out)

    return FittedTable(make, ["created", "test", "student"])


def table_of(columns: Sequence[str], rows: Iterable[dict[str, str]], left_out: Collection[str] = ()) -> Table:
    """A table of these columns. The first one, an id, is never cut."""
    shown = [name for name in columns if name not in left_out]
    table = Table(*shown)
    table.columns[0].no_wrap = True
    table.columns[0].overflow = "ignore"
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table


def uploads_table(uploads: Iterable[Upload]) -> FittedTable:
    cells = [
        {
            "id": upload.id,
            "kind": str(upload.kind),
            "file": upload.filename,
            "bytes": f"{upload.size:,}" if upload.complete else f"{upload.received:,} of {upload.size:,}",
            "inspection": _inspection_of(upload),
            "created": format_minute(upload.created_at),
        }
        for upload in uploads
    ]

    def make(left_out: Collection[str]) -> Table:
        table = table_of(["id", "kind", "file", "bytes", "inspection", "created"], cells, left_out)
        table.columns[2].overflow = "fold"
        return table

    return FittedTable(make, ["created", "bytes"])


def _inspection_of(upload: Upload) -> str:
    if upload.inspection_error is not None:
        return f"unusable: {upload.inspection_error.type}"
    if upload.inspection is not None:
        return f"{upload.inspection.architecture.family}, depth {upload.inspection.architecture.depth}"
    return "not all is sent" if not upload.complete else str(upload.inspection_state or "")


def _progress_of(job: Job) -> str:
    """How far a running job is. A finished one has its state."""
    if job.progress is None or job.finished:
        return ""
    return f"{job.progress.fraction:.1%}"


def _student_of(job: Job) -> str:
    """Its depth, or what it is to reach as long as only the trainer knows the depth."""
    depth = value_at(job.result, "student", "depth") or value_at(job.spec, "student", "depth")
    if depth is not None:
        return f"depth {depth}"
    if is_plan(job):
        return "a plan"
    target = value_at(job.spec, "student", "target")
    return target_text(target) if isinstance(target, dict) else ""


def target_text(target: dict[str, Any]) -> str:
    """A request's target, also one of a newer service."""
    return ", ".join(f"{name} {value:g}" for name, value in target.items() if value is not None and name != "batch")


def _test_score(job: Job) -> str:
    """The student's accuracy on the test split, or else how close it is to the teacher."""
    accuracy, agreement, psnr = (
        value_at(job.result, "student", name, "test") for name in ("accuracy", "agreement", "psnr")
    )
    if accuracy is not None:
        return format_percent(accuracy)
    return format_value("{:.1f} % agree", agreement) or format_value("{:.1f} dB", psnr)


def job_table(job: Job) -> Table:
    """One job: state, progress, errors and times."""
    table = Table("job", job.id)
    rows: list[tuple[str, object]] = [
        ("name", job.name),
        ("tags", ", ".join(job.tags)),
        ("state", job.state + (" (cancel requested)" if job.cancel_requested and not job.finished else "")),
        ("waits", job.waiting and job.waiting.detail),
        ("progress", f"{phase_line(job)} ({_progress_of(job)})" if _progress_of(job) else None),
        ("time left", time_left(job)),
        ("error", job.error),
        ("study", job.study_id),
        ("trial", job.trial and ", ".join(f"{name} {value}" for name, value in job.trial.items())),
        ("accepted", job.accepted),
        ("outcome", value_at(job.result, "outcome")),
        *_tracking_rows(job),
        ("device", job.device),
        ("attempt", f"{job.attempt} ({job.failures} failed)"),
        ("created", format_time(job.created_at)),
        ("started", format_time(job.started_at)),
        ("finished", format_time(job.finished_at)),
    ]
    for label, value in rows:
        if value is not None and value != "":
            table.add_row(label, str(value))
    return table


def _tracking_rows(job: Job) -> list[tuple[str, object]]:
    """Where the job's run is, what the student was registered as, and what fails there."""
    if job.tracking is None:
        return []
    run = job.tracking.mlflow
    place = run.url or run.run_id or f"none at {run.tracking_uri} yet"
    registered = run.registered and f"{run.registered.name}, version {run.registered.version}"
    unfinished = " (not all is there yet)" * (job.finished and not run.complete)
    return [("MLflow run", place + unfinished), ("registered as", registered), ("MLflow error", run.error)]


RESULT_ROWS = (
    ("accuracy, test (%)", ("accuracy", "test"), "{:.2f}", None),
    ("accuracy, val (%)", ("accuracy", "val"), "{:.2f}", None),
    ("top-5, test (%)", ("top5", "test"), "{:.2f}", None),
    ("agreement, test (%)", ("agreement", "test"), "{:.2f}", None),
    ("calibration error, test (%)", ("calibration_error", "test"), "{:.2f}", None),
    ("PSNR to the teacher, test (dB)", ("psnr", "test"), "{:.2f}", None),
    ("SSIM to the teacher, test", ("ssim", "test"), "{:.4f}", None),
    ("FID, test", ("fid", "test"), "{:.2f}", None),
    ("Inception Score, test", ("inception_score", "test"), "{:.3f}", None),
    ("L1 to the teacher, test", ("l1", "test"), "{:.4f}", None),
    ("L1 there and back, test", ("reconstruction_l1", "test"), "{:.4f}", None),
    ("parameters", ("parameters",), "{:,}", "parameters"),
    ("FLOPs", ("flops",), "{:,}", "flops"),
    ("file (bytes)", ("file_size",), "{:,}", "file_size"),
    ("latency p50, batch 1 (ms)", ("latency", "batch_1", "p50_ms"), "{:.3f}", "latency_batch_1"),
    ("latency p95, batch 1 (ms)", ("latency", "batch_1", "p95_ms"), "{:.3f}", None),
    ("latency p50, batch 32 (ms)", ("latency", "batch_32", "p50_ms"), "{:.3f}", "latency_batch_32"),
    ("latency p95, batch 32 (ms)", ("latency", "batch_32", "p95_ms"), "{:.3f}", None),
)


def result_table(result: dict[str, Any], title: str | None = None) -> Table:
    """Teacher, student and untrained student side by side, from a job's `result` or a report."""
    table = Table("", "teacher", "student", "untrained", "teacher / student", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, path, form, ratio_name in RESULT_ROWS:
        teacher, student = value_at(result, "teacher", *path), value_at(result, "student", *path)
        untrained = value_at(result, "baselines", "untrained", *path)
        ratio = value_at(result, "ratios", ratio_name) if ratio_name else None
        if teacher is not None or student is not None:
            cells = [format_value(form, value) for value in (teacher, student, untrained)]
            table.add_row(label, *cells, format_value("{:.2f}", ratio))
    return table


def closing_lines(job: Job) -> list[str]:
    """What decides on the student and what the report remarks. Last is why it is not accepted, or else what is wrong
    with it, if anything is."""
    decision = decision_lines(job)
    notes = [f"Note: {note}." for note in (job.result or {}).get("notes", [])]
    # The outcome's note is the last one.
    is_drop = job.accepted is False and value_at(job.result, "outcome") in (None, Outcome.BETTER)
    return [*notes, *decision] if is_drop else [*decision, *notes]


def decision_lines(job: Job) -> list[str]:
    """How much accuracy the student lost, on how many samples, and whether that is accepted."""
    result, accept = job.result or {}, value_at(job.spec, "accept") or {}
    samples = result.get("accuracy_drop_samples")
    if samples is not None:
        low, high = result.get("accuracy_drop_interval") or (None, None)
        most = "at most " * (result.get("accuracy_drop_is") != "measured")
        drop = format_value("{:.2f}", result.get("accuracy_drop"))
        line = f"Accuracy drop: {most}{drop} points on {samples} test samples"
        line += "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
        allowed = format_value("{:g} points", accept.get("max_accuracy_drop"))
    elif accept.get("min_psnr") is not None:
        psnr = format_value("{:.2f} dB", value_at(result, "student", "psnr", "test"))
        line = f"PSNR to the teacher: {psnr} on {value_at(result, 'samples', 'test')} test samples"
        allowed = format_value("{:g} dB", accept["min_psnr"])
    else:
        return []
    if job.accepted is None or not allowed:
        return [f"{line}."]
    return [f"{line}, {'accepted' if job.accepted else 'not accepted'} (the limit is {allowed})."]


def operations_table(rows: Iterable[dict[str, Any]]) -> Table:
    """What each operation of `then` made of the student, from a job's `result` or a report."""
    table = Table("then", "accuracy, test (%)", "agreement, test (%)", "parameters", "teacher / this", "file (bytes)")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            str(row.get("step")),
            format_value("{:.2f}", value_at(row, "accuracy", "test")),
            format_value("{:.2f}", value_at(row, "agreement", "test")),
            format_value("{:,}", row.get("parameters")),
            format_value("{:.2f}", row.get("parameters_ratio")),
            f"failed: {row['error']}" if row.get("error") else format_value("{:,}", row.get("file_size")),
        )
    return table


def exports_table(rows: Iterable[dict[str, Any]]) -> Table:
    """How the student's other formats compare with it, from a job's `result` or a report."""
    table = Table(
        "also as", "file", "largest difference", "same answers, test (%)", "accuracy, test (%)", "p50, batch 1 (ms)"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        error, reads = row.get("error"), row.get("reads")
        file = f"{row.get('file')}, for {reads}" if reads else str(row.get("file"))
        table.add_row(
            str(row.get("kind")),
            f"failed: {error}" if error else file,
            format_value("{:.1g}", row.get("max_abs_difference")),
            format_value("{:.2f}", row.get("top1_agreement")),
            format_value("{:.2f}", row.get("accuracy")),
            format_value("{:.3f}", ((row.get("latency") or {}).get("batch_1") or {}).get("p50_ms")),
        )
    return table


def files_table(files: Iterable[tuple[Path, int, str]]) -> FittedTable:
    rows = [(str(path), f"{size:,}", sha256) for path, size, sha256 in files]

    def make(left_out: Collection[str]) -> Table:
        table = Table("file", "bytes", *["sha256 (verified)"] * ("sha256" not in left_out))
        table.columns[0].overflow = "fold"
        table.columns[1].justify = "right"
        for row in rows:
            table.add_row(*row[: len(table.columns)])
        return table

    return FittedTable(make, ["sha256"])


def value_at(value: Any, *path: str) -> Any:
    """A value deep in nested objects, or None if any part is missing."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def format_value(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


def format_percent(value: float | None) -> str:
    return format_value("{:.1f} %", value)


def format_minute(value: datetime) -> str:
    """For lists. Of this machine's time zone."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M")


def format_time(value: datetime | None) -> str:
    """Of this machine's time zone."""
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
