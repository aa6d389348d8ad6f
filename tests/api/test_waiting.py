"""The event loop: a request that waits holds up nobody else."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.jobs.racing import wait_until_blocked
from tests.worker.bench import Bench

JOB = {"teacher": "upl_none", "dataset": {"builtin": "digits"}, "student": {"depth": 8}}
BINARY = {"Content-Type": "application/octet-stream", "Upload-Offset": "0"}


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/v1/jobs", {"json": JOB}),
        ("POST", "/v1/jobs/{job}/rerun", {"json": {}}),
        ("POST", "/v1/jobs/{job}/cancel", {}),
        ("GET", "/v1/jobs/{job}?wait=1", {}),
        ("GET", "/v1/jobs/{job}/events?wait=1", {}),
        ("GET", "/v1/jobs/{job}/log", {}),
        ("GET", "/v1/jobs/{job}/artifacts/model.safetensors", {}),
        ("DELETE", "/v1/jobs/{job}", {}),
        ("POST", "/v1/uploads", {"json": {"kind": "dataset", "filename": "x", "size": 1}}),
        ("GET", "/v1/uploads/{teacher}?wait=1", {}),
        ("PATCH", "/v1/uploads/{teacher}", {"content": b"x", "headers": BINARY}),
        ("DELETE", "/v1/uploads/{teacher}", {}),
    ],
)
def test_who_waits_for_the_ledger_holds_up_nobody(
    bench: Bench, address: tuple[str, int], method: str, path: str, sent: dict[str, Any]
) -> None:
    teacher = bench.teacher()
    path = path.format(job=bench.job(teacher=teacher), teacher=teacher)
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=20) as api:
        waiting = threading.Thread(target=lambda: api.request(method, path, **sent))
        with bench.database.session() as session:
            session.execute(text("LOCK TABLE jobs, uploads IN ACCESS EXCLUSIVE MODE"))
            waiting.start()
            wait_until_blocked(bench.database)
            assert api.get("/healthz", timeout=5).status_code == 200
        waiting.join(20)
        assert not waiting.is_alive()


def test_waits_hold_no_connections(bench: Bench, address: tuple[str, int]) -> None:
    """More of them than an API process has connections to the ledger."""
    job = bench.job()
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=60, limits=httpx.Limits()) as api:
        waits = [threading.Thread(target=api.get, args=[f"/v1/jobs/{job}?wait=30"]) for _ in range(80)]
        for wait in waits:
            wait.start()
        time.sleep(1)
        # A request that found no connection would wait longer for one.
        assert api.get("/v1/jobs", timeout=8).status_code == 200
        bench.cancel(job)
        for wait in waits:
            wait.join()
