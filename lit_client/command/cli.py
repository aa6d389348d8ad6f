"""`litc`: the command. Answers go to stdout, everything else to stderr; exit codes are in `output.ExitCode`."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from lit_client.addresses import URL_VARIABLE
from lit_client.command import display, output
from lit_client.command.compress import compress_command
from lit_client.command.dataset_display import dataset_table
from lit_client.command.doctor import doctor_command, show_versions
from lit_client.command.fields import with_options
from lit_client.command.inspection_display import architecture_table, architectures_table, inspection_table
from lit_client.command.job_commands import app as job_app
from lit_client.command.job_request import BadRequest, parse_architecture, parse_network
from lit_client.command.options import ArchitectureOption, JsonOption, UrlOption, WeightsOption
from lit_client.command.output import show
from lit_client.command.plan import plan_command
from lit_client.command.service_commands import add_service_commands, asked_service_command
from lit_client.command.study_commands import app as study_app
from lit_client.command.transfers import DATASET, check_input, send_inspected_dataset, send_teacher
from lit_client.command.upload_commands import app as uploads_app
from lit_client.command.webhook_commands import app as webhooks_app
from lit_client.errors import LitError
from lit_client.kinds import kind_of
from lit_client.synchronous.client import Client
from lit_spec import Library
from lit_spec.networks.catalogue import near_names
from lit_spec.states import UploadKind

app = typer.Typer(
    name="litc",
    pretty_exceptions_enable=False,
)
app.command("compress")(compress_command)
app.command("plan")(plan_command)
app.add_typer(study_app, name="study")
app.add_typer(job_app)
app.add_typer(uploads_app, name="uploads")
app.add_typer(webhooks_app, name="webhooks")
app.command("doctor")(doctor_command)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions of this command and of the service.")
    ] = False,
    url: Annotated[str | None, typer.Option("--url", envvar=URL_VARIABLE, hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
) -> None:
    """Make a deep network shallower without losing its accuracy."""
    if version:
        show_versions(url, as_json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


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
            show([item.model_dump(mode="json") for item in found], architectures_table(found), as_json)
            return
        shown = client.architecture(*parse_network("NAME", name))
    show(shown.model_dump(mode="json"), architecture_table(shown), as_json)


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
        show(upload.model_dump(mode="json"), inspection_table(upload, upload.inspection), as_json)
    elif upload.dataset_inspection is not None:
        show(upload.model_dump(mode="json"), dataset_table(upload, upload.dataset_inspection), as_json)
    else:
        raise LitError(f"{upload.id} was received by an older version of LIT, which did not inspect data sets.")


def main() -> None:
    """Run the command. Every expected failure ends with a sentence and an exit code."""
    service = asked_service_command(sys.argv[1:])
    try:
        with _stop_signals(_end_at_once if service else signal.default_int_handler):
            _command(service)()
    except LitError as error:
        said = with_options(str(error), error.fields, _offered(service, sys.argv[1:]))
        display.stderr.print(said, soft_wrap=True)
        sys.exit(output.exit_code_of_error(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        display.stderr.print(f"{error.strerror or error}{where}.", soft_wrap=True)
        sys.exit(output.ExitCode.FAILED)


@cache
def _command(service: str | None) -> Any:
    """`litc` with this command of the service, or with a line for each of them in the help."""
    whole = copy.copy(app)
    whole.registered_commands, whole.registered_groups = [*app.registered_commands], [*app.registered_groups]
    add_service_commands(whole, service)
    return typer.main.get_command(whole)


def _offered(service: str | None, arguments: Sequence[str]) -> set[str]:
    """The options of the command that the arguments name."""
    command = _command(service)
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
