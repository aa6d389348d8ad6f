"""The student in other formats. Each file is compared with the torch network."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from lit_core.exports.int8_file import Calibration, write_int8
from lit_core.exports.onnx_file import onnx_runner, write_onnx
from lit_core.exports.pt2_file import program_runner, write_program
from lit_core.exports.verify import Batches, ExportComparison, Inputs, Run, check, compare
from lit_spec import Export
from lit_spec.trainer.report import ExportReport

__all__ = ["SUFFIXES", "Batches", "Calibration", "Inputs", "write_exports"]

SUFFIXES = {Export.ONNX: ".onnx", Export.PT2: ".pt2", Export.INT8: ".int8.onnx"}
"""Formats that are one file. The Hugging Face folder is written last, because its card shows what was measured."""
EXAMPLE_BATCH = 2
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
    calibration: Callable[[], Iterable[Inputs]],
    classifier: bool = True,
    name: str = "model",
) -> list[ExportReport]:
    """Write the network in each format (of SUFFIXES) into `folder` and compare it with the network on `batches`.

    An export that fails leaves no file, and its report says why. `calibration` gives inputs for `int8`. The samples may
    be on any device. The network keeps its device and mode. The files have this `name` and the formats' suffixes.
    """
    paths = [folder / f"{name}{SUFFIXES[kind]}" for kind in kinds]
    return [
        _export(network, kind, path, batches, calibration, classifier) for kind, path in zip(kinds, paths, strict=True)
    ]


def _export(
    network: nn.Module, kind: Export, path: Path, batches: Batches, calibration: Calibration, classifier: bool
) -> ExportReport:
    started = time.monotonic()
    found, size, error = None, None, None
    try:
        found = _written_and_compared(network, kind, path, batches, calibration, classifier)
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
        error=error,
    )
    log.info("export %s: %s", kind, report)
    return report


def _written_and_compared(
    network: nn.Module, kind: Export, path: Path, batches: Batches, calibration: Calibration, classifier: bool
) -> ExportComparison:
    """Raises ExportFailed, and then there is no file."""
    try:
        with _step("copying the network to the CPU"):
            # A copy for each, because some exporters change the network.
            copied = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        with _step("reading an example"):
            inputs = _example(batches)
        with _step("writing"):
            _write(kind, copied, inputs, path, calibration)
        with _step("loading"):
            run = _runner(kind, path)
        with _step("comparing"):
            found = compare(copied, run, batches, classifier=classifier)
            # Quantisation changes the outputs, so the difference is measured but not judged.
            if kind != Export.INT8:
                check(found)
    except ExportFailed:
        if path.is_file():
            path.unlink()
        raise
    return found


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


def _example(batches: Batches) -> Inputs:
    """Two samples, because exporters take a batch size of one for a constant."""
    inputs, _ = next(iter(batches()))
    return tuple(x.detach().cpu()[torch.arange(EXAMPLE_BATCH) % len(x)].contiguous() for x in inputs)


def _write(kind: Export, network: nn.Module, inputs: Inputs, path: Path, calibration: Calibration) -> None:
    match kind:
        case Export.ONNX:
            write_onnx(network, inputs, path)
        case Export.PT2:
            write_program(network, inputs, path)
        case Export.INT8:
            write_int8(network, inputs, path, calibration)


def _runner(kind: Export, path: Path) -> Run:
    return program_runner(path) if kind == Export.PT2 else onnx_runner(path)
