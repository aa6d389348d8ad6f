"""The operations of `then`: the files and report entries of the pruned students and of the quantised one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from lit_core.exports import Details, write_exports
from lit_core.exports.onnx_file import onnx_runner
from lit_core.measuring.cost import ratio_of
from lit_core.model import save_weights
from lit_core.networks.state_dicts import load_state
from lit_core.training.checkpoint import BestEpoch
from lit_core.training.pruning import parameters_left
from lit_core.training.task import Task
from lit_spec import Architecture, Export, Split
from lit_spec.requests.then import prune_share
from lit_spec.trainer.report import BySplit, Measures, NetworkReport, OperationReport


def write_operations(
    task: Task,
    operations: Sequence[str],
    chosen: Sequence[BestEpoch],
    teacher: NetworkReport,
    folder: Path,
    details: Details,
    architecture: Architecture,
) -> list[OperationReport]:
    """Measure the result of each operation and write it into `folder`. The student is unchanged afterwards.

    `chosen` is the student followed by the result of each pruning. `teacher` is the teacher as it was measured.
    """
    student = task.student.network
    reports: list[OperationReport] = []
    name, pruned = "model", 0
    for operation in operations:
        share = prune_share(operation)
        if share is None:
            reports.append(_quantised(task, operation, name, teacher, folder, details))
            continue
        load_state(student, chosen[pruned].state)
        task.prune(share)
        before = _measured(task, student)
        pruned += 1
        load_state(student, chosen[pruned].state)
        name = f"model.prune-{share:g}"
        path = folder / f"{name}.safetensors"
        save_weights(student, path, architecture, details.metadata)
        found = _measured(task, student)
        reports.append(
            _operation_report(task, operation, path, teacher, found, before=before, epoch=chosen[pruned].epoch)
        )
    load_state(student, chosen[0].state)
    return reports


def _quantised(
    task: Task, operation: str, name: str, teacher: NetworkReport, folder: Path, details: Details
) -> OperationReport:
    (report,) = write_exports(
        task.student.network,
        [Export.INT8],
        folder,
        batches=lambda: task.batches(Split.TEST),
        details=details,
        name=name,
    )
    path = folder / report.file
    if report.error is not None:
        return _operation_report(task, operation, path, teacher, Measures(), error=report.error)
    return _operation_report(task, operation, path, teacher, _measured(task, _OnnxNetwork(path)))


class _OnnxNetwork(nn.Module):
    """Runs the file with onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.runner = onnx_runner(path)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.runner(inputs)


def _measured(task: Task, network: nn.Module) -> Measures:
    by_split = {split: task.measure(network, split) for split in (Split.VALIDATION, Split.TEST)}
    return Measures(accuracy=_by_split(by_split, "accuracy"), agreement=_by_split(by_split, "agreement"))


def _by_split(measured: Mapping[Split, Mapping[str, float | None]], name: str) -> BySplit:
    return BySplit(val=_rounded(measured[Split.VALIDATION][name]), test=_rounded(measured[Split.TEST][name]))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _operation_report(
    task: Task,
    operation: str,
    path: Path,
    teacher: NetworkReport,
    found: Measures,
    *,
    before: Measures | None = None,
    epoch: int | None = None,
    error: str | None = None,
) -> OperationReport:
    left = parameters_left(task.student.network)
    return OperationReport(
        step=operation,
        file=path.name,
        file_size=path.stat().st_size if error is None else None,
        parameters=left,
        parameters_ratio=ratio_of(teacher.parameters, left),
        accuracy=found.accuracy or BySplit(val=None, test=None),
        agreement=found.agreement or BySplit(val=None, test=None),
        accuracy_drop=None if error else task.compare(teacher, found).accuracy_drop,
        before_fine_tuning=before,
        epoch=epoch,
        error=error,
    )
