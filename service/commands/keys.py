"""`litc keys`: creates, lists and revokes API keys."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from jobs.ledger import keys as api_keys
from service.backing_services import open_ledger
from service.commands.options import errors_as_sentences, read_settings

PIPE_WIDTH = 1000

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


@keys.command("create")
def create_key(name: Annotated[str, typer.Argument(help="Who or what the key is for.")]) -> None:
    """Make an API key. From the first one on, every request needs a key."""
    with errors_as_sentences(), open_ledger(read_settings()) as database, database.session() as session:
        key, secret = api_keys.create(session, name)
    typer.echo(f"Key {key.id} for {name}. Only its hash is stored, so note the secret now:", err=True)
    typer.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """Show the keys, without their secrets."""
    with errors_as_sentences(), open_ledger(read_settings()) as database, database.session() as session:
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
    with errors_as_sentences(), open_ledger(read_settings()) as database, database.session() as session:
        key = api_keys.revoke(session, key_id)
    typer.echo(f"Key {key.id} ({key.name}) is revoked.")
