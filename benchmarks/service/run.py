"""`make bench-service`: LIT's API beside an MLflow tracking server and the bare framework, on this machine.

Each section measures in rounds, all servers in turns in each. Prints a table with medians and spread, the ratios that
are the goals, how long a small job waits with a warm and a cold trainer, and as the last line a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.service.figures import Effort, Figure, Section
from benchmarks.service.memory import measure_memory
from benchmarks.service.points import measure_points
from benchmarks.service.requests import measure_requests
from benchmarks.service.servers import Name, running_servers
from benchmarks.service.startup import measure as measure_startup
from benchmarks.service.transfers import measure_transfers
from benchmarks.service.workers import MEASURED, TWO_TO_ONE, measure_workers, name_of
from benchmarks.stopping import exit_on_sigterm

SECTIONS: dict[str, Section] = {
    "requests": measure_requests,
    "points": measure_points,
    "transfers": measure_transfers,
    "workers": measure_workers,
    "memory": measure_memory,  # the last, because it tells what the others have left
}
STARTUP = "startup"
"""A section as well, but with services of its own: how long a small job waits, with a warm and a cold trainer."""
USUAL = Effort(rounds=3, seconds=2.0, connections=(1, 8, 64), file_bytes=400_000_000)
RATIOS = {
    "poll_unchanged_to_mlflow": ("poll, ended, unchanged", (Name.MLFLOW, "poll")),
    "poll_unchanged_to_bare": ("poll, ended, unchanged", (Name.BARE, "constant")),
    "poll_unchanged_to_bare_304": ("poll, ended, unchanged", (Name.BARE, "constant, unchanged")),
    "poll_ended_to_mlflow": ("poll, ended", (Name.MLFLOW, "poll")),
    "poll_running_to_mlflow": ("poll, running", (Name.MLFLOW, "poll")),
    "poll_queued_to_mlflow": ("poll, queued", (Name.MLFLOW, "poll")),
    "list_to_mlflow": ("list 50", (Name.MLFLOW, "list 50")),
    "create_to_mlflow": ("create", (Name.MLFLOW, "create")),
    "points_to_mlflow": ("metric points", (Name.MLFLOW, "metric points")),
    "upload_to_bare": ("upload", (Name.BARE, "upload")),
    "upload_to_mlflow": ("upload", (Name.MLFLOW, "upload")),
    "download_to_bare": ("download", (Name.BARE, "download")),
    "download_to_mlflow": ("download", (Name.MLFLOW, "download")),
    **{f"{TWO_TO_ONE}{what.replace(', ', '_')}": (name_of(what, 2), (Name.LIT, name_of(what, 1))) for what in MEASURED},
}
"""Of LIT's medians to another server's, or to its own with one process, at the same number of connections."""


def ratios(figures: Sequence[Figure]) -> dict[str, dict[str, float]]:
    """By name and by number of connections; `-` where there is one connection for a whole file."""
    medians = {(one.server, one.what, one.connections): one.median for one in figures}
    found: dict[str, dict[str, float]] = {}
    for name, (what, (other, others)) in RATIOS.items():
        for (server, measured, connections), median in medians.items():
            if (server, measured) == (Name.LIT, what) and (other, others, connections) in medians:
                place = "-" if connections is None else str(connections)
                found.setdefault(name, {})[place] = round(median / medians[other, others, connections], 2)
    return found


def print_table(figures: Sequence[Figure]) -> None:
    print(
        f"{'what':24} {'server':7} {'conn':>4} {'median':>10} {'low':>10} {'high':>10} {'unit':8} {'p50 ms':>8} p99 ms"
    )
    for one in sorted(figures, key=lambda figure: (figure.what, figure.connections or 0, figure.server)):
        times = "" if one.p50_ms is None or one.p99_ms is None else f"{one.p50_ms:8.2f} {one.p99_ms:6.2f}"
        print(
            f"{one.what:24} {one.server:7} {one.connections or '':>4} {one.median:10.1f} {min(one.values):10.1f} "
            f"{max(one.values):10.1f} {one.unit:8} {times}"
        )


def print_ratios(found: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'ratios of medians':36} by number of connections")
    for name, by_connections in found.items():
        print(f"{name:36} " + "  ".join(f"{place}: {ratio:.2f}" for place, ratio in by_connections.items()))


def summary(
    figures: Sequence[Figure], startup: Mapping[str, Any] | None, effort: Effort, api_workers: int
) -> dict[str, object]:
    packages = ("fastapi", "uvicorn", "mlflow", "sqlalchemy", "psycopg")
    return {
        "bench": "service",
        "ratios": ratios(figures),
        "figures": [one.as_json() for one in figures],
        **({} if startup is None else {"startup": startup}),
        "rounds": effort.rounds,
        "seconds": effort.seconds,
        "file_bytes": effort.file_bytes,
        "api_workers": api_workers,
        "machine": describe() | {name: version(name) for name in packages} | {"load": round(os.getloadavg()[0], 2)},
    }


def run(
    sections: Sequence[str], effort: Effort, folder: Path, names: Sequence[Name] = tuple(Name), *, api_workers: int = 1
) -> list[Figure]:
    with running_servers(folder, names, api_workers=api_workers) as servers:
        return [figure for name in sections for figure in SECTIONS[name](servers, effort)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    sections = [*SECTIONS, STARTUP]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections, help="these sections")
    parser.add_argument("--servers", nargs="+", type=Name, choices=list(Name), default=list(Name))
    parser.add_argument("--rounds", type=int, default=USUAL.rounds)
    parser.add_argument("--seconds", type=float, default=USUAL.seconds, help="of each measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=list(USUAL.connections))
    parser.add_argument("--file-bytes", type=int, default=USUAL.file_bytes)
    parser.add_argument("--api-workers", type=int, default=1, help="processes of LIT's API")
    arguments = parser.parse_args()
    effort = Effort(arguments.rounds, arguments.seconds, arguments.connections, arguments.file_bytes)
    compared = [name for name in SECTIONS if name in arguments.only]
    figures: list[Figure] = []
    if compared:
        with tempfile.TemporaryDirectory(prefix="lit-bench-") as folder:
            figures = run(compared, effort, Path(folder), arguments.servers, api_workers=arguments.api_workers)
        print_table(figures)
        print_ratios(ratios(figures))
    # The last, and when the servers have ended, because its jobs need the whole machine.
    startup = measure_startup(short=False) if STARTUP in arguments.only else None
    print(json.dumps(summary(figures, startup, effort, arguments.api_workers)))
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
