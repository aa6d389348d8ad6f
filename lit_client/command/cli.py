"""`litc`: the command. Answers go to stdout, everything else to stderr; exit codes are in `output.ExitCode`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from lit_client.command import display, output
from lit_client.command.compress import compress_command, follow_to_end
from lit_client.command.dataset_display import dataset_table
from lit_client.command.fields import with_options
from lit_client.command.job_request import BadRequest, parse_architecture, parse_changes, parse_network
from lit_client.command.options import ArchitectureOption, JsonOption, SetOption, UrlOption, WeightsOption
from lit_client.command.output import show
from lit_client.command.plan import plan_command
from lit_client.command.service_commands import add_service_commands, asked_service_command
from lit_client.command.study_commands import app as study_app
from lit_client.command.transfers import DATASET, check_input, fetch, send_inspected_dataset, send_teacher
from lit_client.errors import LitError
from lit_client.kinds import kind_of
from lit_client.synchronous.client import Client
from lit_spec import Library
from lit_spec.networks.catalogue import near_names
from lit_spec.states import UploadKind

app = typer.Typer(
    name="litc",
    help="Make a deep network shallower without losing its accuracy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("compress")(compress_command)
app.command("plan")(plan_command)
app.add_typer(study_app, name="study")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


@app.command("jobs")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs with this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with Client(url) as client:
        jobs = list(client.jobs(state=state, tag=tag, name=name, limit=limit))
    show([job.model_dump(mode="json") for job in jobs], display.jobs_table(jobs), as_json)


@app.command("job")
def show_job(
    job_id: JobId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job until it has finished; exit codes as of compress.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job, or follow it until it has finished."""
    with Client(url) as client:
        job = client.job(job_id)
        if wait and not job.finished:
            job = follow_to_end(client, job)
    output.show_job(job, as_json)
    if wait:
        raise typer.Exit(output.exit_code_of_job(job))


@app.command("cancel")
def cancel_job(job_id: JobId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job; a running one stops within seconds."""
    with Client(url) as client:
        job = client.cancel(job_id)
    show(job.model_dump(mode="json"), f"{job.id}: {job.state}{' (cancel requested)' * (not job.finished)}", as_json)


@app.command("rerun")
def rerun_job(job_id: JobId, settings: SetOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Run a job's request again as a new job, with changes if `--set` gives any."""
    with Client(url) as client:
        job = client.rerun(job_id, parse_changes(settings or []))
    show(job.model_dump(mode="json"), job.id, as_json)


@app.command("download")
def download_job(
    job_id: JobId,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    names: Annotated[list[str] | None, typer.Option("--file", help="Only this file; may be repeated.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download and verify a job's files. Continues where an earlier download stopped."""
    with Client(url) as client:
        files = fetch(client, job_id, folder, names)
    output.show_files(files, as_json)


@app.command("log")
def show_log(
    job_id: JobId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Number of an attempt; by default the newest.")] = None,
    url: UrlOption = None,
) -> None:
    """Print what the trainer wrote."""
    with Client(url) as client:
        typer.echo(client.log(job_id, attempt), nl=False)


@app.command("sections")
def show_sections(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For example torchvision/resnet50, or a part of a name.")],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a network's sections and blocks, and what each depth of student would save."""
    with Client(url) as client:
        if "/" not in name:
            found = list(client.architectures(search=name))
            if not found:
                near = ", ".join(f"{library}/{one}" for library in Library for one in near_names(library, name)[:2])
                suggestion = f": did you mean {near}?" if near else "."
                raise LitError(f"No network of torchvision or timm has {name!r} in its name{suggestion}")
            show([item.model_dump(mode="json") for item in found], display.architectures_table(found), as_json)
            return
        shown = client.architecture(*parse_network("NAME", name))
    show(shown.model_dump(mode="json"), display.architecture_table(shown), as_json)


@app.command("inspect")
def inspect_upload(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A teacher or a data set: a file, a folder, or an upload's id.")
    ],
    kind: Annotated[UploadKind | None, typer.Option(help="What SOURCE is, if its content doesn't tell.")] = None,
    architecture: ArchitectureOption = None,
    teacher_weights: WeightsOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a teacher and show what each depth of student would save; or a data set, and show what is in it."""
    of_teachers = {"--architecture": architecture, "--teacher-weights": teacher_weights}
    given = [option for option, value in of_teachers.items() if value is not None]
    if kind == UploadKind.DATASET and given:
        raise BadRequest(f"{given[0]} is for a teacher, but --kind is {kind}: leave one of the two out.")
    by_content = not given and Path(source).exists()
    found = kind or (kind_of(Path(source)) if by_content else UploadKind.TEACHER)
    check_input(DATASET if found == UploadKind.DATASET else "TEACHER", source)
    named = None if architecture is None else parse_architecture(architecture)
    with Client(url) as client:
        if found == UploadKind.DATASET:
            upload = send_inspected_dataset(client, source)
        else:
            upload = send_teacher(client, source, named, teacher_weights)
    if upload.inspection is not None:
        show(upload.model_dump(mode="json"), display.inspection_table(upload, upload.inspection), as_json)
    elif upload.dataset_inspection is not None:
        show(upload.model_dump(mode="json"), dataset_table(upload, upload.dataset_inspection), as_json)
    else:
        raise LitError(f"{upload.id} was received by an older version of LIT, which did not inspect data sets.")


def main() -> None:
    """Run the command. Every expected failure ends with a sentence and an exit code."""
    try:
        service = asked_service_command(sys.argv[1:])
        with _stop_signals(_end_at_once if service else signal.default_int_handler):
            add_service_commands(app, service)
            app()
    except LitError as error:
        said = with_options(str(error), error.fields, _offered(sys.argv[1:]))
        display.stderr.print(said, soft_wrap=True)
        sys.exit(output.exit_code_of_error(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        display.stderr.print(f"{error.strerror or error}{where}.", soft_wrap=True)
        sys.exit(output.ExitCode.FAILED)


def _offered(arguments: Sequence[str]) -> set[str]:
    """The options of the command that the arguments name."""
    command: Any = typer.main.get_command(app)
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return {option for parameter in command.params for option in parameter.opts}


@contextmanager
def _stop_signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C alike."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, earlier in before.items():
        if earlier is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    """For the service's commands until they have handlers of their own: nothing has been started that must be stopped.

    An exception would come out of an import, which shows a traceback, or is swallowed there. As a container's first
    process this one would not get a signal that it doesn't handle.
    """
    os._exit(output.ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
