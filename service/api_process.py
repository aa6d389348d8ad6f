"""`python -m service.api_process --number N`: one of several processes of the API on one port, ended by SIGTERM."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from pathlib import Path

import structlog
from prometheus_client.multiprocess import mark_process_dead

from jobs.private_files import PRIVATE_UMASK
from jobs.settings import Settings
from service import http_server
from service.api_children import SHARED_METRICS
from service.commands.api import prepared_api
from service.errors import CommandError
from service.log_setup import set_up_logs
from service.signals import exit_on_signals
from worker.host.parent_death import stop_with_parent

log = structlog.get_logger()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m service.api_process", description=__doc__)
    parser.add_argument("--number", type=int, required=True, help="from 1; the first one counts the ledger's events")
    parser.add_argument("--stop-with-parent", type=int, metavar="PID", help="end when this, the parent process, ends")
    arguments = parser.parse_args()
    os.umask(PRIVATE_UMASK)
    exit_on_signals()
    if arguments.stop_with_parent is not None:
        stop_with_parent(arguments.stop_with_parent)
    settings = Settings()
    set_up_logs(settings.log_format)
    _forget_dead_processes(Path(os.environ[SHARED_METRICS]))
    atexit.register(mark_process_dead, os.getpid())
    try:
        application = prepared_api(settings, process_number=arguments.number)
        with http_server.listen_shared(settings.host, settings.port) as listening:
            http_server.run(application, listening, settings.trusted_proxies)
    except CommandError as failure:
        log.error("the API can't start", reason=str(failure))
        return os.EX_CONFIG
    return 0


def _forget_dead_processes(folder: Path) -> None:
    """Remove what killed processes said of themselves: their requests in flight are over."""
    for path in folder.glob("gauge_live*.db"):
        process = int(path.stem.rpartition("_")[2])
        if not Path(f"/proc/{process}").exists():
            mark_process_dead(process)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(main())
