"""`litc study`: create studies, follow them, and show their tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lit_client.command import study_display, study_following
from lit_client.command.completion import complete_study
from lit_client.command.job_request import (
    BadRequest,
    Body,
    build_body,
    dataset_options,
    image_options,
    parse_architecture,
    target_option,
    tracking_options,
)
from lit_client.command.options import (
    ArchitectureOption,
    ExpectAccuracyOption,
    ExperimentOption,
    JsonOption,
    NormalizeOption,
    NoTrackOption,
    SetOption,
    SizeOption,
    TargetOption,
    TensorboardOption,
    UrlOption,
    WeightsOption,
)
from lit_client.command.output import delete_each, exit_code_of_study, show
from lit_client.command.study_following import end, follow, send_and_follow
from lit_client.command.study_request import check_study, parse_arms, parse_numbers, read_study
from lit_client.synchronous.client import Client
from lit_spec import Device, Init

app = typer.Typer(
    help="Groups of jobs from one request, with one table as the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

JOB_PANEL, STUDY_PANEL = "The job that every trial starts from", "The study"

TeacherArgument = Annotated[
    str,
    typer.Argument(
        metavar="TEACHER", help="The trained network: a safetensors or .pt file, a student's folder, or an upload's id."
    ),
]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's id.", autocompletion=complete_study)]
DatasetOption = Annotated[
    str | None, typer.Option(help="A file, an upload's id, s3://…, or the word digits.", rich_help_panel=JOB_PANEL)
]
DepthOption = Annotated[
    int | None, typer.Option(help="The student's depth, for example 14.", rich_help_panel=JOB_PANEL)
]
EpochsOption = Annotated[int | None, typer.Option(help="Epochs of the first phase.", rich_help_panel=JOB_PANEL)]
FineTuneEpochsOption = Annotated[int | None, typer.Option(help="Epochs of fine-tuning.", rich_help_panel=JOB_PANEL)]
DeviceOption = Annotated[Device | None, typer.Option(help="Where to train.", rich_help_panel=JOB_PANEL)]
RequestOption = Annotated[
    Path | None,
    typer.Option("--request", help="The job's request as a JSON file; options override it.", exists=True),
]
SeedsOption = Annotated[str | None, typer.Option(help="Run every configuration with each of these, as 0,1,2.")]
NameOption = Annotated[str | None, typer.Option(help="A name to find the study by.", rich_help_panel=STUDY_PANEL)]
TagsOption = Annotated[list[str] | None, typer.Option("--tag", help="May be repeated.", rich_help_panel=STUDY_PANEL)]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder for the best job's student.", file_okay=False, rich_help_panel=STUDY_PANEL
    ),
]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="Print the study's id and leave it running.", rich_help_panel=STUDY_PANEL)
]


@app.command("compare")
def compare(
    teacher: TeacherArgument,
    methods: Annotated[
        list[str],
        typer.Option("--method", help="An arm: lit, kd, at, scratch, prune, hint, …, or a JSON object. Repeat it."),
    ],
    inits: Annotated[
        list[Init] | None, typer.Option("--init", help="Run each arm with each of these; may be repeated.")
    ] = None,
    seeds: SeedsOption = None,
    dataset: DatasetOption = None,
    architecture: ArchitectureOption = None,
    teacher_weights: WeightsOption = None,
    size: SizeOption = None,
    normalize: NormalizeOption = None,
    expect_accuracy: ExpectAccuracyOption = None,
    depth: DepthOption = None,
    target: TargetOption = None,
    epochs: EpochsOption = None,
    fine_tune_epochs: FineTuneEpochsOption = None,
    device: DeviceOption = None,
    experiment: ExperimentOption = None,
    no_track: NoTrackOption = False,
    tensorboard: TensorboardOption = False,
    settings: SetOption = None,
    request_file: RequestOption = None,
    name: NameOption = None,
    tags: TagsOption = None,
    folder: OutputOption = None,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run methods, initialisations and seeds side by side."""
    others = {
        **_student(depth, target),
        **image_options(size, normalize, expect_accuracy),
        **tracking_options(experiment, no_track, tensorboard),
        "teacher_weights": teacher_weights,
    }
    job = job_request(request_file, settings, dataset, architecture, others, epochs, fine_tune_epochs, device)
    fields = {"methods": parse_arms(methods), "inits": inits}
    body = study_request("compare", job, fields, seeds, name, tags)
    end(send_and_follow(url, body, teacher, dataset, folder, detach, as_json))


@app.command("search")
def search(
    teacher: TeacherArgument,
    taus: Annotated[str | None, typer.Option(help="Temperatures to try first, as 1,2,4.")] = None,
    alphas: Annotated[str | None, typer.Option(help="Weights of the labels to try then.")] = None,
    betas: Annotated[str | None, typer.Option(help="Weights of the KD loss to try last.")] = None,
    seeds: SeedsOption = None,
    dataset: DatasetOption = None,
    architecture: ArchitectureOption = None,
    teacher_weights: WeightsOption = None,
    size: SizeOption = None,
    normalize: NormalizeOption = None,
    expect_accuracy: ExpectAccuracyOption = None,
    depth: DepthOption = None,
    target: TargetOption = None,
    epochs: EpochsOption = None,
    fine_tune_epochs: FineTuneEpochsOption = None,
    device: DeviceOption = None,
    experiment: ExperimentOption = None,
    no_track: NoTrackOption = False,
    tensorboard: TensorboardOption = False,
    settings: SetOption = None,
    request_file: RequestOption = None,
    name: NameOption = None,
    tags: TagsOption = None,
    folder: OutputOption = None,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find tau, then alpha, then beta, each on the validation split."""
    others = {
        **_student(depth, target),
        **image_options(size, normalize, expect_accuracy),
        **tracking_options(experiment, no_track, tensorboard),
        "teacher_weights": teacher_weights,
    }
    job = job_request(request_file, settings, dataset, architecture, others, epochs, fine_tune_epochs, device)
    grids = {"taus": taus, "alphas": alphas, "betas": betas}
    fields = {grid: parse_numbers(f"--{grid}", text, float) for grid, text in grids.items() if text is not None}
    body = study_request("search", job, fields, seeds, name, tags)
    end(send_and_follow(url, body, teacher, dataset, folder, detach, as_json))


@app.command("depth")
def depth(
    teacher: TeacherArgument,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(help="Find the shallowest student that loses no more points of accuracy.")
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="Try all depths; mark those that no other one beats.")] = False,
    depths: Annotated[str | None, typer.Option(help="Try only these, as 8,14,20.")] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early/--no-stop-early", help="Stop trials that can't reach what is needed.")
    ] = True,
    seeds: SeedsOption = None,
    dataset: DatasetOption = None,
    architecture: ArchitectureOption = None,
    teacher_weights: WeightsOption = None,
    size: SizeOption = None,
    normalize: NormalizeOption = None,
    expect_accuracy: ExpectAccuracyOption = None,
    epochs: EpochsOption = None,
    fine_tune_epochs: FineTuneEpochsOption = None,
    device: DeviceOption = None,
    experiment: ExperimentOption = None,
    no_track: NoTrackOption = False,
    tensorboard: TensorboardOption = False,
    settings: SetOption = None,
    request_file: RequestOption = None,
    name: NameOption = None,
    tags: TagsOption = None,
    folder: OutputOption = None,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find how shallow a student may be. Exit code 3: no depth is good enough."""
    others = {
        **image_options(size, normalize, expect_accuracy),
        **tracking_options(experiment, no_track, tensorboard),
        "teacher_weights": teacher_weights,
    }
    job = job_request(request_file, settings, dataset, architecture, others, epochs, fine_tune_epochs, device)
    fields: dict[str, Any] = {
        "max_accuracy_drop": max_accuracy_drop,
        "front": front or None,
        "depths": None if depths is None else parse_numbers("--depths", depths, int),
        "stop_early": None if stop_early else False,
    }
    body = study_request("depth", job, fields, seeds, name, tags)
    end(send_and_follow(url, body, teacher, dataset, folder, detach, as_json))


@app.command("run")
def run_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, help="A study's request as JSON.")],
    teacher: Annotated[str | None, typer.Option(help="The teacher, unless the file names an upload.")] = None,
    dataset: DatasetOption = None,
    folder: OutputOption = None,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the study that a file describes."""
    body = read_study(file)
    body["job"] = {**body.get("job", {})}
    body["job"] |= build_body(None, dataset_options(dataset), [])
    source = teacher or body["job"].get("teacher")
    if source is None:
        raise BadRequest(f"{file} names no teacher: add job.teacher, or give --teacher.")
    check_study(body)
    end(send_and_follow(url, body, source, dataset, folder, detach, as_json))


@app.command("list")
def list_studies(
    state: Annotated[str | None, typer.Option(help="running, succeeded, failed or cancelled.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only studies with this tag.")] = None,
    name: Annotated[str | None, typer.Option(help="Only studies with this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List studies, newest first."""
    with Client(url) as client:
        found = list(client.studies(state=state, tag=tag, name=name, limit=limit))
    show([study.model_dump(mode="json") for study in found], study_display.studies_table(found), as_json)


@app.command("show")
def show_study(
    study_id: StudyArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it until it has finished; exit codes as of compare.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a study with its table so far, or follow it until it has finished."""
    with Client(url) as client:
        study = follow(client, study_id) if wait else client.study(study_id)
    study_following.show_study(study, as_json)
    if wait:
        raise typer.Exit(exit_code_of_study(study))


@app.command("table")
def show_table(
    study_id: StudyArgument,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, with all columns.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a study's table so far, for people or programs."""
    with Client(url) as client:
        if as_csv:
            typer.echo(client.study_csv(study_id), nl=False)
            return
        study = client.study(study_id)
    show(study.table and study.table.model_dump(mode="json"), study_display.study_table(study), as_json)


@app.command("cancel")
def cancel_study(study_id: StudyArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Cancel a study; running trials stop within seconds."""
    with Client(url) as client:
        study = client.cancel_study(study_id)
    show(study.model_dump(mode="json"), f"{study.id}: {study_display.status(study)}", as_json)


@app.command("resume")
def resume_study(study_id: StudyArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Continue a finished study: failed and cancelled trials are run again."""
    with Client(url) as client:
        study = client.resume_study(study_id)
    show(study.model_dump(mode="json"), f"{study.id}: {study_display.status(study)}", as_json)


@app.command("delete")
def delete_studies(
    study_ids: Annotated[
        list[str], typer.Argument(metavar="STUDY…", help="Studies' ids.", autocompletion=complete_study)
    ],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove finished studies with their jobs and files. One that can't be removed doesn't keep the others."""
    with Client(url) as client:
        delete_each(study_ids, client.delete_study, as_json)


def _student(depth: int | None, target: str | None) -> dict[str, float]:
    """Paths into the request with their values."""
    if depth is not None and target is not None:
        raise BadRequest("Both --depth and --target are given: give one of them.")
    return target_option(target) if depth is None else {"student.depth": depth}


def job_request(
    request_file: Path | None,
    settings: list[str] | None,
    dataset: str | None,
    architecture: str | None,
    others: Mapping[str, object | None],
    epochs: int | None,
    fine_tune_epochs: int | None,
    device: Device | None,
) -> Body:
    options = {
        "architecture": None if architecture is None else parse_architecture(architecture),
        **others,
        "schedule.lit.epochs": epochs,
        "schedule.fine_tune.epochs": fine_tune_epochs,
        "device": device,
        **dataset_options(dataset),
    }
    return build_body(request_file, options, settings or [])


def study_request(
    kind: str, job: Body, fields: dict[str, Any], seeds: str | None, name: str | None, tags: list[str] | None
) -> Body:
    given = {
        **fields,
        "seeds": None if seeds is None else parse_numbers("--seeds", seeds, int),
        "name": name,
        "tags": tags or None,
    }
    body = {"kind": kind, "job": job, **{key: value for key, value in given.items() if value is not None}}
    check_study(body)
    return body
