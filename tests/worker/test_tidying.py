"""What jobs have left on a worker's disk is removed without a job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.small_disks import MORE_THAN_A_DISK
from worker.host.checkout import CHECKOUT
from worker.training.job_folder import data_store
from worker.training.tidying import tidy

BOUNDS = {"data_store_bytes": 1 << 30, "disk_reserve_bytes": 0}


def entry(folder: Path, lock: str, age: float = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "values").write_bytes(bytes(1000))
    (folder / lock).touch()
    used = (folder / lock).stat().st_mtime - age
    os.utime(folder / lock, (used, used))
    return folder


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, {"new", "teacher"}),
        ({"data_store_days": 30}, {"old", "new", "teacher"}),
        ({"data_store_bytes": 0}, {"teacher"}),
        ({"teacher_cache_bytes": 0}, {"new"}),
        ({"disk_reserve_bytes": MORE_THAN_A_DISK}, set()),
    ],
)
def test_what_is_old_or_too_much_is_removed(tmp_path: Path, changes: dict[str, float], left: set[str]) -> None:
    settings = Settings(data_dir=tmp_path, _env_file=None).model_copy(update={**BOUNDS, **changes})
    entries = [
        entry(data_store(settings) / "old", "lock", age=8 * 86_400),
        entry(data_store(settings) / "new", "lock"),
        entry(settings.teacher_cache / "teacher", "used"),
    ]
    tidy(settings, tmp_path)
    assert {folder.name for folder in entries if folder.exists()} == left


def test_it_loads_no_torch() -> None:
    program = "import sys, lit_core.trainer.tidying; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True)
