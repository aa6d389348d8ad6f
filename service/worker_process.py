"""`python -m service.worker_process [--inspect | --track] [--devices cpu,cuda]`: a worker process, ended by SIGTERM."""

from __future__ import annotations

import argparse
import os
import sys

from jobs.private_files import PRIVATE_UMASK
from jobs.settings import Settings
from service.log_setup import set_up_logs
from worker.host.devices import worker_devices
from worker.host.parent_death import stop_with_parent
from worker.host.startup import exit_on_sigterm, refuse_to_start
from worker.inspecting import process as inspecting
from worker.tracking import process as tracking
from worker.training import process as training


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m service.worker_process", description=__doc__)
    parser.add_argument("--inspect", action="store_true", help="inspect uploads instead of training")
    parser.add_argument("--track", action="store_true", help="keep runs at MLflow up to date instead of training")
    parser.add_argument("--devices", help='"cpu", "cuda" or both, comma-separated; detected when not given')
    parser.add_argument("--stop-with-parent", type=int, metavar="PID", help="end when this, the parent process, ends")
    arguments = parser.parse_args()
    os.umask(PRIVATE_UMASK)
    exit_on_sigterm()
    if arguments.stop_with_parent is not None:
        stop_with_parent(arguments.stop_with_parent)
    settings = Settings()
    set_up_logs(settings.log_format)
    if arguments.inspect:
        return inspecting.run(settings)
    if arguments.track:
        return tracking.run(settings)
    try:
        devices = worker_devices(arguments.devices or settings.worker_devices)
    except ValueError as failure:
        refuse_to_start(str(failure))
    return training.run(settings, devices)


if __name__ == "__main__":
    sys.exit(main())
