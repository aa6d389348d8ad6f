"""`litc migrate`: brings the database's schema up to date."""

from __future__ import annotations

import typer

from jobs.database.migrate import upgrade
from service.commands.options import errors_as_sentences, read_settings
from service.errors import NotConfigured


def migrate() -> None:
    """Bring the database's schema up to date; doing it again changes nothing."""
    with errors_as_sentences():
        settings = read_settings()
        if settings.database_url is None:
            raise NotConfigured("`litc migrate` needs DATABASE_URL: set it (`litc serve` migrates its own database)")
        upgrade(settings.database_url)
        typer.echo("The schema is up to date.")
