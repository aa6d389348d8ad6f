"""`litc api`: only the API. `litc serve` uses `prepared_api` too."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer
from fastapi import FastAPI

from api.app import create_app
from api.http.auth import is_loopback
from jobs.database.connection import Database
from jobs.ledger import keys as api_keys
from jobs.settings import Settings
from jobs.storage.marker import marker_key
from jobs.storage.opening import open_storage
from jobs.tracing import TracingNotConfigured, open_tracing
from service import http_server
from service.commands.options import Host, Port, errors_as_sentences, read_settings, require_addresses
from service.errors import NotConfigured
from service.signals import exit_on_signals


def api(
    host: Host = None,
    port: Port = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of the API on this port. Default: LIT_API_WORKERS, or else 1.")
    ] = None,
) -> None:
    """Run only the API. Needs DATABASE_URL and REDIS_URL."""
    with errors_as_sentences(), ExitStack() as stack:
        settings = read_settings(host=host, port=port, api_workers=workers)
        require_addresses(settings, "litc api")
        if settings.api_workers > 1:
            clean = _run_several(settings, stack)
            raise typer.Exit(0 if clean else 1)
        exit_on_signals()
        listening = stack.enter_context(http_server.listen(settings.host, settings.port))
        application = prepared_api(settings)
        typer.echo(f"LIT listens on {http_server.url_of(listening)}")
        http_server.run(application, listening, settings.trusted_proxies)


def _run_several(settings: Settings, stack: ExitStack) -> bool:
    """Keep the processes running until SIGTERM or SIGINT; whether all stopped cleanly. Raises ChildFailed."""
    # Imported here, because a process of the API itself loads nothing of the worker.
    from service.api_children import api_processes, metrics_folder, wait_until_listening
    from service.minder import ProcessMinder, RestartPolicy
    from worker.host.stop_signals import StopSignals

    signals = StopSignals()
    reserved = stack.enter_context(http_server.reserve(settings.host, settings.port))
    processes = api_processes(settings, reserved, stack.enter_context(metrics_folder()))
    _mark_storage(settings)
    _keyless(settings)
    policy = RestartPolicy(first_pause=settings.restart_seconds)
    with ProcessMinder(on_failure=signals.stop, policy=policy) as minder:
        minder.start(*processes)
        wait_until_listening(reserved, processes)
        typer.echo(f"LIT listens on {http_server.url_of(reserved)} with {len(processes)} processes")
        signals.wait()
    return minder.stopped_cleanly


def prepared_api(settings: Settings, process_number: int | None = None) -> FastAPI:
    """The API application; writes the ledger's marker into its storage. Raises NotConfigured.

    `process_number`: which of several processes on one port this is, from 1. None: the only one.
    """
    _mark_storage(settings)
    keyless = _keyless(settings)
    try:
        tracing = open_tracing("lit-api")
    except TracingNotConfigured as wrong:
        raise NotConfigured(str(wrong)) from wrong
    return create_app(settings, keyless=keyless, tracing=tracing, process_number=process_number)


def _mark_storage(settings: Settings) -> None:
    """Write the marker, by which workers recognise the storage when they start. Raises NotConfigured."""
    database = Database(settings.database_url or "", pool_size=1)
    try:
        with database.session() as session:
            marker = marker_key(session)
        storage = open_storage(settings)
        if not storage.exists(marker):  # a full disk must not keep the API from serving what is there
            storage.put_bytes(marker, b"")
    except OSError as failure:
        raise NotConfigured(
            f"the storage {settings.storage_place} can't be written ({failure}): correct it, or set LIT_STORAGE_DIR or "
            "LIT_STORAGE_URL"
        ) from failure
    finally:
        database.close()


def _keyless(settings: Settings) -> bool:
    """Whether requests need no key. Raises NotConfigured for an open address while nobody could get in."""
    if settings.oidc_issuer is not None:
        return False
    if is_loopback(settings.host):
        return True
    database = Database(settings.database_url or "", pool_size=1)
    try:
        with database.session() as session:
            if not api_keys.any_keys(session):
                raise NotConfigured(
                    f"{settings.host} can be reached from other machines, but there is no API key yet: make one with "
                    "`litc keys create NAME`, or listen on 127.0.0.1"
                )
    finally:
        database.close()
    return False
