"""report.json: what a job measured, and everything that is needed to run it again.

`python -m lit_spec.trainer.report` prints the JSON schema. A key that does not apply to a job is absent, so `as_json`
writes only the fields that were set. Readers ignore keys that they do not know.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from lit_spec.base import Split
from lit_spec.requests.dataset import Augmentation
from lit_spec.requests.exports import Export
from lit_spec.requests.job import JobSpec
from lit_spec.requests.training import Method, Phase, Select


class ReportModel(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)


class BySplit(ReportModel):
    """A score on each of two splits; null where it could not be measured."""

    val: float | None = None
    test: float | None = None

    def on(self, split: Split) -> float | None:
        return self.val if split == Split.VALIDATION else self.test


class ByClass(ReportModel):
    """Accuracies by class name on each of two splits; null for a class without samples."""

    val: dict[str, float | None] | None = None
    test: dict[str, float | None] | None = None


class Measures(ReportModel):
    """Scores of a network. Those of another task are absent."""

    accuracy: BySplit | None = None
    """Top-1 in percent."""
    top5: BySplit | None = None
    """How often the label is among the five most probable classes, in percent; null with fewer than six classes."""
    calibration_error: BySplit | None = None
    """Expected calibration error in percent, over 15 bins."""
    agreement: BySplit | None = None
    """How often the network gives the teacher's answer, in percent."""
    reconstruction_l1: BySplit | None = None
    """Of a generator: mean absolute difference between images and their translations there and back."""
    psnr: BySplit | None = None
    """Of a student generator against its teacher, in dB."""
    ssim: BySplit | None = None
    """Of a student generator against its teacher."""
    l1: BySplit | None = None
    """Of a student generator against its teacher: mean absolute difference."""
    fid: BySplit | None = None
    """Of a generator, where the worker has a feature network."""
    inception_score: BySplit | None = None
    """Of a generator, where the worker has a feature network."""

    def score(self, metric: str, split: Split) -> float | None:
        """The metric on a split; None where it was not measured. Raises AttributeError for an unknown metric."""
        found: BySplit | None = getattr(self, metric)
        return None if found is None else found.on(split)


class LatencyReport(ReportModel):
    """Of one forward pass, in milliseconds."""

    p50_ms: float
    p95_ms: float


class NetworkSummary(Measures):
    """Teacher or student."""

    depth: int
    """Weighted layers as the family's paper counts them; of a library's network its blocks."""
    blocks: list[int]
    """Blocks of each section."""
    parameters: int
    """Trainable weights; of a pruned network those that are not zero."""
    flops: int
    """Of one input, two for each multiply-add."""
    file_size: int
    """Bytes as safetensors."""
    latency: dict[str, LatencyReport]
    """By batch size: `batch_1` and `batch_32`."""


class NetworkReport(NetworkSummary):
    per_class: ByClass | None = None
    """Accuracy of a classifier among the samples of each class, in percent."""


class Ratios(ReportModel):
    """Teacher / student."""

    parameters: float
    flops: float
    file_size: float
    latency_batch_1: float
    """Of the p50."""
    latency_batch_32: float


class SelectionReport(ReportModel):
    """Which of the teacher's blocks the student keeps."""

    select: Select
    kept: list[list[int]]
    """Of each section the indices of the teacher's blocks, from 0, ascending."""
    importance: list[list[float | None]] | None
    """Of each block of the teacher, with `select: importance`; null for a block that must stay."""


class SelectedEpoch(ReportModel):
    """The epoch whose weights the student has."""

    phase: Phase
    epoch: int
    by: str
    """What chose it, as a phrase."""
    metric: str
    """The name of the validation score that chooses epochs: `accuracy`, `agreement` or `psnr`."""
    value: float
    """That score."""


class Comparison(ReportModel):
    """What teacher and student are together, in terms of their task."""

    accuracy_drop: float | None = None
    """Of a classifier: the teacher's test accuracy minus the student's, in points."""
    accuracy_drop_is: Literal["measured", "bounded by agreement"] | None = None
    """Of a classifier; bounded where the test split has samples without a label."""
    notes: list[str] = Field(default_factory=list)
    """Of a classifier: what could not be measured, and why."""
    accepted: bool | None = None
    """Whether the student keeps to the request's `accept`; null without it."""
    fine_tuning: str | None = None
    """Of a generator: `adversarial`, or why it was left out."""
    domains: Literal["exclusive", "attributes"] | None = None
    """Of a generator."""


class ExportReport(ReportModel):
    """One exported file, compared with the torch network over the test split. `seconds` to `samples` are absent for a
    Hugging Face folder, and `reads` is absent for all others."""

    kind: Export
    file: str
    size: int | None = None
    """Bytes; null where there is no file."""
    seconds: float | None = None
    """Spent on writing and comparing."""
    max_abs_difference: float | None = None
    """Between the outputs of file and torch network."""
    top1_agreement: float | None = None
    """Percent of the samples to which both give the same answer; null for a generator."""
    accuracy: float | None = None
    """Percent of the samples with a label; null where there are none."""
    samples: int | None = None
    """On which the two were compared."""
    reads: Literal["timm", "lit-compress"] | None = None
    """Which library loads the Hugging Face folder."""
    error: str | None
    """The step that failed and why; then there is no file. Null: the file does what the torch network does."""


class OperationReport(ReportModel):
    """One operation of `then`, done to what the operation before it made."""

    step: str
    """The operation as requested, such as `prune:0.5`."""
    file: str
    file_size: int | None
    """Bytes; null where there is no file."""
    parameters: int
    """Without those that are pruned."""
    parameters_ratio: float
    """The teacher's parameters divided by these."""
    accuracy: BySplit
    agreement: BySplit
    accuracy_drop: float | None
    before_fine_tuning: Measures | None
    """`accuracy` and `agreement` directly after pruning; null for int8."""
    epoch: int | None
    """The best epoch of the fine-tuning after a pruning; 0 where none was better than before it."""
    error: str | None
    """Why the file could not be written. The job succeeds all the same."""


class Resume(ReportModel):
    """A training that went on from a checkpoint."""

    attempt: int
    phase: Phase
    epoch: int
    """Counted from 1."""
    step: int
    bit_identical: bool
    """Whether the training ends with the same bits as one without a break."""
    differences: dict[str, list[str | None]]
    """Of the environment, by name: before and now."""


class EpochReport(ReportModel):
    """One epoch, with its metrics by name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    phase: Phase
    epoch: int
    """Counted from 1 within the phase."""

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.model_extra or {})


class ReportSummary(Comparison):
    """The report without its long parts: the `result` of a job in the API."""

    method: Method
    teacher: NetworkSummary
    student: NetworkSummary
    ratios: Ratios
    selection: SelectionReport
    selected: SelectedEpoch
    exports: list[ExportReport]
    then: list[OperationReport]
    samples: dict[Split, int]
    """Of each split."""
    labels: dict[Split, int]
    """How many of the samples have a label."""
    classes: list[str]
    """Names of the outputs, in their order; of a generator the domains."""
    augmentation: Augmentation
    preprocessing: dict[str, Any]
    """As in config.json, without the class names."""
    seed: int
    environment: dict[str, str]
    """What must be equal for equal bits: `device`, `cpu`, `threads`, `torch`, `precision`."""
    versions: dict[str, str]
    """Of this package, Python and the libraries that matter."""
    seconds: float
    """Of training: the sum over all epochs, with their validation."""
    resumes: list[Resume]

    @field_serializer("augmentation")
    def _whole_augmentation(self, augmentation: Augmentation) -> dict[str, Any]:
        return augmentation.model_dump(mode="json")


class Report(ReportSummary):
    """The content of report.json."""

    teacher: NetworkReport
    student: NetworkReport
    epochs: list[EpochReport]
    specification: JobSpec

    @field_serializer("specification")
    def _whole_specification(self, specification: JobSpec) -> dict[str, Any]:
        return specification.model_dump(mode="json")

    def summary(self) -> ReportSummary:
        return ReportSummary.model_validate(self.as_json())


def schema() -> str:
    """The JSON schema of report.json."""
    return json.dumps(Report.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
