"""`litc worker`: a training worker and, beside it, an inspecting worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from service.commands.options import errors_as_sentences, read_settings, require_addresses
from service.minder import Child, ProcessMinder, RestartPolicy
from service.worker_children import check_devices, check_trackers, inspecting_worker, tracking_workers, training_worker
from worker.host.stop_signals import StopSignals


def worker(
    devices: Annotated[
        str | None,
        typer.Option(
            help='Take jobs for "cpu", "cuda" or both (comma-separated). '
            "Default: LIT_WORKER_DEVICES, or else what torch can use."
        ),
    ] = None,
    with_inspect: Annotated[bool, typer.Option(help="Inspect uploads as well, in a second process.")] = True,
) -> None:
    """Run a worker: it claims jobs, trains one at a time and inspects uploads."""
    with errors_as_sentences():
        settings = read_settings(worker_devices=devices)
        require_addresses(settings, "litc worker")
        check_devices(settings)
        check_trackers(settings)
        children = [training_worker(settings), *tracking_workers(settings)]
        if with_inspect:
            children.append(inspecting_worker(settings))
        exit_code = run_until_signal(children, RestartPolicy(first_pause=settings.restart_seconds))
    raise typer.Exit(exit_code)


def run_until_signal(children: Sequence[Child], policy: RestartPolicy = RestartPolicy()) -> int:
    """Keep the children running until SIGTERM or SIGINT, then stop them. Returns 0 if all stopped cleanly, else 1.

    A child process that ends is started again, and this process continues: if the inspecting worker dies, the training
    must not be interrupted. A container therefore restarts only if this does not help. Raises ChildFailed.
    """
    signals = StopSignals()
    with ProcessMinder(on_failure=signals.stop, policy=policy) as minder:
        minder.start(*children)
        signals.wait()
    return 0 if minder.stopped_cleanly else 1
