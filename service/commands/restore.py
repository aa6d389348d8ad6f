"""`litc restore`: brings a backup into an empty database and an empty storage."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jobs.storage.opening import open_storage
from service.backing_services import open_empty_ledger
from service.backups import restore_backup
from service.commands.options import errors_as_sentences, read_settings
from service.errors import INTERRUPTED
from service.signals import exit_on_signals, ignore_signals


def restore(source: Annotated[Path, typer.Argument(help="A folder that `litc backup` has written.")]) -> None:
    """Bring a backup into an empty database and an empty storage. API and workers must not be running."""
    with errors_as_sentences(), ExitStack() as stack:
        settings = read_settings()
        exit_on_signals(INTERRUPTED)
        database = stack.enter_context(open_empty_ledger(settings))
        stack.callback(ignore_signals)
        restored = restore_backup(database, open_storage(settings), source)
    typer.echo(
        f"Ledger and {restored.files} files of {restored.created_at:%Y-%m-%d %H:%M:%S} UTC are restored. Run "
        "`litc migrate` next (`litc serve` migrates its own database), then start the service."
    )
