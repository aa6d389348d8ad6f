"""`litc backup`: copies ledger and storage into a folder, while the service runs or not."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jobs.storage.opening import open_storage
from service.backing_services import open_ledger
from service.backups import take_backup
from service.commands.options import errors_as_sentences, read_settings
from service.errors import INTERRUPTED
from service.signals import exit_on_signals, ignore_signals


def backup(target: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Copy ledger and storage into a folder. The service may be running."""
    with errors_as_sentences(), ExitStack() as stack:
        settings = read_settings()
        exit_on_signals(INTERRUPTED)
        database = stack.enter_context(open_ledger(settings, create=False))
        stack.callback(ignore_signals)
        taken = take_backup(database, open_storage(settings), target)
    typer.echo(f"{target} has the ledger of {taken.created_at:%Y-%m-%d %H:%M:%S} UTC and {taken.files} files.")
