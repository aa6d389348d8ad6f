"""`litc doctor` and `litc --version`: whether command and service work, and what to do where they don't."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.text import Text

from lit_client.addresses import DEFAULT_URL, URL_VARIABLE
from lit_client.checks import Check, Status, check_client, own_version
from lit_client.command import display
from lit_client.command.options import JsonOption, UrlOption
from lit_client.command.output import ExitCode, show
from lit_client.command.service_commands import add_checkout
from lit_client.errors import KEY_VARIABLE, LitError
from lit_client.synchronous.client import Client

SECONDS = 10.0
STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


def doctor_command(
    only_client: Annotated[
        bool, typer.Option("--client", help="Only this command and the service that it talks to.")
    ] = False,
    only_service: Annotated[
        bool, typer.Option("--service", help="Only the settings here, and what they name: for the service's operator.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check address, key and service; in a checkout its settings, database, broker, storage and GPU too.

    Exit codes: 0 all is well or there are warnings, 1 something fails.
    """
    both = only_client == only_service
    found = [*(_client_checks(url) if both or only_client else ()), *_service_checks(both, both or only_service)]
    fails = any(check.status == Status.FAIL for check in found)
    answer = {"ok": not fails, "checks": [check.as_json() for check in found]}
    show(answer, _lines(found), as_json)
    raise typer.Exit(ExitCode.FAILED if fails else ExitCode.OK)


def _client_checks(url: str | None) -> Iterator[Check]:
    try:
        client = Client(url, retries=0, timeout=SECONDS)
    except LitError as failure:
        yield Check("address", Status.FAIL, str(failure), f"set {URL_VARIABLE} as {DEFAULT_URL}")
        return
    with client:
        yield from check_client(client, bool(os.environ.get(KEY_VARIABLE)))


def _service_checks(both: bool, wanted: bool) -> Iterator[Check]:
    """Where the service is not installed there is nothing to look at."""
    if not wanted:
        return
    try:
        if not add_checkout():
            raise ModuleNotFoundError(name="service")
        checks: Any = import_module("service.checks")
    except ModuleNotFoundError as missing:
        if not both:
            detail = f"{missing.name} is not installed here"
            yield Check("installed", Status.FAIL, detail, "run it in a checkout, or in the service's container")
        return
    yield from checks.service_checks()


def _lines(found: list[Check]) -> Text:
    """A line for each check, and one below it that says what to do."""
    width = max((len(check.name) for check in found), default=0)
    lines = []
    for check in found:
        lines.append(
            Text.assemble((f"{check.status:<5}", STYLES[check.status]), f"{check.name:<{width}}  {check.detail}")
        )
        if check.advice:
            lines.append(Text(f"{'':<{width + 5}}  {check.advice}"))
    return Text("\n").join(lines)


def show_versions(url: str | None, as_json: bool) -> None:
    """The version of the command, and of the service if it answers."""
    theirs: str | None = None
    try:
        with Client(url, retries=0, timeout=SECONDS) as client:
            theirs = client.service_version()
            address = client.base_url
    except LitError as failure:
        display.stderr.print(str(failure).partition("\n")[0], soft_wrap=True)
        address = url or DEFAULT_URL
    text = f"litc {own_version()}" + (f"\nservice {theirs} at {address}" if theirs is not None else "")
    show({"client": own_version(), "service": theirs, "url": address}, text, as_json)
