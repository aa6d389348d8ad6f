"""Small requests: create, poll, list."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.service.client import Failed, Load, Measured, exchange, measure, request
from benchmarks.service.figures import Effort, Figure
from benchmarks.service.ledger import Ledger
from benchmarks.service.servers import Name, Server, Servers

LISTED = 50
WARM_UP = 16
OTHERS_MAY_FAIL = 0.02
"""Under load MLflow's server answers some searches with 500, and these count like its other answers."""
MLFLOW_API = "/api/2.0/mlflow"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Case:
    """One kind of request to one server."""

    what: str
    server: Server
    text: str
    status: int

    def warm_up(self) -> None:
        """A server with several processes loads what it needs with the first request of each."""
        for _ in range(WARM_UP):
            exchange(self.server.host, self.server.port, self.text)

    def measure(self, connections: int, seconds: float) -> Measured:
        server = self.server
        may_fail = OTHERS_MAY_FAIL if server.name is Name.MLFLOW else 0.0
        try:
            return measure(Load(server.host, server.port, [self.text], connections, seconds, self.status, may_fail))
        except Failed as failed:
            raise Failed(f"{server.name}, {self.what}, {connections} connections: {failed}") from failed


def measure_requests(servers: Servers, effort: Effort) -> list[Figure]:
    kinds = {Name.LIT: lit_cases, Name.MLFLOW: _mlflow, Name.BARE: _bare}
    cases = [case for name, server in servers.running.items() for case in kinds[name](server, servers.ledger)]
    return measure_cases(cases, effort, effort.connections)


def measure_cases(cases: Sequence[Case], effort: Effort, numbers: Sequence[int]) -> list[Figure]:
    """All cases with each of these numbers of connections, in turns, so that a slow minute is everybody's."""
    for case in cases:
        case.warm_up()
    found: dict[tuple[str, Name, int], list[Measured]] = {}
    for _ in range(effort.rounds):
        for connections in numbers:
            for case in cases:
                measured = case.measure(connections, effort.seconds)
                found.setdefault((case.what, case.server.name, connections), []).append(measured)
    return [
        Figure(
            what,
            name,
            "1/s",
            [one.per_second for one in rounds],
            connections,
            statistics.median(one.p50_ms for one in rounds),
            statistics.median(one.p99_ms for one in rounds),
        )
        for (what, name, connections), rounds in found.items()
    ]


def lit_cases(server: Server, ledger: Ledger) -> Iterator[Case]:
    key = {"Authorization": f"Bearer {ledger.key}"}
    ended = f"/v1/jobs/{ledger.ended_job()}"
    running = f"/v1/jobs/{ledger.running_job().job_id}"
    queued = f"/v1/jobs/{ledger.queued_job()}"
    for _ in range(LISTED):
        ledger.queued_job()
    head, _ = exchange(server.host, server.port, request("GET", ended, key))
    if "etag" not in head.headers:
        raise Failed(f"{ended} was answered with {head.status} and no ETag")
    known = key | {"If-None-Match": head.headers["etag"]}
    body = json.dumps(ledger.job_request)
    yield Case("poll, ended, unchanged", server, request("GET", ended, known), 304)
    yield Case("poll, ended", server, request("GET", ended, key), 200)
    yield Case("poll, running", server, request("GET", running, key), 200)
    yield Case("poll, queued", server, request("GET", queued, key), 200)
    yield Case("list 50", server, request("GET", f"/v1/jobs?limit={LISTED}", key), 200)
    yield Case("create", server, request("POST", "/v1/jobs", key | JSON, body), 202)


def _mlflow(server: Server, _ledger: Ledger) -> Iterator[Case]:
    """A run is polled as a job is. Whether it has ended makes no difference to MLflow, and it knows no ETags."""
    create = request("POST", f"{MLFLOW_API}/runs/create", JSON, json.dumps({"experiment_id": "0", "start_time": 1}))
    run = create_run(server)
    for _ in range(LISTED):
        exchange(server.host, server.port, create)
    search = json.dumps({"experiment_ids": ["0"], "max_results": LISTED})
    yield Case("poll", server, request("GET", f"{MLFLOW_API}/runs/get?run_id={run}"), 200)
    yield Case("list 50", server, request("POST", f"{MLFLOW_API}/runs/search", JSON, search), 200)
    yield Case("create", server, create, 200)


def create_run(server: Server) -> str:
    """The id of a new run at MLflow."""
    body = json.dumps({"experiment_id": "0", "start_time": 1})
    head, content = exchange(server.host, server.port, request("POST", f"{MLFLOW_API}/runs/create", JSON, body))
    if head.status != 200:
        raise Failed(f"MLflow answered {head.status} when a run was made")
    run_id: str = json.loads(content)["run"]["info"]["run_id"]
    return run_id


def _bare(server: Server, _ledger: Ledger) -> Iterator[Case]:
    yield Case("constant", server, request("GET", "/constant"), 200)
    yield Case("constant, unchanged", server, request("GET", "/unchanged"), 304)
