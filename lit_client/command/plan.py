"""`litc plan`: what a range of students would cost and keep, before any training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from lit_client.command import display
from lit_client.command.job_request import image_options, tracking_options
from lit_client.command.options import (
    ArchitectureOption,
    ExpectAccuracyOption,
    ExperimentOption,
    JsonOption,
    NormalizeOption,
    NoTrackOption,
    SetOption,
    SizeOption,
    UrlOption,
    WeightsOption,
)
from lit_client.command.study_commands import (
    DatasetOption,
    DetachOption,
    DeviceOption,
    NameOption,
    RequestOption,
    TagsOption,
    TeacherArgument,
    job_request,
    study_request,
)
from lit_client.command.study_display import kept_text
from lit_client.command.study_following import end, send_and_follow
from lit_client.models import Study


def plan_command(
    teacher: TeacherArgument,
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the picture and the report.", file_okay=False)
    ] = Path("plan"),
    dataset: DatasetOption = None,
    architecture: ArchitectureOption = None,
    teacher_weights: WeightsOption = None,
    size: SizeOption = None,
    normalize: NormalizeOption = None,
    expect_accuracy: ExpectAccuracyOption = None,
    students: Annotated[int | None, typer.Option(help="How many students; default 6.")] = None,
    batch: Annotated[int | None, typer.Option(help="For the latencies: samples in one pass; default 1.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Measure each student after its repair too; takes some minutes more.")
    ] = False,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Ignore labels.")] = False,
    device: DeviceOption = None,
    experiment: ExperimentOption = None,
    no_track: NoTrackOption = False,
    settings: SetOption = None,
    request_file: RequestOption = None,
    name: NameOption = None,
    tags: TagsOption = None,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what students of several depths would cost and keep. Trains nothing; takes a minute or two."""
    others = {
        **image_options(size, normalize, expect_accuracy),
        **tracking_options(experiment, no_track),
        "teacher_weights": teacher_weights,
        "dataset.labels": False if no_labels else None,
    }
    job = job_request(request_file, settings, dataset, architecture, others, None, None, device)
    fields: dict[str, Any] = {"students": students, "batch": batch, "repair": repair or None}
    body = study_request("plan", job, fields, None, name, tags)
    study = send_and_follow(url, body, teacher, dataset, None if detach else folder, detach, as_json)
    if not as_json and (example := _example(study)) is not None:
        given = [("--dataset", dataset), ("--architecture", architecture), ("--size", size), ("--normalize", normalize)]
        given += [("--teacher-weights", teacher_weights), ("--device", device), ("--url", url)]
        given += [("--request", None if request_file is None else str(request_file))]
        given += [("--set", setting) for setting in settings or []]
        options = [word for option, value in given if value is not None for word in (option, value)]
        words = [teacher, *options, *["--no-labels"] * _is_unlabelled(study), "--kept", kept_text(example["kept"])]
        words += [*["--repair"] * (example["repaired"] is not None), "-o", "student"]
        display.stdout.print(f"To make one of them: {shlex.join(['litc', 'compress', *words])}", soft_wrap=True)
    end(study)


def _is_unlabelled(study: Study) -> bool:
    return study.table is not None and study.table.validation_metric == "agreement"


def _example(study: Study) -> dict[str, Any] | None:
    """The row of a student in the middle of the front."""
    front = [row for row in (study.table.rows if study.table else []) if row.get("front")]
    return front[len(front) // 2] if front else None
