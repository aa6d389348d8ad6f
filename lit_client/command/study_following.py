"""A study from its creation to its table and the best job's files, as `litc study` and `litc plan` show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from lit_client.command import display, study_display
from lit_client.command.job_request import Body
from lit_client.command.output import ExitCode, exit_code_of_study, files_json, folder_for_results, show, show_files
from lit_client.command.transfers import Inputs, dataset_to_upload, fetch, send_datasets, send_teacher
from lit_client.files import DownloadedFile
from lit_client.models import Study
from lit_client.synchronous.client import Client


def send_and_follow(
    url: str | None,
    body: Body,
    teacher: str,
    dataset: str | None,
    folder: Path | None,
    detach: bool,
    as_json: bool,
) -> Study:
    """Upload the files, make the study and, unless detached, follow it, show it and fetch its best job's files."""
    inputs = Inputs(teacher, dataset_to_upload(dataset))
    inputs.check(body["job"])
    with folder_for_results(folder), Client(url) as client:
        study = client.create_study({**body, "job": _send_inputs(client, body["job"], inputs)})
        display.stderr.print(f"study {study.id}")
        if detach:
            show(study.model_dump(mode="json"), study.id, as_json)
            return study
        study = follow(client, study.id)
        files = [] if folder is None or study.best_job is None else fetch(client, study.best_job, folder)
    show_study(study, as_json, files)
    return study


def end(study: Study) -> None:
    """Exit with what a study means to a pipeline, if it has finished."""
    raise typer.Exit(exit_code_of_study(study) if study.finished else ExitCode.OK)


def _send_inputs(client: Client, job: Body, inputs: Inputs) -> Body:
    """Upload the files and return the job's request with their ids. The teacher goes first, because it may be wrong."""
    job = {
        **job,
        "teacher": send_teacher(client, inputs.teacher, job.get("architecture"), job.get("teacher_weights")).id,
    }
    return send_datasets(client, inputs, job)


def follow(client: Client, study_id: str) -> Study:
    """Show a study's table until it has finished. After Ctrl-C the study continues; the exit code is 130."""
    try:
        with study_display.live_table() as update:
            for study in client.follow_study(study_id):
                update(study)
    except KeyboardInterrupt:
        display.stderr.print(
            f"Interrupted; {study_id} continues without this command.\n"
            f"Cancel it:   litc study cancel {study_id}\n"
            f"Follow it:   litc study show {study_id} --wait"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    return study


def show_study(study: Study, as_json: bool, files: Sequence[DownloadedFile] = ()) -> None:
    """Print a study with its table, and with the downloaded files if there are any."""
    answer = study.model_dump(mode="json")
    show(answer | {"files": files_json(files)} if files else answer, study_display.study_table(study), as_json)
    if as_json:
        return
    for line in study_display.result_lines(study):
        display.stdout.print(line)
    if files:
        show_files(files, as_json)
