"""`litc serve`: the whole service on one machine."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from typing import Annotated

import typer

from jobs.database.migrate import upgrade
from service import http_server
from service.api_children import api_processes, metrics_folder, wait_until_listening
from service.backing_services import backing_services
from service.commands.api import prepared_api
from service.commands.options import Host, Port, errors_as_sentences, read_settings
from service.signals import exit_on_signals, ignore_signals
from service.worker_children import check_devices, check_trackers, inspecting_worker, tracking_workers, training_worker


def serve(
    host: Host = None,
    port: Port = None,
    workers: Annotated[int, typer.Option(help="How many workers to run beside the API.", min=0, max=64)] = 1,
) -> None:
    """Run the whole service on this machine: API, worker and, unless their URLs are set, PostgreSQL and Valkey."""
    with errors_as_sentences(), ExitStack() as stack:
        settings = read_settings(host=host, port=port)
        if workers:
            check_devices(settings)
            check_trackers(settings)
        exit_on_signals()
        several = settings.api_workers > 1
        bind = http_server.reserve if several else http_server.listen
        listening = stack.enter_context(bind(settings.host, settings.port))
        # Before what stops the processes that use it, so that it goes after them.
        metrics = stack.enter_context(metrics_folder())
        settings, minder = stack.enter_context(backing_services(settings, on_failure=_end_this_process))
        upgrade(settings.database_url or "")
        # Also with several processes: what is wrong with the settings is said once, and here.
        application = prepared_api(settings)
        url = http_server.url_of(listening)
        if workers:
            training = [training_worker(settings, number=number) for number in range(1, workers + 1)]
            # One is enough to inspect uploads, and one to keep runs at MLflow up to date.
            minder.start(*training, inspecting_worker(settings, number=workers + 1), *tracking_workers(settings))
        if several:
            processes = api_processes(settings, listening, metrics)
            minder.start(*processes)
            wait_until_listening(listening, processes)
        # After a signal the stack is unwound from here: API first, then workers, then broker and database.
        stack.callback(ignore_signals)
        typer.echo(f"LIT listens on {url} (documentation: {url}/docs). Stop it with Ctrl-C.")
        if several:
            threading.Event().wait()  # a signal ends it
        http_server.run(application, listening, settings.trusted_proxies)


def _end_this_process() -> None:
    """Send SIGTERM to this process: uvicorn ends, and everything is stopped in order."""
    os.kill(os.getpid(), signal.SIGTERM)
