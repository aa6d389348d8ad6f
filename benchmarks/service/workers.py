"""Several processes of the API on one port: how much more they answer than one (`litc api --workers`)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from benchmarks.service.figures import Effort, Figure
from benchmarks.service.requests import lit_cases, measure_cases
from benchmarks.service.servers import Name, Servers, started_lit

PROCESSES = (1, 2)
MEASURED = ("poll, ended", "poll, running", "create")
TWO_TO_ONE = "two_processes_to_one_"
"""How the names of the ratios begin."""


def measure_workers(servers: Servers, effort: Effort) -> list[Figure]:
    """Of services of their own on the same ledger, in turns. One connection is always served by one process."""
    if Name.LIT not in servers.running:
        return []
    several = [connections for connections in effort.connections if connections > 1]
    with ExitStack() as stack:
        services = {
            number: stack.enter_context(
                started_lit(servers.folder, servers.settings, number, servers.folder / f"lit-{number}.log")
            )
            for number in PROCESSES
        }
        cases = [
            replace(case, what=name_of(case.what, number))
            for number, service in services.items()
            for case in lit_cases(service, servers.ledger)
            if case.what in MEASURED
        ]
        return measure_cases(cases, effort, several)


def name_of(what: str, processes: int) -> str:
    return f"{what}, {processes} process{'es' if processes > 1 else ''}"
