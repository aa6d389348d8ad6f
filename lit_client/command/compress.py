"""`litc compress`: upload, post, follow, fetch, in one command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lit_client.client import Client
from lit_client.command import display
from lit_client.command import output as answers
from lit_client.command.job_request import (
    SOURCES,
    TO_COME,
    BadRequest,
    Body,
    build_body,
    check_body,
    check_student,
    parse_architecture,
    parse_blocks,
)
from lit_client.command.options import ArchitectureOption, JsonOption, SetOption, UrlOption
from lit_client.downloads import DownloadedFile
from lit_client.models import Inspection, Job, Upload, UploadKind
from lit_spec import BUILTIN, Device, Export, Feed, Init, JobRequest, Method, Preset, Select

UPLOAD_PREFIX = "upl_"


@dataclass(frozen=True)
class Sources:
    """Files, or ids of uploads."""

    teacher: str
    discriminator: str | None
    dataset: str | None


METHOD, TRAINING, AROUND = "The method", "Training", "The job"


def compress_command(
    teacher: Annotated[
        str,
        typer.Argument(metavar="TEACHER", help="The trained network: a safetensors or .pt file, or an upload's id."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the student.", file_okay=False)],
    dataset: Annotated[
        str | None,
        typer.Option(help="An .npz, safetensors, Parquet, csv, tsv, zip or tar file, an upload's id, or digits."),
    ] = None,
    discriminator: Annotated[
        str | None,
        typer.Option(help="Of a GAN's generator, for adversarial fine-tuning: a file, or an upload's id."),
    ] = None,
    architecture: ArchitectureOption = None,
    depth: Annotated[int | None, typer.Option(help="The student's depth, as 14.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Or its blocks per section, as 2,2,2.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Or how many times fewer parameters, at least.")] = None,
    select: Annotated[Select | None, typer.Option(help="Which blocks are kept.")] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help="What to do to the student afterwards: prune:0.5, int8; may be repeated, in that order."),
    ] = None,
    exports: Annotated[
        list[Export] | None,
        typer.Option("--export", help="Which other formats to write, instead of onnx and pt2; may be repeated."),
    ] = None,
    init: Annotated[Init | None, typer.Option(help="Where the student's blocks come from.")] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Values for all that is left open.", rich_help_panel=METHOD)
    ] = None,
    method: Annotated[
        Method | None, typer.Option(help="LIT, or another to compare with.", rich_help_panel=METHOD)
    ] = None,
    feed: Annotated[Feed | None, typer.Option(help="What sections are fed.", rich_help_panel=METHOD)] = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Learn from the teacher alone (alpha 0).", rich_help_panel=METHOD)
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the labels in the KD loss.", rich_help_panel=METHOD)
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Weight of the KD loss in the LIT phase.", rich_help_panel=METHOD)
    ] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of the KD loss.", rich_help_panel=METHOD)] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the LIT phase.", rich_help_panel=TRAINING)] = None,
    fine_tune_epochs: Annotated[
        int | None, typer.Option(help="Epochs of fine-tuning.", rich_help_panel=TRAINING)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="In the LIT phase.", rich_help_panel=TRAINING)] = None,
    fine_tune_learning_rate: Annotated[
        float | None, typer.Option(help="In fine-tuning.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.", rich_help_panel=TRAINING)] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.", rich_help_panel=TRAINING)] = None,
    device: Annotated[Device | None, typer.Option(help="Where to train.", rich_help_panel=TRAINING)] = None,
    name: Annotated[str | None, typer.Option(help="A name to find the job by.", rich_help_panel=AROUND)] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="May be repeated.", rich_help_panel=AROUND)] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of test accuracy that may be lost; more ends with exit code 3.", rich_help_panel=AROUND
        ),
    ] = None,
    settings: SetOption = None,
    request_file: Annotated[
        Path | None, typer.Option("--request", help="A request as a JSON file; options beat it.", exists=True)
    ] = None,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels the job instead of leaving it.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compress a teacher into a shallower student and fetch it.

    Exit codes: 0 done, 1 failed, 2 wrong use or request, 3 not accepted, 130 interrupted.
    """
    if sum(value is not None for value in (depth, blocks, ratio)) > 1:
        raise BadRequest("--depth, --blocks and --ratio say the same in several ways: give one of them.")
    dataset_file = None if dataset in (None, *BUILTIN) else dataset
    options = {
        "student.depth": depth,
        "student.blocks": None if blocks is None else parse_blocks(blocks),
        "student.ratio": ratio,
        "student.select": select,
        "architecture": None if architecture is None else parse_architecture(architecture),
        "then": then or None,
        "exports": exports or None,
        "student.init": init,
        "preset": preset,
        "method": method,
        "feed": feed,
        "alpha": 0.0 if no_labels and alpha is None else alpha,
        "dataset.labels": False if no_labels else None,
        "beta": beta,
        "tau": tau,
        "schedule.lit.epochs": epochs,
        "schedule.fine_tune.epochs": fine_tune_epochs,
        "schedule.lit.learning_rate": learning_rate,
        "schedule.fine_tune.learning_rate": fine_tune_learning_rate,
        "schedule.batch_size": batch_size,
        "seed": seed,
        "device": device,
        "name": name,
        "tags": tags or None,
        "accept.max_accuracy_drop": max_accuracy_drop,
        "discriminator": None if discriminator is None else TO_COME,
        "dataset.builtin": dataset if dataset in BUILTIN else None,
        "dataset.upload": None if dataset_file is None else TO_COME,
    }
    body = build_body(request_file, options, settings or [])
    request = check_body(body)
    sources = Sources(teacher, discriminator or request.discriminator, dataset_file)
    check_source("TEACHER", teacher)
    if sources.discriminator is not None:
        check_source("--discriminator", sources.discriminator)
    if dataset_file is not None:
        check_source("--dataset", dataset_file)
        if request.dataset.upload != TO_COME:
            raise BadRequest("--dataset and --set each name a data set: give one of them.")
    elif not set(SOURCES) & set(body.get("dataset", {})):
        raise BadRequest("Say which data to train on: --dataset FILE, or --dataset digits.")
    # Found out now rather than after the training.
    output.mkdir(parents=True, exist_ok=True)

    try:
        job, files = _run(url, body, request, sources, output, cancel_on_interrupt)
    except KeyboardInterrupt:
        display.notes.print("Interrupted; what was transferred stays, and the same command goes on from there.")
        raise typer.Exit(answers.ExitCode.INTERRUPTED) from None
    answers.show_job(job, as_json, files)
    raise typer.Exit(answers.outcome(job))


def _run(
    url: str | None,
    body: Body,
    request: JobRequest,
    sources: Sources,
    output: Path,
    cancel_on_interrupt: bool,
) -> tuple[Job, list[DownloadedFile]]:
    with Client(url) as client:
        _send_sources(client, body, request, sources)
        job = client.create_job(body)
        display.notes.print(f"job {job.id}")
        job = follow_to_end(client, job, cancel_on_interrupt=cancel_on_interrupt)
        return job, _fetch(client, job, output)


def follow_to_end(client: Client, job: Job, *, cancel_on_interrupt: bool = False) -> Job:
    """Show a job's epochs until it has ended. Ctrl-C leaves it running, or cancels it, and exits with 130."""
    bar = display.EpochBar()
    try:
        with bar.progress:
            for event in client.follow(job.id, on_job=bar.show_job):
                bar.show_event(event)
        return client.job(job.id)
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            state = client.cancel(job.id).state
            display.notes.print(f"Interrupted; {job.id} is {'being ' * (state == 'running')}cancelled.")
        else:
            display.notes.print(
                f"Interrupted; {job.id} goes on without this command.\n"
                f"Cancel it:   litc cancel {job.id}\n"
                f"Follow it:   litc job {job.id} --wait\n"
                f"Fetch it:    litc download {job.id} --output FOLDER"
            )
        raise typer.Exit(answers.ExitCode.INTERRUPTED) from None


def check_source(option: str, source: str) -> None:
    """Whether there is something to send: a file, or what looks like an upload's id. Raises BadRequest."""
    if source.startswith(UPLOAD_PREFIX) or Path(source).is_file():
        return
    if Path(source).is_dir():
        raise BadRequest(f"{option} {source} is a folder: pack it as a zip or tar file.")
    raise BadRequest(f"{option} {source}: there is no such file, and an upload's id begins with {UPLOAD_PREFIX}.")


def _send_sources(client: Client, body: Body, request: JobRequest, sources: Sources) -> None:
    """Put the uploads' ids into the request; the networks first, so that a wrong one costs little."""
    teacher = send_teacher(client, sources.teacher, body.get("architecture"))
    body["teacher"] = teacher.id
    discriminator: Inspection | None = None
    if sources.discriminator is not None:
        upload = client.wait_inspection(send(client, sources.discriminator, UploadKind.TEACHER).id)
        body["discriminator"] = upload.id
        discriminator = upload.inspection
    if teacher.inspection is not None and (sources.discriminator is None) == (discriminator is None):
        check_student(request, teacher.inspection, discriminator)
    if sources.dataset is not None:
        dataset = send(client, sources.dataset, UploadKind.DATASET)
        body["dataset"] = {**body.get("dataset", {}), "upload": dataset.id}


def send_teacher(client: Client, source: str, architecture: Mapping[str, Any] | None) -> Upload:
    """The upload of a file, or the one with this id, once it is inspected as this architecture."""
    sent = send(client, source, UploadKind.TEACHER, architecture)
    return client.wait_inspection(sent.id, architecture=architecture)


def send(client: Client, source: str, kind: UploadKind, architecture: Mapping[str, Any] | None = None) -> Upload:
    """The upload of a file, or the one with this id."""
    path = Path(source)
    if path.is_file():
        with display.transfer_bar(path.name) as progress:
            return client.upload(path, kind, progress, architecture)
    return client.get_upload(source) if architecture is None else client.inspect_as(source, architecture)


def _fetch(client: Client, job: Job, output: Path) -> list[DownloadedFile]:
    if job.state != "succeeded":
        return []
    with display.transfer_bar("downloading") as progress:
        return client.download(job.id, output, progress=progress)
