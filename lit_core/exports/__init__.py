"""The student in other formats. Each file is compared with the torch network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lit_core.exports.int8_file import write_int8
from lit_core.exports.onnx_file import onnx_runner, write_onnx
from lit_core.exports.openvino_file import openvino_runner, write_openvino
from lit_core.exports.pt2_file import program_runner, write_program
from lit_core.exports.traced import Traced, copy_for_inference
from lit_core.exports.verify import Batches, Calibration, Details, ExportComparison, Inputs, Run, check, compare
from lit_core.measuring.cost import latency_of_runs
from lit_spec import Export
from lit_spec.trainer.report import ExportReport, LatencyReport

__all__ = ["FORMATS", "Batches", "Calibration", "Details", "Inputs", "write_exports"]


@dataclass(frozen=True)
class Format:
    """A format that is one file."""

    suffix: str
    write: Callable[[Traced, Path, Details], None]
    """Writes the file to the path."""
    runner: Callable[[Path], Run]
    exact: bool = True
    """Whether the file computes in floating point what the network does. False: its differences are measured, but not
    judged."""


FORMATS = {
    Export.ONNX: Format(".onnx", write_onnx, onnx_runner),
    Export.PT2: Format(".pt2", write_program, program_runner),
    Export.INT8: Format(".int8.onnx", write_int8, onnx_runner, exact=False),
    Export.OPENVINO: Format(".openvino.zip", write_openvino, openvino_runner),
}
"""The Hugging Face folder is not among them: it is written last, because its card shows what was measured."""
LATENCY_BATCHES = (1, 32)
LONGEST_ERROR = 300

log = logging.getLogger("trainer")


class ExportFailed(Exception):
    """The message says in which step the export failed, and why."""


def write_exports(
    network: nn.Module,
    kinds: Sequence[Export],
    folder: Path,
    *,
    batches: Batches,
    details: Details,
    classifier: bool = True,
    name: str = "model",
) -> list[ExportReport]:
    """Write the network in each format (of FORMATS) into `folder` and compare it with the network on `batches`.

    An export that fails leaves no file, and its report says why. The samples may be on any device.
    The network keeps its device and mode. The files have this `name` and the formats' suffixes.
    """
    paths = [folder / f"{name}{FORMATS[kind].suffix}" for kind in kinds]
    traced = Traced(network, batches)
    return [
        _export(network, traced, kind, path, batches, details, classifier)
        for kind, path in zip(kinds, paths, strict=True)
    ]


def _export(
    network: nn.Module, traced: Traced, kind: Export, path: Path, batches: Batches, details: Details, classifier: bool
) -> ExportReport:
    started = time.monotonic()
    found, latency, size, error = None, None, None, None
    try:
        found, latency = _written_and_compared(network, traced, FORMATS[kind], path, batches, details, classifier)
        size = path.stat().st_size
    except ExportFailed as failure:
        # The student itself is unharmed, so the job goes on; the report has the error.
        log.warning("export %s failed", kind, exc_info=True)
        error = str(failure)
    report = ExportReport(
        kind=kind,
        file=path.name,
        size=size,
        seconds=round(time.monotonic() - started, 3),
        max_abs_difference=None if found is None else found.max_abs_difference,
        top1_agreement=None if found is None else found.top1_agreement,
        accuracy=None if found is None else found.accuracy,
        samples=0 if found is None else found.samples,
        latency=latency,
        error=error,
    )
    log.info("export %s: %s", kind, report)
    return report


def _written_and_compared(
    network: nn.Module,
    traced: Traced,
    form: Format,
    path: Path,
    batches: Batches,
    details: Details,
    classifier: bool,
) -> tuple[ExportComparison, dict[str, LatencyReport]]:
    """Raises ExportFailed, and then there is no file."""
    try:
        with _step("copying the network to the CPU"):
            # Not the one that is traced, because some exporters change that.
            copied = copy_for_inference(network)
        with _step("reading an example"):
            inputs = traced.inputs
        with _step("writing"):
            form.write(traced, path, details)
        with _step("loading"):
            run = form.runner(path)
        with _step("comparing"):
            found = compare(copied, run, batches, classifier=classifier)
            if form.exact:
                check(found)
        with _step("measuring its latency"):
            latency = {f"batch_{batch}": _latency(run, inputs, batch) for batch in LATENCY_BATCHES}
    except ExportFailed:
        if path.is_file():
            path.unlink()
        raise
    return found, latency


def _latency(run: Run, inputs: Inputs, batch: int) -> LatencyReport:
    given = tuple(x[:1].repeat(batch, *[1] * (x.ndim - 1)) for x in inputs)
    found = latency_of_runs(lambda: run(given))
    return LatencyReport(p50_ms=found.p50_ms, p95_ms=found.p95_ms)


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as failure:
        raise ExportFailed(f"{name}: {_root_message(failure)}") from failure


def _root_message(failure: BaseException) -> str:
    """The message of the first exception: exporters wrap it in advice about themselves."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    text = " ".join(str(failure).split()) or "no message"
    return f"{type(failure).__name__}: {text}"[:LONGEST_ERROR]
