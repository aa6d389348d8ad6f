"""Compress a teacher with Airflow 3. Copy this file and lit_steps.py to the DAGs' folder.

The workers need `pip install lit-compress`, and a connection `lit`: its host is the service's address, such as
https://lit.example.com, and its password the API key.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lit_steps
from airflow.sdk import Connection, dag, task
from airflow.sdk.exceptions import AirflowFailException

from lit_client import Client

PARAMS = {
    "teacher": "/data/teacher.safetensors",
    "students": "/data/students",
    "request": {"dataset": {"mounted": "cifar10"}, "student": {"depth": 20}, "accept": {"max_accuracy_drop": 1.5}},
}


def service() -> Client:
    connection = Connection.get("lit")
    return Client(connection.host, api_key=connection.password)


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
)
def compress_teacher() -> None:
    @task
    def submit(params: dict[str, Any], run_id: str) -> str:
        # A retry has the same run_id, and so gets the job that an earlier try has created.
        with service() as client:
            return lit_steps.submit(client, Path(params["teacher"]), params["request"], f"compress_teacher/{run_id}")

    # Between two looks the task takes no worker's slot.
    @task.sensor(mode="reschedule", poke_interval=30, timeout=timedelta(days=1).total_seconds())
    def finished(job: str) -> bool:
        with service() as client:
            return lit_steps.is_finished(client, job)

    @task
    def fetch(job: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            with service() as client:
                return lit_steps.fetch(client, job, Path(params["students"]) / job)
        except lit_steps.NoUsableStudent as failure:
            # No retries: the task and the run fail at once.
            raise AirflowFailException(str(failure)) from failure

    job = submit()
    finished(job) >> fetch(job)


compress_teacher()
