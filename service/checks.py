"""What `litc doctor` looks at where the service's settings are: each setting's target, and this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import redis
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from jobs import disks
from jobs.database import outages
from jobs.database.connection import Database
from jobs.database.migrate import is_current
from jobs.settings import GIB, Settings, explain
from jobs.storage.opening import open_storage
from lit_client.checks import Check, Status
from service.embedded.servers import ADDRESS_FILE, has_database
from service.integration_checks import integration_checks
from worker.host.devices import cuda_present, device_fault

SECONDS = 5
LITTLE_DISK, TOO_LITTLE_DISK = 10 * GIB, GIB


def service_checks() -> Iterator[Check]:
    """Starts nothing, and changes nothing but that probes are written into the storage."""
    try:
        settings = Settings()
    except ValidationError as wrong:
        yield Check("settings", Status.FAIL, explain(wrong), "correct it: docs/settings.md has a table of all")
        return
    yield _settings(settings)
    yield _database(settings)
    yield _broker(settings)
    yield _storage(settings)
    yield _disk(settings)
    yield _gpu(settings)
    yield from integration_checks(settings)


def _settings(settings: Settings) -> Check:
    names = sorted(name for name in os.environ if name.startswith("LIT_") or name in ("DATABASE_URL", "REDIS_URL"))
    if bool(settings.database_url) != bool(settings.redis_url):
        missing = "REDIS_URL" if settings.database_url else "DATABASE_URL"
        return Check("settings", Status.FAIL, f"{missing} is not set", "set both addresses, or none")
    return Check("settings", Status.OK, f"set: {', '.join(names)}" if names else "all have their defaults")


def _database(settings: Settings) -> Check:
    if settings.database_url is not None:
        return _reached_database(settings.database_url, "DATABASE_URL")
    if not has_database(settings.data_dir):
        return Check("database", Status.OK, f"none in {settings.data_dir} yet; `litc serve` makes one")
    address = settings.data_dir / ADDRESS_FILE
    if not address.is_file():
        return Check("database", Status.OK, f"in {settings.data_dir}; not running, `litc serve` starts it")
    return _reached_database(address.read_text(), f"in {settings.data_dir}")


def _reached_database(url: str, what: str) -> Check:
    try:
        database = Database(url, pool_size=1)
    except ValueError as wrong:
        return Check("database", Status.FAIL, str(wrong), "correct DATABASE_URL")
    try:
        with database.engine.connect() as connection:
            connection.execute(text(f"SET statement_timeout = '{SECONDS}s'"))
            if not is_current(connection):
                return Check("database", Status.FAIL, "the schema is not this version's", "run `litc migrate`")
            if connection.scalar(text("SHOW transaction_read_only")) == "on":
                return Check("database", Status.FAIL, "it can only be read", "give the address of the primary")
    except SQLAlchemyError as failure:
        advice = "check the address, the network and the server's log"
        return Check("database", Status.FAIL, outages.explain(failure), advice)
    finally:
        database.close()
    return Check("database", Status.OK, f"{what}: reachable and writable, with this version's schema")


def _broker(settings: Settings) -> Check:
    if settings.redis_url is None:
        return Check("broker", Status.OK, "`litc serve` starts its own")
    try:
        with redis.Redis.from_url(settings.redis_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as broker:
            broker.ping()
    except (redis.RedisError, OSError, ValueError) as failure:
        advice = "check REDIS_URL, the network and the server's log"
        return Check("broker", Status.FAIL, f"no answer ({type(failure).__name__})", advice)
    return Check("broker", Status.OK, "answers")


def _storage(settings: Settings) -> Check:
    return _folder(settings) if settings.storage_url is None else _object_store(settings, settings.storage_url)


def _object_store(settings: Settings, url: str) -> Check:
    try:
        open_storage(settings).check()
    except OSError as failure:
        advice = "check LIT_STORAGE_URL, the store's variables such as AWS_ENDPOINT_URL and the keys, and the network"
        return Check("storage", Status.FAIL, f"{url}: {disks.reason(failure)}", advice)
    return Check("storage", Status.OK, f"{url} can be written")


def _folder(settings: Settings) -> Check:
    root = settings.storage_root
    if not root.exists():
        if nearest := _nearest(root):
            return Check("storage", Status.OK, f"{root} will be made in {nearest}")
        return Check("storage", Status.FAIL, f"{root} can't be made", "set LIT_STORAGE_DIR to a folder")
    try:
        open_storage(settings).check()
    except OSError as failure:
        advice = "make room, or let the service's user write there"
        return Check("storage", Status.FAIL, f"{root}: {disks.reason(failure)}", advice)
    return Check("storage", Status.OK, f"{root} can be written")


def _nearest(folder: Path) -> Path | None:
    """The folder above it that exists, if something can be made there."""
    place = next(parent for parent in folder.resolve().parents if parent.exists())
    return place if place.is_dir() and os.access(place, os.W_OK) else None


def _disk(settings: Settings) -> Check:
    folder = settings.data_dir
    place = folder if folder.exists() else next(parent for parent in folder.resolve().parents if parent.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / GIB:.1f} GiB free in {place}"
    if free < TOO_LITTLE_DISK:
        return Check("disk", Status.FAIL, detail, "make room: uploads, checkpoints and students need it")
    if free < disks.reserve_bytes(settings.disk_reserve_bytes, place):
        advice = "make room, or lower LIT_DISK_RESERVE_BYTES: till then no decoded data is kept and no teacher cached"
        return Check("disk", Status.WARN, detail, advice)
    if free < LITTLE_DISK:
        return Check("disk", Status.WARN, detail, "large teachers and data sets may not fit")
    return Check("disk", Status.OK, detail)


def _gpu(settings: Settings) -> Check:
    if not cuda_present():
        asked = "cuda" in (settings.worker_devices or "")
        advice = "install the driver, or set LIT_WORKER_DEVICES to cpu" if asked else ""
        return Check("GPU", Status.FAIL if asked else Status.OK, "none; workers here train on the CPU", advice)
    fault = device_fault(["cuda"])
    if fault is not None:
        return Check("GPU", Status.WARN, fault, "install a torch that fits the driver; till then the CPU is used")
    return Check("GPU", Status.OK, "torch can use it")
