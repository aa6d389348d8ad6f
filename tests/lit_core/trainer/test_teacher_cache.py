"""Jobs whose teacher is cached: killed in the middle, sharing what is there, and what the report says."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_core import seeding
from lit_core.report import versions
from lit_core.trainer import teacher_cache as cache_module
from lit_core.trainer.job import run_job
from lit_core.training import loop, recipe
from lit_core.training.caching import teacher as teacher_module
from lit_core.training.checkpoint import load_checkpoint, read_checkpoint
from lit_core.training.loop import Drained
from lit_core.training.taught import LiveTeacher
from lit_spec import JobRequest, SpecError, resolve
from lit_spec.trainer.folder import CHECKPOINT_FILE
from tests.lit_core.trainer.forked import ForkedTrainer
from tests.lit_core.trainer.test_methods import StopsAt, train_in
from tests.lit_core.trainer.test_training import KeptMessages, job_folder, weights

GIB = 1 << 30
SCHEDULE = {
    "batch_size": 16,
    "lit": {"epochs": 3, "learning_rate": 0.05},
    "fine_tune": {"epochs": 2, "learning_rate": 0.02},
}
CACHED = {
    "dataset": {"upload": "upl_d", "train_samples": 64},
    "teacher_cache": {"views": 2},
    "schedule": SCHEDULE,
    "augmentation": {"shift": 1, "flip": True, "noise": 0.1},
    "mixing": 0.5,
    "n_random": 8,
    "alpha": 0.0,
}


@pytest.fixture(autouse=True)
def no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """These teachers take no longer than reading does, and what is decided by the clock would decide what is read."""
    monkeypatch.setattr(teacher_module, "MEASURED_BATCHES", 10**9)


def job(folder: Path, teacher: Path, cache: Path | None, attempt: int = 1, **changes: Any) -> Path:
    job_folder(folder, teacher, **{**CACHED, **changes})
    begin(folder, cache, attempt)
    return folder


def begin(folder: Path, cache: Path | None, attempt: int = 1, **machine: Any) -> None:
    run = {"device": "cpu", "threads": 1, "attempt": attempt}
    place = {} if cache is None else {"teacher_cache": str(cache)}
    bounds = {"teacher_cache_bytes": GIB, "teacher_cache_job_bytes": GIB}
    (folder / "run.json").write_text(json.dumps({**run, **place, **bounds, **machine}))


def entry_of(cache: Path) -> Path:
    (found,) = (path for path in cache.iterdir() if path.is_dir())
    return found


class Counted:
    """Counts how many samples the teacher is run on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples = 0
        run = LiveTeacher.__call__

        def counted(live: LiveTeacher, batch: Any) -> Any:
            self.samples += len(batch.labels) if batch.samples is not None else 0
            return run(live, batch)

        monkeypatch.setattr(LiveTeacher, "__call__", counted)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> bytes:
    """The student of a job that ran alone and was never interrupted."""
    place = tmp_path_factory.mktemp("unbroken")
    folder = job(place / "job", teacher_file, place / "cache")
    train_in(folder)
    return weights(folder)


def test_a_second_job_runs_no_teacher_and_learns_the_same(
    tmp_path: Path, teacher_file: Path, unbroken: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []
    counted = Counted(monkeypatch)
    for name in ("first", "second"):
        counted.samples = 0
        folder = job(tmp_path / name, teacher_file, tmp_path / "cache")
        reports.append(train_in(folder)["teacher_cache"])
        assert weights(folder) == unbroken
    assert counted.samples == 0
    assert [report["used"] for report in reports] == [True, True]
    # Of five passes two fill the cache; fine-tuning needs only logits, which are there.
    assert [report["hit_rate"] for report in reports] == [0.6, 1.0]
    assert {report["views"] for report in reports} == {2}
    assert {report["dtype"] for report in reports} == {"float16"}
    assert reports[0]["bytes"] == reports[1]["bytes"] >= 2 * reports[0]["bytes_per_view"] > 0


def test_a_job_with_another_seed_or_method_shares_what_is_there(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_in(job(tmp_path / "first", teacher_file, tmp_path / "cache"))
    counted = Counted(monkeypatch)
    for name, changes in (("seed", {"seed": 5, "tau": 2.0}), ("kd", {"method": "kd"})):
        folder = job(tmp_path / name, teacher_file, tmp_path / "cache", **changes)
        assert train_in(folder)["teacher_cache"]["hit_rate"] == 1.0, name
        assert counted.samples == 0
    # What is in the key of the cache is not shared.
    folder = job(tmp_path / "mixing", teacher_file, tmp_path / "cache", mixing=0.25)
    assert train_in(folder)["teacher_cache"]["hit_rate"] == 0.6
    assert counted.samples > 0
    other = {**versions(), "timm": "0.0"}
    monkeypatch.setattr(cache_module, "versions", lambda: other)
    folder = job(tmp_path / "versions", teacher_file, tmp_path / "cache")
    assert train_in(folder)["teacher_cache"]["hit_rate"] == 0.6


@pytest.mark.parametrize(
    "module", ["seeding", "data.augmentation", "networks.inference", "tasks.classification", "training.mixing"]
)
def test_other_code_that_makes_samples_or_numbers_does_not_read_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """As in another checkout of the same version."""
    own = Path(seeding.__file__)
    other = shutil.copytree(own.parent, tmp_path / "lit_core", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(seeding, "__file__", str(other / own.name))
    before = cache_module._digest_of_code()
    with other.joinpath(*module.split(".")).with_suffix(".py").open("a") as file:
        file.write("# changed\n")
    assert cache_module._digest_of_code() != before


def test_killed_while_it_fills_the_cache_it_goes_on_to_the_same_bits(
    tmp_path: Path, teacher_file: Path, unbroken: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The trainer is forked, so this is so in it too.
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_PROGRESS", 0.0)
    cache = tmp_path / "cache"
    folder = job(tmp_path / "job", teacher_file, cache)
    trainer = ForkedTrainer(folder)
    for line in trainer.messages:
        told = json.loads(line)
        # In the middle of the second epoch, or somewhat later: it goes on while this process reads.
        if told["type"] == "progress" and (told["phase"], told["epoch"], told["step"]) == ("lit", 1, 2):
            trainer.send_signal(signal.SIGKILL)
            break
    assert trainer.wait() == -signal.SIGKILL
    # Killed in the middle of a write: values that are there have lost their marks.
    for path in entry_of(cache).iterdir():
        if path.name.endswith("-0"):
            with path.open("r+b") as file:
                file.seek(-50, os.SEEK_END)
                file.write(bytes(25))
    begin(folder, cache, attempt=2)
    report = train_in(folder)
    assert weights(folder) == unbroken
    assert report["resumes"][-1]["bit_identical"]
    assert report["teacher_cache"]["used"]


def test_another_worker_without_a_cache_goes_on_to_the_same_bits(
    tmp_path: Path, teacher_file: Path, unbroken: bytes
) -> None:
    folder = job(tmp_path / "job", teacher_file, tmp_path / "cache")
    with pytest.raises(Drained):
        run_job(folder, KeptMessages(), StopsAt(8))
    plan = load_checkpoint(folder / CHECKPOINT_FILE).cache_plan
    assert plan is not None
    assert plan.views == 2
    begin(folder, None, attempt=2)
    report = train_in(folder)
    assert weights(folder) == unbroken
    assert report["teacher_cache"]["views"] == 2
    assert not report["teacher_cache"]["used"]
    # It might have been otherwise: other jobs may have filled the cache of the first attempt.
    (resume,) = report["resumes"]
    assert not resume["bit_identical"]
    assert set(resume["differences"]) == {"teacher_cache"}
    assert resume["differences"]["teacher_cache"][1] == "none"


def test_a_checkpoint_from_before_there_were_caches_is_read(tmp_path: Path, teacher_file: Path) -> None:
    folder = job(tmp_path / "job", teacher_file, None, teacher_cache="off")
    with pytest.raises(Drained):
        run_job(folder, KeptMessages(), StopsAt(8))
    stored = read_checkpoint(folder / CHECKPOINT_FILE)
    del stored["cache_plan"], stored["environment"]["processes"]
    torch.save({**stored, "format": 9}, folder / CHECKPOINT_FILE)
    begin(folder, None, attempt=2)
    (resume,) = train_in(folder)["resumes"]
    assert resume["differences"] == {"processes": [None, "1"]}
    assert not resume["bit_identical"]


@pytest.mark.parametrize(
    ("changes", "machine", "reason"),
    [
        ({}, {"teacher_cache_job_bytes": 1000}, "2 views take"),
        ({"teacher_cache": "auto"}, {}, "passes over the data are too few"),
        ({}, {"teacher_cache": "/proc/cache"}, "folder of cached teachers can't be used"),
    ],
)
def test_why_nothing_is_cached_stands_in_the_report(
    tmp_path: Path, teacher_file: Path, changes: dict[str, Any], machine: dict[str, Any], reason: str
) -> None:
    folder = job(tmp_path / "job", teacher_file, tmp_path / "cache", **changes)
    begin(folder, tmp_path / "cache", **machine)
    report = train_in(folder)["teacher_cache"]
    assert reason in report["reason"]
    assert set(report) == {"reason"}


def test_a_job_of_many_passes_is_cached_by_default(tmp_path: Path, teacher_file: Path) -> None:
    schedule = {"batch_size": 16, "lit": {"epochs": 20, "learning_rate": 0.05}, "fine_tune": {"epochs": 4}}
    changes = {"schedule": schedule, "dataset": {"upload": "upl_d", "train_samples": 32}, "n_random": 0}
    folder = job(tmp_path / "job", teacher_file, tmp_path / "cache", teacher_cache="auto", **changes)
    report = train_in(folder)["teacher_cache"]
    # A view for three of 24 passes. Fine-tuning shows the first four of them again.
    assert report["views"] == 8
    assert report["hit_rate"] == pytest.approx(16 / 24, abs=1e-3)


def test_switched_off_nothing_is_reported_and_each_pass_has_its_own_views(
    tmp_path: Path, teacher_file: Path, unbroken: bytes
) -> None:
    folder = job(tmp_path / "job", teacher_file, tmp_path / "cache", teacher_cache="off")
    assert "teacher_cache" not in train_in(folder)
    assert not (tmp_path / "cache").exists()
    assert weights(folder) != unbroken


def test_a_race_shares_the_samples_of_its_candidates(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "LEAST_STEPS", 10)
    monkeypatch.setattr(recipe, "MOST_STEPS", 10)
    few = {"preset": "few", "schedule": {"steps_per_epoch": 5, "lit": {"epochs": 2}}, "teacher_cache": {"views": 4}}
    counted = Counted(monkeypatch)
    folder = job(tmp_path / "job", teacher_file, tmp_path / "cache", dataset={"upload": "upl_d"}, n_random=0, **few)
    report = train_in(folder)
    candidates = len(report["race"]["racers"])
    assert candidates >= 4
    steps = 10 * (candidates + 1)
    # The first candidate of each kind fills what the others read.
    assert counted.samples <= 3 * 10 * 32 < steps * 32
    assert report["teacher_cache"]["hit_rate"] > 0.5


def test_generators_and_scratch_refuse_what_they_cannot_keep(tmp_path: Path, teacher_file: Path) -> None:
    from lit_core.networks.teacher import inspect_teacher, read_teacher

    inspection = inspect_teacher(read_teacher(teacher_file))
    request = {"teacher": "u", "dataset": {"upload": "d"}, "student": {"depth": 14}, "method": "scratch", "alpha": 1.0}
    assert resolve(JobRequest.model_validate(request), inspection).teacher_cache == "off"
    with pytest.raises(SpecError, match="scratch has no teacher: leave it out"):
        resolve(JobRequest.model_validate({**request, "teacher_cache": {"views": 3}}), inspection)
