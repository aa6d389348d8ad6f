"""`litc compress`: upload the files, create the job, follow it and download the student, in one command."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import typer

from lit_client.command import display, output
from lit_client.command.job_request import (
    BadRequest,
    Body,
    build_body,
    check_body,
    check_student,
    dataset_options,
    image_options,
    parse_architecture,
    parse_blocks,
    parse_columns,
    parse_kept,
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
    RegisterOption,
    SetOption,
    SizeOption,
    TargetOption,
    TensorboardOption,
    UrlOption,
    WeightsOption,
)
from lit_client.command.progress_bar import JobBar
from lit_client.command.transfers import Inputs, dataset_to_upload, fetch, send, send_datasets, send_teacher
from lit_client.compressed import PLACEHOLDER_ID
from lit_client.errors import ProblemError
from lit_client.files import DownloadedFile
from lit_client.models import Inspection, Job
from lit_client.synchronous.client import Client
from lit_spec import Device, Export, Feed, Init, JobRequest, Method, Precision, Preset, Select, TeacherCaching
from lit_spec.states import JobState, UploadKind

METHOD_PANEL, TRAINING_PANEL, JOB_PANEL = "The method", "Training", "The job"


def compress_command(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="The trained network: a safetensors or .pt file, a student's folder, or an upload's id.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for the student.", file_okay=False)],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A folder, an .npz, safetensors, Parquet, csv, tsv, zip or tar file, an upload, s3://…, or digits."
        ),
    ] = None,
    test_dataset: Annotated[
        str | None,
        typer.Option(help="A file, a folder, or an upload: a data set all of whose samples are the test split."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD=NAME,…",
            help="Which columns of a table are text, image and label, for example text=review,label=stars.",
        ),
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="The label of samples that have none, for example -1.", metavar="LABEL")
    ] = None,
    discriminator: Annotated[
        str | None,
        typer.Option(help="A GAN's discriminator, to fine-tune its generator with: a file, or an upload's id."),
    ] = None,
    architecture: ArchitectureOption = None,
    teacher_weights: WeightsOption = None,
    size: SizeOption = None,
    normalize: NormalizeOption = None,
    expect_accuracy: ExpectAccuracyOption = None,
    depth: Annotated[int | None, typer.Option(help="The student's depth, for example 14.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Or its blocks per section, for example 2,2,2.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Or at least how many times fewer parameters it has.")] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Or at least how many times faster it is, for example 1.5.")
    ] = None,
    target: TargetOption = None,
    kept: Annotated[
        str | None,
        typer.Option(help="Or which of the teacher's blocks it keeps, by section, from 0, for example 0/0,2."),
    ] = None,
    select: Annotated[Select | None, typer.Option(help="How the blocks to keep are chosen.")] = None,
    repair: Annotated[
        bool | None,
        typer.Option(help="Repair the student before its training; with --select recover that is the default."),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help="An operation on the trained student, prune:0.5 or int8; may be repeated, in that order."),
    ] = None,
    exports: Annotated[
        list[Export] | None,
        typer.Option("--export", help="Which other formats to write, instead of onnx and pt2; may be repeated."),
    ] = None,
    init: Annotated[Init | None, typer.Option(help="Where the student's blocks come from.")] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Defaults for every field that is not set.", rich_help_panel=METHOD_PANEL)
    ] = None,
    method: Annotated[
        Method | None, typer.Option(help="LIT, or a method to compare it with.", rich_help_panel=METHOD_PANEL)
    ] = None,
    feed: Annotated[
        Feed | None,
        typer.Option(help="Whose representations the student's sections get.", rich_help_panel=METHOD_PANEL),
    ] = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Learn from the teacher alone (alpha 0).", rich_help_panel=METHOD_PANEL)
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the labels in the KD loss.", rich_help_panel=METHOD_PANEL)
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Weight of the KD loss in the LIT phase.", rich_help_panel=METHOD_PANEL)
    ] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of the KD loss.", rich_help_panel=METHOD_PANEL)] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the LIT phase.", rich_help_panel=TRAINING_PANEL)] = None,
    fine_tune_epochs: Annotated[
        int | None, typer.Option(help="Epochs of fine-tuning.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of the LIT phase.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    fine_tune_learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of fine-tuning.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.", rich_help_panel=TRAINING_PANEL)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all random numbers.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where to train.", rich_help_panel=TRAINING_PANEL)] = None,
    devices: Annotated[
        int | None, typer.Option(help="How many of a worker's devices train the job.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="How many workers train the job together.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    shard_teacher: Annotated[
        bool,
        typer.Option(
            "--shard-teacher", help="Each process holds only its part of the teacher.", rich_help_panel=TRAINING_PANEL
        ),
    ] = False,
    teacher_precision: Annotated[
        Precision | None, typer.Option(help="What the teacher computes in.", rich_help_panel=TRAINING_PANEL)
    ] = None,
    teacher_cache: Annotated[
        TeacherCaching | None,
        typer.Option(help="Whether the teacher's answers are kept and read again.", rich_help_panel=TRAINING_PANEL),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name to find the job by.", rich_help_panel=JOB_PANEL)] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="May be repeated.", rich_help_panel=JOB_PANEL)] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of test accuracy that the student may lose; if it loses more, the exit code is 3.",
            rich_help_panel=JOB_PANEL,
        ),
    ] = None,
    experiment: ExperimentOption = None,
    no_track: NoTrackOption = False,
    register: RegisterOption = None,
    tensorboard: TensorboardOption = False,
    settings: SetOption = None,
    request_file: Annotated[
        Path | None, typer.Option("--request", help="A request as a JSON file; options override it.", exists=True)
    ] = None,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C or SIGTERM cancels the job instead of leaving it.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compress a teacher into a shallower student and fetch it.

    Exit codes: 0 done, 1 failed, 2 wrong use or request, 3 not accepted, 130 interrupted.
    """
    if sum(value is not None for value in (depth, blocks, ratio, kept, speedup, target)) > 1:
        raise BadRequest(
            "More than one of --depth, --blocks, --ratio, --kept, --speedup and --target is given: give one of them."
        )
    if kept is not None and select is not None:
        raise BadRequest("--kept names the blocks, and --select chooses them: leave out one of them.")
    dataset_file = dataset_to_upload(dataset)
    options = {
        "student.depth": depth,
        "student.blocks": None if blocks is None else parse_blocks(blocks),
        "student.ratio": ratio,
        "student.kept": None if kept is None else parse_kept(kept),
        "student.target.latency_ratio": speedup,
        **target_option(target),
        "student.select": select,
        "student.repair": repair,
        "architecture": None if architecture is None else parse_architecture(architecture),
        "teacher_weights": teacher_weights,
        **image_options(size, normalize, expect_accuracy),
        "then": then or None,
        "exports": exports or None,
        "student.init": init,
        "preset": preset,
        "method": method,
        "feed": feed,
        "alpha": 0.0 if no_labels and alpha is None else alpha,
        "dataset.labels": False if no_labels else None,
        "dataset.columns": None if columns is None else parse_columns(columns),
        "dataset.unlabelled": unlabelled,
        "beta": beta,
        "tau": tau,
        "schedule.lit.epochs": epochs,
        "schedule.fine_tune.epochs": fine_tune_epochs,
        "schedule.lit.learning_rate": learning_rate,
        "schedule.fine_tune.learning_rate": fine_tune_learning_rate,
        "schedule.batch_size": batch_size,
        "seed": seed,
        "device": device,
        "devices": devices,
        "nodes": nodes,
        "shard_teacher": shard_teacher or None,
        "teacher_precision": teacher_precision,
        "teacher_cache": teacher_cache,
        "name": name,
        "tags": tags or None,
        "accept.max_accuracy_drop": max_accuracy_drop,
        **tracking_options(experiment, no_track, tensorboard),
        "register": register,
        "discriminator": None if discriminator is None else PLACEHOLDER_ID,
        **dataset_options(dataset),
        "dataset.upload": None if dataset_file is None else PLACEHOLDER_ID,
        "dataset.test_upload": None if test_dataset is None else PLACEHOLDER_ID,
    }
    body = build_body(request_file, options, settings or [])
    request = check_body(body)
    if dataset_file is not None and request.dataset.upload != PLACEHOLDER_ID:
        raise BadRequest("--dataset and --set each name a data set: give one of them.")
    inputs = Inputs(teacher, dataset_file, discriminator or request.discriminator, test_dataset)
    inputs.check(body)

    try:
        with output.folder_for_results(folder):
            job, files = _run(url, body, request, inputs, folder, cancel_on_interrupt)
    except KeyboardInterrupt:
        display.stderr.print("Interrupted. What was transferred is kept: run the same command to continue from there.")
        raise typer.Exit(output.ExitCode.INTERRUPTED) from None
    output.show_job(job, as_json, files)
    raise typer.Exit(output.exit_code_of_job(job))


def _run(
    url: str | None,
    body: Body,
    request: JobRequest,
    inputs: Inputs,
    folder: Path,
    cancel_on_interrupt: bool,
) -> tuple[Job, list[DownloadedFile]]:
    with Client(url) as client:
        job = create_job(client, _send_inputs(client, body, request, inputs), cancel_on_interrupt=cancel_on_interrupt)
        display.stderr.print(f"job {job.id}")
        job = follow_to_end(client, job, cancel_on_interrupt=cancel_on_interrupt)
        return job, fetch(client, job.id, folder) if job.state == JobState.SUCCEEDED else []


def _send_inputs(client: Client, body: Body, request: JobRequest, inputs: Inputs) -> Body:
    """Upload the files and return the request with their ids. The networks go first, because they may be wrong."""
    teacher = send_teacher(client, inputs.teacher, body.get("architecture"), body.get("teacher_weights"))
    job = {**body, "teacher": teacher.id}
    discriminator: Inspection | None = None
    if inputs.discriminator is not None:
        upload = client.wait_inspection(send(client, inputs.discriminator, UploadKind.TEACHER).id)
        job["discriminator"] = upload.id
        discriminator = upload.inspection
    if teacher.inspection is not None and (inputs.discriminator is None) == (discriminator is None):
        check_student(request, teacher.inspection, discriminator)
    return send_datasets(client, inputs, job)


def create_job(client: Client, body: Body, *, cancel_on_interrupt: bool) -> Job:
    """Create the job. Whether one exists after an interrupt is unknown, because the answer may have been on its way."""
    key = str(uuid.uuid4())
    try:
        return client.create_job(body, idempotency_key=key)
    except KeyboardInterrupt:
        if not cancel_on_interrupt:
            raise
        # With the same key the service answers with the job that it has, or creates it only now.
        _cancel(client, client.create_job(body, idempotency_key=key))
        raise typer.Exit(output.ExitCode.INTERRUPTED) from None


def _cancel(client: Client, job: Job) -> None:
    try:
        running = client.cancel(job.id).state == JobState.RUNNING
    except ProblemError as problem:
        if problem.type != "job-finished":
            raise
        display.stderr.print(f"Interrupted; {job.id} has already finished.")
    else:
        display.stderr.print(f"Interrupted; {job.id} is {'being ' * running}cancelled.")


def follow_to_end(client: Client, job: Job, *, cancel_on_interrupt: bool = False) -> Job:
    """Show a job's epochs until it has finished. An interrupt exits with 130; the job continues or is cancelled."""
    bar = JobBar()
    try:
        with bar.progress:
            for event in client.follow(job.id, on_job=bar.show_job, every=bar.every):
                bar.show_event(event)
        return client.job(job.id)
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            _cancel(client, job)
        else:
            display.stderr.print(
                f"Interrupted; {job.id} continues without this command.\n"
                f"Cancel it:   litc cancel {job.id}\n"
                f"Follow it:   litc job {job.id} --wait\n"
                f"Fetch it:    litc download {job.id} --output FOLDER"
            )
        raise typer.Exit(output.ExitCode.INTERRUPTED) from None
