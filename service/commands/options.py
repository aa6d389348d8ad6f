"""What several commands use: options, settings, and errors as sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from psycopg.errors import UndefinedColumn, UndefinedTable
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, ProgrammingError

from jobs.database import outages
from jobs.database.connection import database_url
from jobs.errors import Conflict, NotFound
from jobs.private_files import PRIVATE_UMASK
from jobs.settings import Settings, explain
from service.errors import USAGE, CommandError, NotConfigured
from service.log_setup import set_up_logs

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: LIT_HOST, or else 127.0.0.1.")]
Port = Annotated[
    int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: LIT_PORT, or else 8000.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON, for pipelines.")]


def read_settings(**options: object) -> Settings:
    """The settings, from the options that are given and else from the environment; sets up logs and umask too.

    An option has the name of its field and is checked in the same way as its variable. Raises NotConfigured.
    """
    os.umask(PRIVATE_UMASK)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
        if settings.database_url:
            database_url(settings.database_url)
    except ValidationError as wrong:
        raise NotConfigured(explain(wrong, given)) from wrong
    except ValueError as wrong:
        raise NotConfigured(str(wrong)) from wrong
    set_up_logs(settings.log_format)
    return settings


def require_addresses(settings: Settings, command: str) -> None:
    """Raises NotConfigured unless database and broker are given."""
    if not settings.database_url or not settings.redis_url:
        raise NotConfigured(
            f"`{command}` needs DATABASE_URL and REDIS_URL: set both, or run `litc serve`, which has its own servers"
        )


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """End the command with a sentence instead of a traceback if its user can do something about the error."""
    try:
        yield
    except CommandError as failure:
        _end(str(failure), failure.exit_code)
    except (NotFound, Conflict) as failure:
        _end(str(failure))
    except OperationalError as failure:
        _end(f"{outages.explain(failure)}: {str(failure.orig).strip().splitlines()[0]}")
    except ProgrammingError as failure:
        if not isinstance(failure.orig, UndefinedTable | UndefinedColumn):
            raise
        _end("the database's schema is not this version's: run `litc migrate` (`litc serve` migrates its own database)")


def _end(sentence: str, exit_code: int = USAGE) -> None:
    typer.echo(sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith(".") else "."), err=True)
    raise typer.Exit(exit_code)
