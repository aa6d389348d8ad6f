"""The student in other formats, each compared with the torch network before it is given out."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_core.losses import NO_LABEL
from lit_core.spec import Export

Inputs = tuple[Tensor, ...]
Batches = Callable[[], Iterable[tuple[Inputs, Tensor]]]
"""Gives the inputs and labels of the split that exports are compared on, batch by batch, each time it is called."""
Run = Callable[[Inputs], Tensor]

FILES = {Export.ONNX: "model.onnx", Export.PT2: "model.pt2", Export.INT8: "model.int8.onnx"}
LARGEST_DIFFERENCE = 1e-3
"""Of an output, as a share of the largest one, and no less than this itself."""
LEAST_AGREEMENT = 99.9
EXAMPLE_BATCH = 2
LONGEST_ERROR = 500

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class ExportReport:
    kind: Export
    file: str
    size: int | None
    """Bytes."""
    max_abs_difference: float | None
    """Between its outputs and the torch network's, over the split."""
    top1_agreement: float | None
    """Percent of the samples to which it gives the torch network's answer; None of a generator."""
    accuracy: float | None
    """Percent of the samples with a label; None where there are none."""
    samples: int
    error: str | None
    """Why there is no file. None: there is, and it does as the torch network does."""

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "kind": self.kind.value}


class Unfaithful(Exception):
    """An export does not what the torch network does."""


def write_exports(
    network: nn.Module,
    kinds: Sequence[Export],
    folder: Path,
    *,
    batches: Batches,
    calibration: Callable[[], Iterable[Inputs]],
    classifier: bool = True,
) -> list[ExportReport]:
    """Write the network in each format into `folder` and compare it on `batches`.

    An export that fails leaves no file, and its report says why. `calibration` gives inputs for `int8`.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    reports = []
    for kind in kinds:
        path = folder / FILES[kind]
        started = time.monotonic()
        try:
            run = _write(kind, network, path, batches, calibration)
            report = _compare(kind, path, network, run, batches, classifier)
        except Exception as failure:
            # Whatever an exporter raises: the student itself is whole, and the report tells.
            log.warning("export %s failed", kind, exc_info=True)
            path.unlink(missing_ok=True)
            report = ExportReport(kind, path.name, None, None, None, None, 0, _said(failure))
        log.info("export %s: %s, %.1f s", kind, report, time.monotonic() - started)
        reports.append(report)
    return reports


def _write(
    kind: Export, network: nn.Module, path: Path, batches: Batches, calibration: Callable[[], Iterable[Inputs]]
) -> Run:
    """The file, and a function that runs what is in it."""
    inputs = _example(batches)
    if kind == Export.PT2:
        _write_program(network, inputs, path)
        return _program_runner(path)
    if kind == Export.ONNX:
        _write_onnx(network, inputs, path)
        return _onnx_runner(path)
    full = path.with_suffix(".float")
    try:
        _write_onnx(network, inputs, full)
        _quantise(full, path, calibration)
    finally:
        full.unlink(missing_ok=True)
    return _onnx_runner(path)


def _example(batches: Batches) -> Inputs:
    """Two samples: a batch of one would be taken for a constant."""
    inputs, _ = next(iter(batches()))
    return tuple(x.detach().cpu()[torch.arange(EXAMPLE_BATCH) % len(x)].contiguous() for x in inputs)


def _dynamic(inputs: Inputs) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in inputs)


def _write_program(network: nn.Module, inputs: Inputs, path: Path) -> None:
    program = torch.export.export(network, inputs, dynamic_shapes=_dynamic(inputs))
    torch.export.save(program, path)


def _program_runner(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> Tensor:
        output: Tensor = module(*inputs)
        return output

    return run


def _write_onnx(network: nn.Module, inputs: Inputs, path: Path) -> None:
    torch.onnx.export(
        network,
        inputs,
        path,
        dynamo=True,
        external_data=False,
        input_names=_names(inputs),
        output_names=["output"],
        dynamic_shapes=_dynamic(inputs),
        verbose=False,
    )


def _names(inputs: Inputs) -> list[str]:
    return ["input", "target"][: len(inputs)]


def _onnx_runner(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        given = dict(zip(_names(inputs), (x.numpy() for x in inputs), strict=True))
        return torch.from_numpy(np.asarray(session.run(None, given)[0]))

    return run


def _quantise(full: Path, path: Path, calibration: Callable[[], Iterable[Inputs]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Inputs] = iter(calibration())

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self.batches, None)
            if inputs is None:
                return None
            return dict(zip(_names(inputs), (x.detach().cpu().numpy() for x in inputs), strict=True))

    quantize_static(
        full,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


@torch.no_grad()
def _compare(
    kind: Export, path: Path, network: nn.Module, run: Run, batches: Batches, classifier: bool
) -> ExportReport:
    """Raises Unfaithful. Quantisation changes outputs by its nature, so that is measured and not judged."""
    difference = largest = 0.0
    agreed = correct = labelled = samples = 0
    for given, labels in batches():
        inputs = tuple(x.detach().cpu().contiguous() for x in given)
        wanted, found = network(*inputs).float(), run(inputs).float()
        difference = max(difference, float((found - wanted).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
        samples += len(wanted)
        if classifier:
            answers, truth = found.argmax(dim=1), labels.cpu()
            agreed += int((answers == wanted.argmax(dim=1)).sum())
            correct += int((answers == truth).sum())
            labelled += int((truth != NO_LABEL).sum())
    agreement = 100 * agreed / samples if classifier else None
    if kind != Export.INT8:
        _check(difference, largest, agreement)
    return ExportReport(
        kind=kind,
        file=path.name,
        size=path.stat().st_size,
        max_abs_difference=difference,
        top1_agreement=None if agreement is None else round(agreement, 4),
        accuracy=round(100 * correct / labelled, 4) if labelled else None,
        samples=samples,
        error=None,
    )


def _check(difference: float, largest: float, agreement: float | None) -> None:
    bound = LARGEST_DIFFERENCE * max(1.0, largest)
    if not difference <= bound:
        raise Unfaithful(
            f"its outputs differ from the torch network's by up to {difference:.3g}, more than {bound:.3g}"
        )
    if agreement is not None and agreement < LEAST_AGREEMENT:
        raise Unfaithful(f"only {agreement:.2f} % of its answers are the torch network's")


def _said(failure: Exception) -> str:
    text = " ".join(str(failure).split()) or "no message"
    return f"{type(failure).__name__}: {text}"[:LONGEST_ERROR]
