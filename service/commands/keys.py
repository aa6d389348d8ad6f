"""`litc keys`: creates, lists, rotates and revokes API keys."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy.orm import Session

from jobs.database.models import ApiKey
from jobs.ledger import audit
from jobs.ledger import keys as api_keys
from jobs.ledger.audit import Actor
from lit_spec.answers.keys import Key, NewKey
from lit_spec.mistakes import as_text, mistakes
from lit_spec.requests.access import LONGEST_GRACE, KeyRequest, RotateRequest
from lit_spec.scopes import USUAL_SCOPES, Scope
from service.backing_services import open_ledger
from service.commands.options import AsJson, errors_as_sentences, read_settings
from service.errors import INTERRUPTED
from service.signals import exit_on_signals, ignore_signals

PIPE_WIDTH = 1000
LONGEST_NUMBER = 5
"""Digits, so that no sum of times overflows."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

keys = typer.Typer(help="Create, list, rotate and revoke API keys.", no_args_is_help=True)


def _duration(text: str) -> timedelta:
    """As in `90d`, `12h`, `30m` or `45s`. Raises typer.BadParameter."""
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in SECONDS or len(number) > LONGEST_NUMBER:
        raise typer.BadParameter(f"{text!r} is not a duration: write a number and s, m, h or d, as in 90d")
    return timedelta(seconds=int(number) * SECONDS[unit])


def _expiry(text: str | None) -> datetime | None:
    """A duration from now, or a date or time in UTC unless it says otherwise. Raises typer.BadParameter."""
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = now + _duration(text)
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    if found <= now:
        raise typer.BadParameter(f"{text!r} is in the past: give a time to come")
    try:
        return RotateRequest(expires_at=found).expires_at
    except ValidationError as wrong:
        raise typer.BadParameter(as_text(mistakes(RotateRequest, {"expires_at": found}, wrong))) from wrong


Expires = Annotated[
    str | None, typer.Option(help="When it expires: a date (2027-01-31), a time, or a duration from now (90d, 12h).")
]


@contextmanager
def _session(*, create: bool) -> Iterator[Session]:
    """A transaction in the ledger. After it, and after a signal, what was started for it is stopped undisturbed."""
    with errors_as_sentences(), ExitStack() as stack:
        settings = read_settings()
        exit_on_signals(INTERRUPTED)
        database = stack.enter_context(open_ledger(settings, create=create))
        stack.callback(ignore_signals)
        with database.session() as session, audit.acting(Actor(subject=f"command line, {_user()}")):
            yield session


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in many containers
        return str(os.getuid())


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    owner: Annotated[
        str | None, typer.Option(help="Whose things it reaches: a team. Default: the key is an owner of its own.")
    ] = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do; may be given several times. admin includes the others. [read submit]"),
    ] = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. From the first one on, every request needs a key."""
    try:
        asked = KeyRequest(name=name, owner=owner, scopes=scope or list(USUAL_SCOPES), expires_at=_expiry(expires))
    except ValidationError as wrong:
        raise typer.BadParameter(as_text(mistakes(KeyRequest, {"name": name, "owner": owner}, wrong))) from wrong
    with _session(create=True) as session:
        key, secret = api_keys.create(
            session, asked.name, owner=asked.owner, scopes=asked.scopes, expires_at=asked.expires_at
        )
    _show_new(key, secret, f"Key {key.id} for {name}", as_json)


def _show_new(key: ApiKey, secret: str, what: str, as_json: bool) -> None:
    typer.echo(f"{what}. Only its hash is stored, so note the secret now:", err=True)
    if as_json:
        typer.echo(NewKey.of(key, secret).model_dump_json())
    else:
        typer.echo(secret)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Show the keys, without their secrets."""
    with _session(create=False) as session:
        found = api_keys.all_keys(session)
    if as_json:
        typer.echo(json.dumps([Key.model_validate(key).model_dump(mode="json") for key in found]))
        return
    # Never cut or folded, however narrow the window, because `litc keys revoke` needs the whole id.
    table = Table(Column("id", min_width=max((len(key.id) for key in found), default=0)))
    for heading in ("name", "owner", "scopes", "begins with", "created", "last used", "expires", "revoked"):
        table.add_column(heading, overflow="fold")
    for key in found:
        owner = "itself" if key.owner == key.id else key.owner
        times = (key.created_at, key.last_used_at, key.expires_at, key.revoked_at)
        table.add_row(key.id, key.name, owner, " ".join(key.scopes), key.prefix, *map(_shown, times))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False).print(table)


def _shown(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as in `litc keys list`.")],
    grace: Annotated[str, typer.Option(help="How long the old secret stays valid, as in 24h.")] = "0s",
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Make a key with another secret for the same owner and scopes, in the place of this one."""
    old_for = _duration(grace)
    if old_for.total_seconds() > LONGEST_GRACE:
        raise typer.BadParameter(f"--grace is at most {LONGEST_GRACE // SECONDS['d']}d")
    expires_at = _expiry(expires)
    with _session(create=False) as session:
        key, secret = api_keys.rotate(session, key_id, grace=old_for, expires_at=expires_at)
    _show_new(key, secret, f"Key {key.id} for {key.name}, in the place of {key_id}", as_json)


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as in `litc keys list`.")], as_json: AsJson = False
) -> None:
    """Revoke a key: requests with it are refused from now on."""
    with _session(create=False) as session:
        key = api_keys.revoke(session, key_id)
    if as_json:
        typer.echo(Key.model_validate(key).model_dump_json())
    else:
        typer.echo(f"Key {key.id} ({key.name}) is revoked.")
