"""Metric points: how many a second reach the database.

Each server's own path is measured. A worker of LIT writes to the database itself, so its points go by SQL, and a client
of MLflow has no other way than HTTP.
"""

from __future__ import annotations

import json
import threading
import time

import psycopg

from benchmarks.service.client import NUMBER, Failed, Load, measure, request
from benchmarks.service.figures import Effort, Figure
from benchmarks.service.ledger import Ledger
from benchmarks.service.requests import JSON, MLFLOW_API, create_run
from benchmarks.service.servers import Name, Server, Servers, mlflow_database
from jobs.database.connection import connection_string
from jobs.ledger.attempts import Claim, Metric

POINTS = 100
"""In one write: of one epoch."""
WRITERS = (1, 8)


def measure_points(servers: Servers, effort: Effort) -> list[Figure]:
    """LIT: the worker's path, from the messages of its trainer into the ledger. MLflow: `log-batch`."""
    figures: list[Figure] = []
    for writers in WRITERS:
        claims = [servers.ledger.running_job() for _ in range(writers)]
        found: dict[Name, list[float]] = {}
        for number in range(effort.rounds):
            for name, server in servers.running.items():
                if name is Name.LIT:
                    found.setdefault(name, []).append(_lit(servers.ledger, claims, effort.seconds, number))
                elif name is Name.MLFLOW:
                    found.setdefault(name, []).append(_mlflow(servers, server, writers, effort.seconds))
        figures += [Figure("metric points", name, "points/s", values, writers) for name, values in found.items()]
    return figures


def _lit(ledger: Ledger, claims: list[Claim], seconds: float, number: int) -> float:
    """Points a second. Each job has a writer of its own, as each worker has one."""
    written = [0] * len(claims)
    ends_at = time.perf_counter() + seconds

    def write(place: int) -> None:
        epoch = 1_000_000 * number
        while time.perf_counter() < ends_at:
            epoch += 1
            points = [Metric("lit", epoch, f"metric_{name}", float(name)) for name in range(POINTS)]
            ledger.record(claims[place], epoch, points)
            written[place] += POINTS

    begun = time.perf_counter()
    threads = [threading.Thread(target=write, args=(place,)) for place in range(len(claims))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(written) / (time.perf_counter() - begun)


def _mlflow(servers: Servers, server: Server, writers: int, seconds: float) -> float:
    """Points a second. Each writer has a run of its own, whose steps and times rise. Raises Failed if points that were
    accepted are not in the database."""
    runs = [create_run(server) for _ in range(writers)]
    batches = [request("POST", f"{MLFLOW_API}/runs/log-batch", JSON, _log_batch(run)) for run in runs]
    measured = measure(Load(server.host, server.port, batches, writers, seconds, 200))
    stored, accepted = _stored(mlflow_database(servers.settings.database_url or ""), runs), measured.answers * POINTS
    # A last batch of each writer may have been stored without an answer.
    if not accepted <= stored <= accepted + writers * POINTS:
        raise Failed(f"MLflow has accepted {accepted} metric points and stored {stored}")
    return measured.per_second * POINTS


def _log_batch(run: str) -> str:
    metrics = [{"key": f"metric_{name}", "value": name, "timestamp": NUMBER, "step": NUMBER} for name in range(POINTS)]
    # A number, not a string.
    return json.dumps({"run_id": run, "metrics": metrics}).replace(f'"{NUMBER}"', NUMBER)


def _stored(database: str, runs: list[str]) -> int:
    """Metric points of these runs in MLflow's database."""
    with psycopg.connect(connection_string(database)) as connection:
        found = connection.execute("SELECT count(*) FROM metrics WHERE run_uuid = ANY(%s)", (runs,)).fetchone()
    assert found is not None
    stored: int = found[0]
    return stored
