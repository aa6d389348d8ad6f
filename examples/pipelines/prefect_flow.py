"""Compress a teacher with Prefect 3. Keep lit_steps.py beside this file.

The flow's environment needs `pip install lit-compress`, LIT_URL, and a Secret block `lit-api-key`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lit_steps
from prefect import flow, runtime, task
from prefect.blocks.system import Secret
from prefect.states import State

from lit_client import Client


def service() -> Client:
    return Client(api_key=Secret.load("lit-api-key").get())


def may_help(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether another try may end differently."""
    return not isinstance(state.result(raise_on_failure=False), lit_steps.NoUsableStudent)


@task(retries=3, retry_delay_seconds=60)
def submit(teacher: Path, request: dict[str, Any], key: str) -> str:
    with service() as client:
        return lit_steps.submit(client, teacher, request, key)


@task(retries=3, retry_delay_seconds=60)
def wait(job: str) -> None:
    with service() as client:
        client.wait_job(job)


@task(retries=3, retry_delay_seconds=60, retry_condition_fn=may_help)
def fetch(job: str, folder: Path) -> dict[str, Any]:
    with service() as client:
        return lit_steps.fetch(client, job, folder)


@flow(log_prints=True)
def compress_teacher(teacher: Path, request: dict[str, Any], students: Path) -> dict[str, Any]:
    # Retries of a task and of the flow run keep its id, and so get the job that an earlier try has created.
    job = submit(teacher, request, f"compress_teacher/{runtime.flow_run.id}")
    wait(job)
    found = fetch(job, students / job)
    print(found)
    return found


if __name__ == "__main__":
    compress_teacher.serve(name="nightly", cron="0 2 * * *")
