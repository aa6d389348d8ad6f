"""What a job leaves on disks, and has there while it runs, is for the service's own user alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.faults.machines import Machines
from tests.modes import open_to_others
from tests.worker.bench import Bench, wait_for

REQUEST: dict[str, Any] = {
    "student": {"depth": 8, "select": "even"},
    "schedule": {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}, "batch_size": 64},
    "exports": [],
}


def test_a_job_leaves_nothing_that_others_can_read(bench: Bench, machines: Machines, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        bench.settings.data_dir.mkdir(exist_ok=True)
        bench.storage.root.chmod(0o755)  # type: ignore[attr-defined]  # as an earlier version made it
        machines.start_worker()
    finally:
        os.umask(before)
    work = bench.settings.data_dir / "work"
    job_id = bench.job(teacher=machines.teacher(), **REQUEST)
    wait_for(lambda: bench.events(job_id, "checkpoint"), 60)
    assert (work / "lock").exists()
    assert open_to_others(work, bench.settings.storage_root) == {}
    wait_for(lambda: bench.row(job_id).state == "succeeded", 90)
    assert any(bench.settings.storage_root.rglob("model.safetensors"))
    assert open_to_others(work, bench.settings.storage_root) == {}
