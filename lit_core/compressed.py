"""What `lit_core.compress` returns: shown in notebooks, drawn, and saved as a job's output is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lit_core.data import ImagePreprocessing, Preprocessing
from lit_core.exports import FORMATS, Details, Inputs, write_exports
from lit_core.model import PROGRAM_FAMILY, PROGRAM_FILE, ModelConfig, save, save_weights
from lit_core.networks.families.shapes import Shapes
from lit_core.networks.recognition import recognised_student
from lit_core.tasks.batches import Batches, split_batch
from lit_spec import Architecture, Export, Modality, Output
from lit_spec.requests.then import prune_share
from lit_spec.trainer.folder import REPORT_FILE
from lit_spec.trainer.report import EpochReport

if TYPE_CHECKING:
    from lit_core.exports.training_figure import TrainingFigure

PLOT_FILE = "training.png"
CALIBRATION_BATCHES = 2
COMPARED_BATCHES = 16
"""Of the training data, where there is no validation data."""
SHOWN_SCORES = {"student_accuracy": "accuracy (%)", "agreement": "agreement (%)", "cosine": "cosine"}


@dataclass(frozen=True)
class Origin:
    """Where a student comes from."""

    teacher: Shapes
    """Of the teacher's tensors."""
    config: ModelConfig | None
    """If the teacher is one that `load` has read."""
    inputs: Inputs
    """Two samples, on the student's device."""
    outputs: int
    training: Batches
    validation: Batches | None


@dataclass(frozen=True, repr=False)
class Compressed:
    student: nn.Module
    """In eval mode, on the device that it was trained on."""
    report: dict[str, Any]
    """A `lit_core.report.CompressionReport` as JSON."""
    pruned: dict[str, nn.Module]
    """The result of each operation of `then`."""
    origin: Origin = field(compare=False)

    def save(
        self,
        folder: str | Path,
        *,
        preprocessing: Preprocessing | None = None,
        classes: Sequence[str] | None = None,
        exports: Sequence[Export | str] = (),
    ) -> Path:
        """Write the student into `folder`, which `lit_core.load` reads, and return its path.

        The files are those of a job: `model.safetensors`, `config.json`, `report.json`, the formats in `exports`
        ("onnx", "pt2", "int8", "openvino"), each compared with the student on the validation data or, without it, on
        some batches of the training data, `training.png`, and the pruned students. A student of a network that LIT
        can't build is also written as `model.pt2`, which `load` then runs.

        `preprocessing` says how raw samples become the model's input. None: of a model that `load` has read, its own;
        else images are given as the data gave them. `classes` are the names of the outputs in their order; None: those
        of the preprocessing, or "0", "1", …. Raises ValueError where they don't fit the model, and where it can't be
        written.
        """
        target = Path(folder)
        kinds = [_format(kind) for kind in dict.fromkeys(exports)]
        config = self._config(preprocessing, classes)
        is_program = config.architecture.family == PROGRAM_FAMILY
        if is_program and Export.PT2 not in kinds:
            kinds.append(Export.PT2)
        save(self.student, config, target)
        reports = write_exports(
            self.student,
            kinds,
            target,
            batches=self._compared,
            details=Details(config.metadata, self._calibration),
            classifier=self.report["hyperparameters"]["output"] == Output.LOGITS,
        )
        failed = {report.kind: report.error for report in reports if report.error is not None}
        if is_program and Export.PT2 in failed:
            raise ValueError(
                f"LIT can't build this network, and it can't be written as {PROGRAM_FILE} ({failed[Export.PT2]}): keep "
                "the student with torch.save, and its code"
            )
        for operation, network in self.pruned.items():
            path = target / f"model.prune-{prune_share(operation):g}.safetensors"
            save_weights(network, path, None if is_program else config.architecture, config.metadata)
        (target / PLOT_FILE).write_bytes(self.plot().as_png())
        written = {**self.report, "exports": [report.as_json() for report in reports]}
        (target / REPORT_FILE).write_text(json.dumps(written, indent=2, allow_nan=False) + "\n")
        return target

    def plot(self) -> TrainingFigure:
        """A figure of matplotlib: the losses, the IR loss of each section, and the validation scores with the teacher's
        accuracy, over the epochs."""
        # Loads matplotlib.
        from lit_core.exports.training_figure import training_figure

        return training_figure([EpochReport.model_validate(epoch) for epoch in self.report["epochs"]])

    def __repr__(self) -> str:
        rows = [("", "teacher", "student", "ratio"), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(["Compressed", *lines, *self.report["notes"]])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.report["notes"])
        head = "<tr><th></th><th>teacher</th><th>student</th><th>ratio</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" + (f"<ul>{notes}</ul>" if notes else "")

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        teacher, student, ratios = (self.report[name] for name in ("teacher", "student", "ratios"))
        yield "blocks", str(teacher["blocks"]), str(student["blocks"]), ""
        for name, title in (("parameters", "parameters"), ("flops", "FLOPs")):
            yield title, f"{teacher[name]:,}", f"{student[name]:,}", f"{ratios[name]:.2f}"
        before, after, ratio = (part["latency_ms"] for part in (teacher, student, ratios))
        yield "latency, one sample (ms)", f"{before:.2f}", f"{after:.2f}", f"{ratio:.2f}"
        scores = self.report["validation"] or {}
        for name, title in SHOWN_SCORES.items():
            if scores.get(name) is not None:
                taught = scores["teacher_accuracy"] if name == "student_accuracy" else None
                yield title, "" if taught is None else f"{taught:.2f}", f"{scores[name]:.4g}", ""

    def _config(self, preprocessing: Preprocessing | None, classes: Sequence[str] | None) -> ModelConfig:
        known = self.origin.config
        found = preprocessing or (self._as_given() if known is None else known.preprocessing)
        if classes is not None:
            found = found.model_copy(update={"class_order": list(classes)})
        wanted = _names(self.origin.outputs)
        if len(found.class_order) != wanted:
            raise ValueError(f"there are {len(found.class_order)} class names, but the model has {wanted} classes")
        try:
            found.apply(found.sample(1))
        except ValueError as failure:
            raise ValueError(f"preprocessing doesn't work: {failure}") from failure
        shape = tuple(self.origin.inputs[0].shape[1:])
        if tuple(found.sample(1).shape[1:]) != shape:
            raise ValueError(
                f"preprocessing gives {tuple(found.sample(1).shape[1:])}, but the data has samples {shape}"
            )
        return ModelConfig(architecture=self._architecture(found), preprocessing=found)

    def _as_given(self) -> ImagePreprocessing:
        """Of images that are the model's input as they are."""
        shape = self.origin.inputs[0].shape
        if len(self.origin.inputs) > 1 or len(shape) != 4 or not self.origin.inputs[0].is_floating_point():
            shown = ", ".join(str(tuple(x.shape[1:])) for x in self.origin.inputs)
            raise ValueError(
                f"the model's samples have the shape {shown}, which are not images (C, H, W) of floats: give "
                "preprocessing, or keep the student with torch.save"
            )
        channels = shape[1]
        return ImagePreprocessing(
            size=list(shape[2:]),
            channels=channels,
            scale=1,
            mean=[0.0] * channels,
            std=[1.0] * channels,
            class_order=[str(place) for place in range(_names(self.origin.outputs))],
        )

    def _architecture(self, preprocessing: Preprocessing) -> Architecture:
        origin, selection = self.origin, self.report["selection"]
        known = None if origin.config is None else origin.config.architecture
        found = recognised_student(
            self.student, origin.inputs, origin.teacher, self.report["sections"], selection["kept"], known
        )
        if found is not None:
            return found
        blocks = self.report["student"]["blocks"]
        is_text = preprocessing.kind == "text"
        return Architecture(
            family=PROGRAM_FAMILY,
            modality=Modality.TEXT if is_text else Modality.IMAGE,
            depth=sum(blocks),
            blocks=blocks,
            channels=None if is_text else origin.inputs[0].shape[1],
            classes=_names(origin.outputs),
        )

    def _compared(self) -> Iterator[tuple[Inputs, Tensor]]:
        validation = self.origin.validation
        # Training data may be endless.
        for batch in islice(self.origin.training, COMPARED_BATCHES) if validation is None else validation:
            yield split_batch(batch)

    def _calibration(self) -> Iterator[Inputs]:
        return (split_batch(batch)[0] for batch in islice(self.origin.training, CALIBRATION_BATCHES))


def _names(outputs: int) -> int:
    """The number of classes. One output is the logit of a binary classifier."""
    return max(outputs, 2)


def _format(given: Export | str) -> Export:
    if given not in list(FORMATS):
        raise ValueError(f"exports has {given!r}: give some of {', '.join(FORMATS)}")
    return Export(given)
