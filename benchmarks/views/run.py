"""`make bench-views`: students that see k views of each sample, as with a cached teacher, and one that sees new ones.

Each cell is a job of the trainer in this process, with an empty cache of its own, so that its time has what filling
takes. Seeds are the outermost loop, and every cell is kept in the folder's results.json: what is there is not run
again, and an early end leaves whole seeds. Prints a table for each setting and, as the last line, a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copyfile

import torch

from benchmarks.evidence.data import dataset_file
from benchmarks.evidence.teachers import train_classifier
from benchmarks.intervals import spread
from benchmarks.machine import describe
from benchmarks.stopping import exit_on_sigterm
from benchmarks.views.settings import RECIPES_IN_SHORT, SETTINGS, VIEWS, Setting
from benchmarks.whole_files import written_whole
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_core.trainer.job import run_job
from lit_core.trainer.supervision import DeadlineWatch
from lit_spec import JobRequest, Phase, resolve
from lit_spec.trainer.folder import DATASET_FILE, RUN_FILE, SPEC_FILE, TEACHER_FILE
from lit_spec.trainer.messages import EpochDone, Progress, TrainerMessage
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.report import BySplit, Report
from lit_spec.trainer.run import TrainerRun

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".evidence/views"
CACHE_BYTES = 8 << 30
TRAINING = {JobPhase.RACING, *(JobPhase(phase.value) for phase in Phase)}


@dataclass(frozen=True)
class Cell:
    """What came of one job. Accuracy and agreement with the teacher are percentages of the test split."""

    setting: str
    views: int | None
    """None: new ones in each pass."""
    seed: int
    accuracy: float
    agreement: float
    teacher_accuracy: float
    hit_rate: float
    """Of the cache."""
    bytes: int
    """Of the cache at the end."""
    winner: str | None
    """Method and learning rate that won the race, if there was one."""
    cpu_seconds: float
    """Of this process in the training, its race and validation included."""


class TrainingClock:
    """Takes the trainer's messages, and the processor time between the first and the last of its training."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended: float | None = None

    def emit(self, message: TrainerMessage) -> None:
        if self.began is None and isinstance(message, Progress) and message.phase in TRAINING:
            self.began = time.process_time()
        if isinstance(message, EpochDone):
            self.ended = time.process_time()

    @property
    def seconds(self) -> float:
        if self.began is None or self.ended is None:
            raise ValueError("the trainer has told nothing of its training")
        return self.ended - self.began


def teacher_of(dataset: str, folder: Path) -> Path:
    """A checkpoint, trained if it isn't there yet."""
    file = folder / f"teachers/{dataset}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        accuracy = train_classifier(RECIPES_IN_SHORT[dataset], lambda name: dataset_file(name, folder / "data"), file)
        print(f"teacher {dataset}: {accuracy:.2f} % of the validation split", flush=True)
    return file


def run_cell(setting: Setting, views: int | None, seed: int, teacher: Path, data: Path) -> Cell:
    """Raises what the trainer raises."""
    with tempfile.TemporaryDirectory(prefix="bench-views-") as place:
        folder, cache = Path(place) / "job", Path(place) / "cache"
        folder.mkdir()
        copyfile(teacher, folder / TEACHER_FILE)
        copyfile(data, folder / DATASET_FILE)
        request = JobRequest.model_validate(setting.arm(views, seed))
        spec = resolve(request, inspect_teacher(read_teacher(teacher)))
        run = TrainerRun(
            device="cpu",
            threads=1,
            teacher_cache=cache,
            teacher_cache_bytes=CACHE_BYTES,
            teacher_cache_job_bytes=CACHE_BYTES,
        )
        (folder / SPEC_FILE).write_text(spec.model_dump_json())
        (folder / RUN_FILE).write_text(run.model_dump_json())
        clock = TrainingClock()
        report = run_job(folder, clock, DeadlineWatch())
    assert isinstance(report, Report)
    return _cell(setting, views, seed, report, clock.seconds)


def _cell(setting: Setting, views: int | None, seed: int, report: Report, seconds: float) -> Cell:
    cache, student = report.teacher_cache, report.student
    assert (cache.views if cache else None) == views, "the cache has other views than were asked for"
    race = report.race
    return Cell(
        setting=setting.name,
        views=views,
        seed=seed,
        accuracy=_on_test(student.accuracy),
        agreement=_on_test(student.agreement),
        teacher_accuracy=_on_test(report.teacher.accuracy),
        hit_rate=cache.hit_rate if cache else 0.0,
        bytes=cache.bytes if cache else 0,
        winner=f"{race.method} {race.learning_rate:g}" if race else None,
        cpu_seconds=round(seconds, 2),
    )


def _on_test(score: BySplit | None) -> float:
    assert score is not None
    assert score.test is not None
    return score.test


def compare(
    settings: Sequence[Setting], views: Sequence[int], seeds: int, folder: Path, tell: Callable[[Cell], None]
) -> list[Cell]:
    """All cells. Those that are in the folder's results are not run again."""
    results = folder / "results.json"
    cells = [Cell(**row) for row in json.loads(results.read_text())] if results.exists() else []
    known = {(cell.setting, cell.views, cell.seed) for cell in cells}
    for seed in range(seeds):
        for setting in settings:
            teacher, data = teacher_of(setting.dataset, folder), dataset_file(setting.dataset, folder / "data")
            for count in (None, *views):
                if (setting.name, count, seed) in known:
                    continue
                cells.append(run_cell(setting, count, seed, teacher, data))
                with written_whole(results) as file:
                    file.write_text(json.dumps([asdict(cell) for cell in cells]))
                tell(cells[-1])
    return cells


def table(cells: Sequence[Cell]) -> str:
    """Of one setting: means and standard deviations over seeds, and differences from new views with the same seed,
    with their standard errors."""
    fresh = {cell.seed: cell for cell in cells if cell.views is None}
    lines = [
        "| views | top-1, % | difference | agreement, % | difference | CPU s | cached |",
        "|---|---|---|---|---|---|---|",
    ]
    for views in sorted({cell.views for cell in cells}, key=lambda count: count or 0):
        own = [cell for cell in cells if cell.views == views]
        pairs = [(cell, fresh[cell.seed]) for cell in own if views and cell.seed in fresh]
        lines.append(
            f"| {views or 'new'} | {spread([cell.accuracy for cell in own])} "
            f"| {difference([cell.accuracy - other.accuracy for cell, other in pairs])} "
            f"| {spread([cell.agreement for cell in own])} "
            f"| {difference([cell.agreement - other.agreement for cell, other in pairs])} "
            f"| {statistics.median(cell.cpu_seconds for cell in own):.1f} "
            f"| {100 * statistics.mean(cell.hit_rate for cell in own):.0f} % |"
        )
    return "\n".join(lines)


def difference(values: Sequence[float]) -> str:
    """Mean and its standard error; one value alone has none."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):+.2f}"
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else mean


def _tell(cell: Cell) -> None:
    print(json.dumps(asdict(cell)), flush=True)


def main(arguments: Sequence[str] | None = None, settings: Mapping[str, Setting] | None = None) -> int:
    settings = settings or {setting.name: setting for setting in SETTINGS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views.run", description=__doc__)
    parser.add_argument("--settings", nargs="+", choices=list(settings), default=list(settings))
    parser.add_argument("--views", nargs="+", type=int, default=list(VIEWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the data, the teachers and the results")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    chosen = [settings[name] for name in given.settings]
    cells = compare(chosen, given.views, given.seeds, given.folder, _tell)
    for setting in chosen:
        own = [cell for cell in cells if cell.setting == setting.name]
        print(f"\n{setting.name}, teacher {own[0].teacher_accuracy:.2f} %\n\n{table(own)}")
    print(json.dumps({"bench": "views", "machine": describe(), "cells": [asdict(cell) for cell in cells]}))
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
