"""The service's commands: `litc serve`, `litc api`, `litc keys`, `litc migrate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from psycopg.errors import UndefinedColumn, UndefinedTable
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy.exc import OperationalError, ProgrammingError

from api.app import create_app
from api.http.auth import is_loopback
from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from jobs.errors import NotFound
from jobs.ledger import keys as api_keys
from jobs.settings import Settings, explain
from jobs.storage.marker import marker_key
from jobs.storage.storage import open_storage
from service import http_server as server
from service import logging as logs
from service.children import WorkerChild
from service.connections import NotConfigured, ledger, services
from service.embedded import DataDirInUse
from service.http_server import BadAddress

USAGE = 2
PIPE_WIDTH = 1000

app = typer.Typer()
keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Host = Annotated[str | None, typer.Option(help="Address to listen on; LIT_HOST, or 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one; LIT_PORT, or 8000.", min=0)]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    workers: Annotated[int, typer.Option(help="How many workers to run beside the API.", min=0, max=64)] = 1,
) -> None:
    """Run the whole service on this machine: API, worker and, without DATABASE_URL and REDIS_URL, both of these."""
    with _plain_errors(), ExitStack() as stack:
        settings = _settings(host, port)
        server.exit_on_signals()
        stack.callback(server.ignore_signals)
        listening = stack.enter_context(server.listen(settings.host, settings.port))
        settings = stack.enter_context(services(settings))
        upgrade(settings.database_url or "")
        _mark_storage(settings)
        application = create_app(settings, keyless=_keyless(settings))
        url = server.url_of(listening)
        for number in range(workers):
            # One is enough to inspect uploads.
            stack.enter_context(WorkerChild(settings, inspects=number == 0))
        # In case of a signal the stack is unwound from here: API first, then worker, then database and broker.
        stack.callback(server.ignore_signals)
        typer.echo(f"LIT listens on {url} (documentation: {url}/docs). Stop it with Ctrl-C.")
        server.run(application, listening)


@app.command()
def api(host: Host = None, port: Port = None) -> None:
    """Run the API alone; DATABASE_URL and REDIS_URL say where the rest is."""
    with _plain_errors(), ExitStack() as stack:
        settings = _settings(host, port)
        if settings.database_url is None or settings.redis_url is None:
            raise NotConfigured("`litc api` needs DATABASE_URL and REDIS_URL; `litc serve` brings its own")
        server.exit_on_signals()
        listening = stack.enter_context(server.listen(settings.host, settings.port))
        _mark_storage(settings)
        application = create_app(settings, keyless=_keyless(settings))
        typer.echo(f"LIT listens on {server.url_of(listening)}")
        server.run(application, listening)


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date; doing it again changes nothing."""
    with _plain_errors():
        settings = _settings()
        if settings.database_url is None:
            raise NotConfigured("`litc migrate` needs DATABASE_URL; `litc serve` migrates its own database")
        upgrade(settings.database_url)
        typer.echo("The schema is up to date.")


@keys.command("create")
def create_key(name: Annotated[str, typer.Argument(help="Who or what the key is for.")]) -> None:
    """Make an API key. From the first one on, every request needs a key."""
    with _plain_errors(), ledger(_settings()) as database, database.session() as session:
        key, secret = api_keys.create(session, name)
    typer.echo(f"Key {key.id} for {name}. Only its hash is kept, so note the secret now:", err=True)
    typer.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """Show the keys, without their secrets."""
    with _plain_errors(), ledger(_settings()) as database, database.session() as session:
        found = api_keys.all_keys(session)
    # Whole in the narrowest window, because `litc keys revoke` wants it whole.
    table = Table(Column("id", min_width=max((len(key.id) for key in found), default=0)))
    for heading in ("name", "begins with", "created", "revoked"):
        table.add_column(heading, overflow="fold")
    for key in found:
        revoked = "" if key.revoked_at is None else f"{key.revoked_at:%Y-%m-%d %H:%M}"
        table.add_row(key.id, key.name, key.prefix, f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False).print(table)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The key's id, as in `litc keys list`.")]) -> None:
    """Let a key open nothing any more."""
    with _plain_errors(), ledger(_settings()) as database, database.session() as session:
        key = api_keys.revoke(session, key_id)
    typer.echo(f"Key {key.id} ({key.name}) is revoked.")


def _settings(host: str | None = None, port: int | None = None) -> Settings:
    settings = Settings()
    given = {"host": host, "port": port}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    logs.configure(settings.log_format)
    return settings


def _keyless(settings: Settings) -> bool:
    """Whether callers may come without a key. Raises NotConfigured for an open address without any key."""
    if is_loopback(settings.host):
        return True
    database = Database(settings.database_url or "", pool_size=1)
    try:
        with database.session() as session:
            if not api_keys.any_keys(session):
                raise NotConfigured(
                    f"{settings.host} can be reached from other machines, and there is no API key yet: make one with "
                    "`litc keys create NAME`, or listen on 127.0.0.1"
                )
    finally:
        database.close()
    return False


def _mark_storage(settings: Settings) -> None:
    """Before any worker looks for the marker. Raises NotConfigured when the storage can't be written."""
    database = Database(settings.database_url or "", pool_size=1)
    try:
        with database.session() as session:
            marker = marker_key(session)
        open_storage(settings).put_bytes(marker, b"")
    except OSError as failure:
        raise NotConfigured(f"the storage {settings.storage_root} can't be written: {failure}") from failure
    finally:
        database.close()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What a person can set right ends in a sentence, not in a traceback."""
    try:
        yield
    except (NotConfigured, DataDirInUse, BadAddress, NotFound) as failure:
        _end(str(failure))
    except ValidationError as wrong:
        _end(explain(wrong))
    except OperationalError as failure:
        _end(f"the database can't be reached: {str(failure.orig).strip().splitlines()[0]}")
    except ProgrammingError as failure:
        if not isinstance(failure.orig, UndefinedTable | UndefinedColumn):
            raise
        _end("the database's schema is not this version's: run `litc migrate`")
    except ValueError as failure:
        _end(str(failure))


def _end(sentence: str) -> None:
    typer.echo(sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith(".") else "."), err=True)
    # At once: what was started has been unwound by now.
    raise typer.Exit(USAGE)
