"""What `litc` shows: tables on stdout, progress on stderr, so that a pipe gets only the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

from lit_client.files import ProgressCallback
from lit_client.models import (
    Architecture,
    ArchitectureItem,
    Event,
    Inspection,
    Job,
    LibraryArchitecture,
    StudentOption,
    Upload,
)
from lit_spec import Phase, Split, Task

PIPE_WIDTH = 1000
SPLIT_WORDS: dict[str, str] = {split.value: split.word for split in Split}
PHASE_NAMES: dict[str, str] = {
    Phase.LIT: "LIT",
    Phase.FINE_TUNE: "fine-tuning",
    Phase.PRUNE: "fine-tuning of the pruned",
}

# Without markup: a name such as "[red]" is shown as it is.
stdout = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False)
stderr = Console(stderr=True, highlight=False, markup=False)


@contextmanager
def transfer_bar(title: str) -> Iterator[ProgressCallback]:
    """A bar over the bytes of an upload or download."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class EpochBar:
    """A bar over the epochs of all phases; without a terminal one line for each epoch."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=stderr, disable=not stderr.is_terminal)
        self.task = self.progress.add_task("queued", total=None)
        self.epochs: dict[str, int] = {}
        self.waiting: str | None = None

    def show_job(self, job: Job) -> None:
        """Read the number of epochs, and say why a queued job waits."""
        if not is_plan(job):
            self.epochs = {phase.value: job.epochs_of(phase) for phase in Phase}
            self.progress.update(self.task, total=sum(self.epochs.values()))
        waiting = job.waiting.detail if job.waiting else None
        if waiting and waiting != self.waiting:
            self._describe(f"queued: {waiting}")
        self.waiting = waiting

    def show_event(self, event: Event) -> None:
        """Move on with an epoch, and name other events."""
        if event.type == "epoch":
            self._show_epoch(event.data)
        elif event.type == "teacher_measured":
            self._describe(measured_line(event.data))
        elif event.type == "student_measured":
            self._show_student(event.data)
        elif event.type == "student_chosen":
            self._describe(chosen_line(event.data))
        elif event.type not in {"checkpoint", "started"}:
            self._describe(event.type.replace("_", " "))

    def _show_epoch(self, data: dict[str, Any]) -> None:
        before = takewhile(lambda phase: phase != data.get("phase"), self.epochs)
        done = sum(self.epochs[phase] for phase in before) + int(data.get("epoch", 0))
        self.progress.update(self.task, completed=done)
        self._describe(epoch_line(data))

    def _show_student(self, data: dict[str, Any]) -> None:
        self.progress.update(self.task, completed=data.get("number"), total=data.get("students"))
        self._describe(student_line(data))

    def _describe(self, text: str) -> None:
        self.progress.update(self.task, description=text)
        if not stderr.is_terminal:
            stderr.print(text)


EPOCH_METRICS = (
    ("student_accuracy", "student {:.2f} %"),
    ("teacher_accuracy", "teacher {:.2f} %"),
    ("agreement", "agreement {:.2f} %"),
    ("psnr", "PSNR {:.2f} dB"),
    ("validation_ir_loss", "IR loss {:.4g}"),
)


def is_plan(job: Job) -> bool:
    return _value_at(job.spec, "student", "plan") is not None


def student_line(data: dict[str, Any]) -> str:
    """One student of a plan in a line."""
    parts = [f"student {data.get('number')} of {data.get('students')}: {sum(data.get('blocks', []))} blocks"]
    for name in ("untrained", "repaired"):
        if (agreed := _value_at(data, name, "agreement", "val")) is not None:
            parts.append(f"{name} agreement {agreed:.2f} %")
    return ", ".join(parts)


def epoch_line(data: dict[str, Any]) -> str:
    """One epoch in a line: phase, number and what was measured on the validation split."""
    metrics = data.get("metrics", {})
    phase = PHASE_NAMES.get(str(data.get("phase")), str(data.get("phase")))
    shown = [form.format(metrics[name]) for name, form in EPOCH_METRICS if metrics.get(name) is not None]
    return "  ".join([f"{phase} {data.get('epoch')}/{data.get('epochs')}", *shown])


def measured_line(data: dict[str, Any]) -> str:
    """What was measured of the teacher before training."""
    numbers = {name: value for name, value in data.items() if isinstance(value, int | float) and name != "samples"}
    shown = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}{_interval_of(data) if name == 'accuracy' else ''}"
        for name, value in numbers.items()
    )
    split = str(data.get("split", Split.VALIDATION))
    line = f"teacher on the {SPLIT_WORDS.get(split, split)} split: {shown}" if shown else "teacher measured"
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
    teacher, expected = (_format("{:,.4g}", target.get(name)) for name in ("teacher", "expected"))
    asked = target_text(target.get("asked", {}))
    return f"student for {asked}: blocks {blocks}, expected {expected} {target.get('unit')} (teacher {teacher})"


def jobs_table(jobs: Iterable[Job]) -> Table:
    table = Table("id", "name", "state", "progress", "student", "test", "created")
    table.columns[0].no_wrap = True
    for job in jobs:
        table.add_row(
            job.id,
            job.name or "",
            job.state,
            _format_percent(None if job.progress is None else job.progress.fraction * 100),
            _student_of(job),
            _test_score(job),
            _format_time(job.created_at),
        )
    return table


def _student_of(job: Job) -> str:
    """Its depth, or what it is to reach as long as only the trainer knows the depth."""
    depth = _value_at(job.result, "student", "depth") or _value_at(job.spec, "student", "depth")
    if depth is not None:
        return f"depth {depth}"
    if is_plan(job):
        return "a plan"
    target = _value_at(job.spec, "student", "target")
    return target_text(target) if isinstance(target, dict) else ""


def target_text(target: dict[str, Any]) -> str:
    """A request's target, also one of a newer service."""
    return ", ".join(f"{name} {value:g}" for name, value in target.items() if value is not None and name != "batch")


def _test_score(job: Job) -> str:
    """The student's accuracy on the test split, or else how close it is to the teacher."""
    accuracy, agreement, psnr = (
        _value_at(job.result, "student", name, "test") for name in ("accuracy", "agreement", "psnr")
    )
    if accuracy is not None:
        return _format_percent(accuracy)
    return _format("{:.1f} % agree", agreement) or _format("{:.1f} dB", psnr)


def job_table(job: Job) -> Table:
    """One job: state, progress, errors and times."""
    table = Table("job", job.id)
    rows: list[tuple[str, object]] = [
        ("name", job.name),
        ("tags", ", ".join(job.tags)),
        ("state", job.state + (" (cancel requested)" if job.cancel_requested and not job.finished else "")),
        ("waits", job.waiting and job.waiting.detail),
        ("progress", job.progress and f"{job.progress.phase} {job.progress.epoch}/{job.progress.epochs}"),
        ("error", job.error),
        ("study", job.study_id),
        ("trial", job.trial and ", ".join(f"{name} {value}" for name, value in job.trial.items())),
        ("accepted", job.accepted),
        ("outcome", _value_at(job.result, "outcome")),
        ("device", job.device),
        ("attempt", f"{job.attempt} ({job.failures} failed)"),
        ("created", _format_time(job.created_at)),
        ("started", _format_time(job.started_at)),
        ("finished", _format_time(job.finished_at)),
    ]
    for label, value in rows:
        if value is not None and value != "":
            table.add_row(label, str(value))
    return table


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
        teacher, student = _value_at(result, "teacher", *path), _value_at(result, "student", *path)
        untrained = _value_at(result, "baselines", "untrained", *path)
        ratio = _value_at(result, "ratios", ratio_name) if ratio_name else None
        if teacher is not None or student is not None:
            cells = [_format(form, value) for value in (teacher, student, untrained)]
            table.add_row(label, *cells, _format("{:.2f}", ratio))
    return table


def note_lines(result: dict[str, Any]) -> list[str]:
    """What the report remarks. Last is what is wrong with the student, if anything is."""
    return [f"Note: {note}." for note in result.get("notes", [])]


def decision_lines(job: Job) -> list[str]:
    """How much accuracy the student lost, on how many samples, and whether that is accepted."""
    result, accept = job.result or {}, _value_at(job.spec, "accept") or {}
    samples = result.get("accuracy_drop_samples")
    if samples is not None:
        low, high = result.get("accuracy_drop_interval") or (None, None)
        most = "at most " * (result.get("accuracy_drop_is") != "measured")
        line = f"Accuracy drop: {most}{_format('{:.2f}', result.get('accuracy_drop'))} points on {samples} test samples"
        line += "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
        allowed = _format("{:g} points", accept.get("max_accuracy_drop"))
    elif accept.get("min_psnr") is not None:
        psnr = _format("{:.2f} dB", _value_at(result, "student", "psnr", "test"))
        line = f"PSNR to the teacher: {psnr} on {_value_at(result, 'samples', 'test')} test samples"
        allowed = _format("{:g} dB", accept["min_psnr"])
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
            _format("{:.2f}", _value_at(row, "accuracy", "test")),
            _format("{:.2f}", _value_at(row, "agreement", "test")),
            _format("{:,}", row.get("parameters")),
            _format("{:.2f}", row.get("parameters_ratio")),
            f"failed: {row['error']}" if row.get("error") else _format("{:,}", row.get("file_size")),
        )
    return table


def exports_table(rows: Iterable[dict[str, Any]]) -> Table:
    """How the student's other formats compare with it, from a job's `result` or a report."""
    table = Table("also as", "file", "largest difference", "same answers, test (%)", "accuracy, test (%)")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        error, reads = row.get("error"), row.get("reads")
        file = f"{row.get('file')}, for {reads}" if reads else str(row.get("file"))
        table.add_row(
            str(row.get("kind")),
            f"failed: {error}" if error else file,
            _format("{:.1g}", row.get("max_abs_difference")),
            _format("{:.2f}", row.get("top1_agreement")),
            _format("{:.2f}", row.get("accuracy")),
        )
    return table


def inspection_table(upload: Upload, inspection: Inspection) -> Group:
    """A teacher, and what each depth of student saves."""
    found = inspection.architecture
    outputs = "classes" if found.task == Task.CLASSIFICATION else "domains"
    # Not the table's own title, which would be folded to the table's width.
    title = (
        f"{upload.filename}: {_family_and_name(upload, found)}, depth {found.depth}, "
        f"{inspection.parameters:,} parameters, {_input_description(found)}, "
        f"{found.classes} {outputs}, {inspection.format} ({upload.id})"
    )
    unwrapped = f"How the file was read: {'; '.join(inspection.unwrapped)}." if inspection.unwrapped else ""
    texts = (
        unwrapped,
        _other_weights(inspection),
        _measured_with(inspection),
        _library_preprocessing(inspection),
        _open_choices(found),
    )
    lines = [line for line in texts if line]
    return Group(title, _students_table(inspection.students), *lines)


def _other_weights(inspection: Inspection) -> str:
    """How to take the checkpoint's other weights, if it has others."""
    others = [choice for choice in inspection.weights_choices if choice != inspection.weights]
    return "".join(f"To take its other weights: --teacher-weights {other}." for other in others)


def _measured_with(inspection: Inspection) -> str:
    """For what input FLOPs and latency are, and on which machine the latency was measured."""
    if inspection.input_shape is None:
        return ""
    line = f"FLOPs of one input of {'x'.join(map(str, inspection.input_shape))}"
    latency = inspection.latency
    if latency is None:
        return f"{line}; its latency is only measured in smaller networks."
    machine = f"on the inspecting machine ({latency.device}, {latency.threads} threads)"
    return f"{line}. Latency of one such input {machine}, expected from the latency of each block."


def _library_preprocessing(inspection: Inspection) -> str:
    """What a job does with images unless its request says otherwise."""
    found = inspection.preprocessing
    if found is None:
        return ""
    size = "x".join(map(str, found.size))
    if found.resize is None:
        shape = f"resized to {size}"
    elif isinstance(found.resize, int):
        shape = f"resized to a shorter side of {found.resize}, {size} cut from the centre"
    else:
        shape = f"resized to {'x'.join(map(str, found.resize))}, {size} cut from the centre"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (found.mean, found.std))
    return (
        f"Images, unless the request says otherwise, as the library for its weights {found.weights}: {shape} "
        f"({found.resampling}), mean {mean}, std {std}."
    )


def _family_and_name(upload: Upload, found: Architecture) -> str:
    return found.family if upload.architecture is None else f"{found.family} {upload.architecture.name}"


def architectures_table(found: Sequence[ArchitectureItem]) -> Table:
    table = Table("network", "blocks", "parameters")
    table.columns[2].justify = "right"
    for item in found:
        blocks = ", ".join(map(str, item.blocks)) if item.refused is None else "refused"
        table.add_row(f"{item.library}/{item.name}", blocks, f"{item.parameters:,}")
    if any(item.refused is not None for item in found):
        table.caption, table.caption_justify = "litc sections LIBRARY/NAME says why one is refused", "left"
    return table


def architecture_table(found: LibraryArchitecture) -> Group | str:
    title = f"{found.library}/{found.name}: {found.parameters:,} parameters"
    if found.refused is not None:
        return f"{title}; {found.refused}"
    sections = Table("section", "blocks", "from", "to")
    for number, paths in enumerate(found.sections, start=1):
        sections.add_row(str(number), str(len(paths)), paths[0], paths[-1])
    table = _students_table(found.students)
    if found.size is None or found.students[-1].flops is None:
        return Group(title, sections, table)
    return Group(title, sections, table, f"FLOPs of one image of {'x'.join(map(str, found.size))} pixels.")


def _students_table(options: Sequence[StudentOption]) -> Table:
    """What each depth would save. The last one is the network itself."""
    caption = (
        "Blocks shared evenly. --ratio, --speedup and --target compare all shares; --blocks and --kept name others."
    )
    columns = ["depth", "blocks", "parameters", "teacher / student"]
    columns += ["MFLOPs", "teacher / student"] * any(option.flops for option in options)
    columns += ["latency (ms)", "teacher / student"] * any(option.latency_ms for option in options)
    table = Table(*columns, caption=caption, caption_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for option in options:
        row = [str(option.depth), ", ".join(map(str, option.blocks))]
        row += [f"{option.parameters:,}", f"{option.parameters_ratio:.3f}"]
        if option.flops and options[-1].flops:
            row += [f"{option.flops / 1e6:,.1f}", f"{options[-1].flops / option.flops:.3f}"]
        if option.latency_ms and options[-1].latency_ms:
            row += [f"{option.latency_ms:,.2f}", f"{options[-1].latency_ms / option.latency_ms:.3f}"]
        table.add_row(*row)
    return table


def _input_description(found: Architecture) -> str:
    return "texts" if found.channels is None else f"{found.channels} input channels"


def _open_choices(found: Architecture) -> str:
    """What the tensors leave open, in the words of a request."""
    return "\n".join(
        f"Assumed: teacher_options.{name}={found.options.get(name)}; it may be {', '.join(map(str, values))}"
        for name, values in found.choices.items()
    )


def files_table(files: Iterable[tuple[Path, int, str]]) -> Table:
    table = Table("file", "bytes", "sha256 (verified)")
    for path, size, sha256 in files:
        table.add_row(str(path), f"{size:,}", sha256)
    return table


def _value_at(value: Any, *path: str) -> Any:
    """A value deep in nested objects, or None if any part is missing."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _format(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


def _format_percent(value: float | None) -> str:
    return _format("{:.1f} %", value)


def _format_time(value: datetime | None) -> str:
    return "" if value is None else value.astimezone().isoformat(sep=" ", timespec="seconds")
