"""What `then` does to the trained student: pruned and fine-tuned again, quantised; a row of the report for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_core.exports import Calibration, write_exports
from lit_core.exports.onnx_file import onnx_runner
from lit_core.model import save_weights
from lit_core.networks.state_dicts import load_state
from lit_core.training.checkpoint import Best
from lit_core.training.pruning import parameters_left
from lit_core.training.task import Task
from lit_spec import Export, Split
from lit_spec.requests.then import prune_share

Measured = dict[str, dict[str, float | None]]
"""`accuracy` and `agreement` with the teacher, percent by split."""


@dataclass(frozen=True)
class Row:
    step: str
    file: str
    file_size: int | None
    """Bytes; None where there is no file."""
    parameters: int
    """Without those that are pruned."""
    parameters_ratio: float
    """The teacher's to these."""
    accuracy: dict[str, float | None]
    agreement: dict[str, float | None]
    accuracy_drop: float | None
    before_fine_tuning: Measured | None
    """As it was just after pruning."""
    epoch: int | None
    """Of the step's fine-tuning, chosen as a job's best epoch is; 0: none was better than before."""
    error: str | None
    """Of a file that could not be written; the job does not fail by it."""


def write_steps(
    task: Task,
    steps: Sequence[str],
    chosen: Sequence[Best],
    teacher: dict[str, Any],
    folder: Path,
    calibration: Calibration,
) -> list[dict[str, Any]]:
    """Measure what each step made and write it into `folder`. The student is as it was before the steps afterwards.

    `chosen` are the student and what each pruning step made of it; `teacher` what was measured of the teacher.
    """
    student = task.student.network
    rows: list[Row] = []
    name, pruned = "model", 0
    for step in steps:
        share = prune_share(step)
        if share is None:
            rows.append(_quantised(task, step, name, teacher, folder, calibration))
            continue
        load_state(student, chosen[pruned].state)
        task.prune(share)
        before = _measured(task, student)
        pruned += 1
        load_state(student, chosen[pruned].state)
        name = f"model.prune-{share:g}"
        path = folder / f"{name}.safetensors"
        save_weights(student, path)
        found = _measured(task, student)
        rows.append(_row(task, step, path, teacher, found, before=before, epoch=chosen[pruned].epoch))
    load_state(student, chosen[0].state)
    return [asdict(row) for row in rows]


def _quantised(
    task: Task, step: str, name: str, teacher: dict[str, Any], folder: Path, calibration: Calibration
) -> Row:
    (report,) = write_exports(
        task.student.network,
        [Export.INT8],
        folder,
        batches=lambda: task.batches(Split.TEST),
        calibration=calibration,
        name=name,
    )
    path = folder / report.file
    if report.error is not None:
        nothing: Measured = {
            measure: dict.fromkeys((Split.VALIDATION.value, Split.TEST.value)) for measure in ("accuracy", "agreement")
        }
        return _row(task, step, path, teacher, nothing, error=report.error)
    return _row(task, step, path, teacher, _measured(task, _OnnxNetwork(path)))


class _OnnxNetwork(nn.Module):
    """Answers as the file does in onnxruntime, on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.runner = onnx_runner(path)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.runner(inputs)


def _measured(task: Task, network: nn.Module) -> Measured:
    by_split = {split.value: task.measure(network, split) for split in (Split.VALIDATION, Split.TEST)}
    return {
        name: {split: _rounded(found[name]) for split, found in by_split.items()} for name in ("accuracy", "agreement")
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _row(
    task: Task,
    step: str,
    path: Path,
    teacher: dict[str, Any],
    found: Measured,
    *,
    before: Measured | None = None,
    epoch: int | None = None,
    error: str | None = None,
) -> Row:
    left = parameters_left(task.student.network)
    return Row(
        step=step,
        file=path.name,
        file_size=path.stat().st_size if error is None else None,
        parameters=left,
        parameters_ratio=round(teacher["parameters"] / left, 4),
        accuracy=found["accuracy"],
        agreement=found["agreement"],
        accuracy_drop=None if error else task.compare(teacher, found)["accuracy_drop"],
        before_fine_tuning=before,
        epoch=epoch,
        error=error,
    )
