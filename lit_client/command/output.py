"""How a command ends: one answer on stdout, and an exit code for pipelines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

import typer
from rich.console import RenderableType

from lit_client.command import display, study_display
from lit_client.command.job_request import BadRequest
from lit_client.errors import InspectionFailed, InvalidAddress, InvalidKey, LitError, ProblemError
from lit_client.files import DownloadedFile
from lit_client.models import Job, Study
from lit_spec.shown import harmless
from lit_spec.states import JobState, StudyState


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    """The job failed or was cancelled, or the service could not be reached."""
    USAGE = 2
    """The command or the request is wrong, or names what does not exist."""
    NOT_ACCEPTED = 3
    """The job succeeded, but the student lost more accuracy than was allowed, or a study found no such student."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM."""


@contextmanager
def folder_for_results(folder: Path | None) -> Iterator[None]:
    """Make the folder at once, because one that can't be made must not fail the command after the training. A folder
    that was made here and has stayed empty goes again."""
    if folder is None:
        yield
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # it has files
            for made in missing:
                made.rmdir()


def exit_code_of_job(job: Job) -> ExitCode:
    """What a finished job means to a pipeline."""
    if job.state != JobState.SUCCEEDED:
        return ExitCode.FAILED
    return ExitCode.NOT_ACCEPTED if job.accepted is False else ExitCode.OK


def exit_code_of_study(study: Study) -> ExitCode:
    """What a finished study means to a pipeline."""
    if study.state != StudyState.SUCCEEDED:
        return ExitCode.FAILED
    choice = study.choice or {}
    no_depth_is_good_enough = "depth" in choice and choice["depth"] is None
    return ExitCode.NOT_ACCEPTED if no_depth_is_good_enough else ExitCode.OK


def exit_code_of_error(error: LitError) -> ExitCode:
    """2 where the request is to blame, 1 where the service or the connection is."""
    if isinstance(error, BadRequest | InspectionFailed | InvalidAddress | InvalidKey):
        return ExitCode.USAGE
    if isinstance(error, ProblemError) and 400 <= error.status < 500 and error.status != 429:
        return ExitCode.USAGE
    return ExitCode.FAILED


@contextmanager
def ends_when_interrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM end a command that only looks on."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def as_line(answer: Any) -> str:
    return json.dumps(answer)


def write_piece(text: str) -> None:
    """A part of an answer that comes bit by bit."""
    sys.stdout.write(harmless(text))
    sys.stdout.flush()


def show_line(answer: Any, text: str, as_json: bool) -> None:
    """One of several answers, as it comes: a line of JSON, or text."""
    write_piece(f"{as_line(answer) if as_json else text}\n")


def delete_each(ids: Sequence[str], delete: Callable[[str], None], as_json: bool) -> None:
    """Remove one after the other, and go on after a refusal, which decides the exit code."""
    deleted: list[str] = []
    codes = {ExitCode.OK}
    for one in dict.fromkeys(ids):
        try:
            delete(one)
        except ProblemError as problem:
            display.stderr.print(str(problem), soft_wrap=True)
            codes.add(exit_code_of_error(problem))
        else:
            deleted.append(one)
    if deleted or as_json:
        show({"deleted": deleted}, "\n".join(f"{one} deleted" for one in deleted), as_json)
    raise typer.Exit(max(codes))


def show(answer: Any, text: RenderableType, as_json: bool) -> None:
    """One answer on stdout, for programs or for people."""
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        display.stdout.print(text)


def show_job(job: Job, as_json: bool, files: Sequence[DownloadedFile] = ()) -> None:
    """A job with its result, and with the files fetched, if any were."""
    answer = job.model_dump(mode="json")
    show(answer | {"files": files_json(files)} if files else answer, display.job_table(job), as_json)
    if as_json:
        return
    if job.result and "students" in job.result:
        display.stdout.print(study_display.plan_table(job.result))
    elif job.result:
        display.stdout.print(display.result_table(job.result))
        if exports := job.result.get("exports"):
            display.stdout.print(display.exports_table(exports))
        if operations := job.result.get("then"):
            display.stdout.print(display.operations_table(operations))
    if files:
        show_files(files, as_json)
    for line in display.closing_lines(job):
        display.stdout.print(line)


def show_files(files: Sequence[DownloadedFile], as_json: bool) -> None:
    show(files_json(files), display.files_table((file.path, file.size, file.sha256) for file in files), as_json)


def files_json(files: Sequence[DownloadedFile]) -> list[dict[str, Any]]:
    return [{"path": str(file.path), "size": file.size, "sha256": file.sha256} for file in files]
