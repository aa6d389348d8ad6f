"""`litc keys`: creates, lists and revokes API keys."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy.orm import Session

from jobs.ledger import keys as api_keys
from service.backing_services import open_ledger
from service.commands.options import errors_as_sentences, read_settings
from service.errors import INTERRUPTED
from service.http_server import exit_on_signals, ignore_signals

PIPE_WIDTH = 1000

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


@contextmanager
def _session(*, create: bool) -> Iterator[Session]:
    """A transaction in the ledger. After it, and after a signal, what was started for it is stopped undisturbed."""
    with errors_as_sentences(), ExitStack() as stack:
        settings = read_settings()
        exit_on_signals(INTERRUPTED)
        database = stack.enter_context(open_ledger(settings, create=create))
        stack.callback(ignore_signals)
        with database.session() as session:
            yield session


@keys.command("create")
def create_key(name: Annotated[str, typer.Argument(help="Who or what the key is for.")]) -> None:
    """Make an API key. From the first one on, every request needs a key."""
    with _session(create=True) as session:
        key, secret = api_keys.create(session, name)
    typer.echo(f"Key {key.id} for {name}. Only its hash is stored, so note the secret now:", err=True)
    typer.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """Show the keys, without their secrets."""
    with _session(create=False) as session:
        found = api_keys.all_keys(session)
    # Never cut or folded, however narrow the window, because `litc keys revoke` needs the whole id.
    table = Table(Column("id", min_width=max((len(key.id) for key in found), default=0)))
    for heading in ("name", "begins with", "created", "revoked"):
        table.add_column(heading, overflow="fold")
    for key in found:
        revoked = "" if key.revoked_at is None else f"{key.revoked_at:%Y-%m-%d %H:%M}"
        table.add_row(key.id, key.name, key.prefix, f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False).print(table)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The key's id, as in `litc keys list`.")]) -> None:
    """Revoke a key: requests with it are refused from now on."""
    with _session(create=False) as session:
        key = api_keys.revoke(session, key_id)
    typer.echo(f"Key {key.id} ({key.name}) is revoked.")
