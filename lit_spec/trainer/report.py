"""report.json: what a job measured, and everything that is needed to run it again.

`python -m lit_spec.trainer.report` prints the JSON schema. A key that does not apply to a job is absent, so `as_json`
writes only the fields that were set. Readers ignore keys that they do not know.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_serializer

from lit_spec.base import Split
from lit_spec.documented import Documented
from lit_spec.requests.dataset import Augmentation
from lit_spec.requests.exports import Export
from lit_spec.requests.job import JobSpec
from lit_spec.requests.target import Target
from lit_spec.requests.training import CachedType, Method, Phase, Precision, Select


class ReportModel(Documented):
    """Base of the report's parts."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

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
    """Scores of a network. The scores of other tasks are absent."""

    accuracy: BySplit | None = None
    """Top-1 in percent."""
    top5: BySplit | None = None
    """How often the label is among the five most probable classes, in percent; null with fewer than six classes."""
    calibration_error: BySplit | None = None
    """Expected calibration error in percent, over 15 bins."""
    agreement: BySplit | None = None
    """How often the network gives the teacher's answer, in percent."""
    reconstruction_l1: BySplit | None = None
    """For a generator: mean absolute difference between images and their translations there and back."""
    psnr: BySplit | None = None
    """PSNR of a student generator against its teacher, in dB."""
    ssim: BySplit | None = None
    """SSIM of a student generator against its teacher."""
    l1: BySplit | None = None
    """Mean absolute difference of a student generator from its teacher."""
    fid: BySplit | None = None
    """FID of a generator, if the worker has a feature network."""
    inception_score: BySplit | None = None
    """Inception Score of a generator, if the worker has a feature network."""

    def score(self, metric: str, split: Split) -> float | None:
        """The metric on a split; None where it was not measured. Raises AttributeError for an unknown metric."""
        found: BySplit | None = getattr(self, metric)
        return None if found is None else found.on(split)


class LatencyReport(ReportModel):
    """Latency of one forward pass, in milliseconds."""

    p50_ms: float
    p95_ms: float


class NetworkSummary(Measures):
    """What was measured of one network, teacher or student."""

    depth: int
    """Layers with weights, as the family's paper counts them. For a library's network: the number of its blocks."""
    blocks: list[int]
    """Blocks of each section."""
    parameters: int
    """Number of trainable weights. For a pruned network: without those that are zero."""
    flops: int
    """Floating-point operations for one input, two for each multiply-add."""
    file_size: int
    """Bytes as safetensors."""
    latency: dict[str, LatencyReport]
    """By batch size: `batch_1` and `batch_32`. Empty for a teacher that was sharded: the time of its pass would be that
    of the exchange between its processes."""


class NetworkReport(NetworkSummary):
    per_class: ByClass | None = None
    """Accuracy of a classifier among the samples of each class, in percent."""


class Baselines(ReportModel):
    """What the student's blocks are worth without the training: scores of networks of the student's shape."""

    untrained: Measures
    """The student before its training and any repair: blocks that were left out, cut back by pruning, or have random
    weights."""
    repaired: Measures | None = None
    """Where it was repaired: the same student afterwards. The training begins with it, unless the untrained one
    is better."""


class Outcome(StrEnum):
    """What the training made of the student, by its scores on the test split (of `compress`: on `validation`)."""

    BETTER = "better-than-untrained"
    NO_BETTER = "no-better-than-untrained"
    """Or the untrained student itself, because no epoch was better on the validation split."""
    AT_CHANCE = "at-chance"
    """Its answers are hardly better than guessing."""


class Ratios(ReportModel):
    """Teacher / student."""

    parameters: float
    flops: float
    file_size: float
    latency_batch_1: float | None
    """Ratio of the p50, as for `latency_batch_32`. Null if the teacher was sharded, because its latency is not measured
    then."""
    latency_batch_32: float | None


class TargetReport(ReportModel):
    """What was expected of the student when its blocks were chosen for the request's target."""

    asked: Target
    unit: Literal["ms", "FLOPs", "parameters", "points"]
    """Of the next two. Milliseconds are those of one forward pass at the target's batch and the job's precision."""
    teacher: float
    expected: float
    """Of the student, as the teacher's value without the blocks that are left out. Points are those that the untrained
    student lost on the validation split."""


class SelectionReport(ReportModel):
    """Which of the teacher's blocks the student keeps."""

    select: Select | None
    """Null: the request's `kept` names the blocks."""
    kept: list[list[int]]
    """For each section: the indices of the teacher's blocks, from 0, ascending."""
    importance: list[list[float | None]] | None
    """With `select: importance`: the importance of each of the teacher's blocks; null for a block that must stay."""
    damages: list[list[float | None]] | None = None
    """With `select: recover`: how far the outputs are from the teacher's on training inputs where one block alone is
    left out: mean KL divergence in nats (embeddings: 1 - cosine); null for a block that must stay, and where the
    outputs are not finite."""
    target: TargetReport | None = None
    """Absent if the blocks, or their numbers, stood in the specification."""


class SelectedEpoch(ReportModel):
    """The epoch whose weights the student has."""

    phase: Phase
    epoch: int
    """Counted from 1 within the phase. 0: the untrained student."""
    by: str
    """What chose the epoch, as a phrase."""
    metric: str
    """The name of the validation score that chooses epochs: `accuracy`, `agreement` or `psnr`."""
    value: float
    """The score of the epoch in `metric`."""


class Comparison(ReportModel):
    """Teacher and student compared, in terms of their task."""

    accuracy_drop: float | None = None
    """Of a classifier: the teacher's test accuracy minus the student's, in points."""
    accuracy_drop_is: Literal["measured", "bounded by agreement"] | None = None
    """For a classifier. `bounded by agreement`: the test split has samples without a label."""
    accuracy_drop_interval: tuple[float, float] | None = None
    """For a classifier: the 95 % interval of `accuracy_drop`, in points, from the samples that only one of the two
    networks has right (Agresti and Min, 2005); if it is bounded by agreement, from the number of samples with different
    answers (Wilson)."""
    accuracy_drop_samples: int | None = None
    """For a classifier: number of samples of the test split that decided `accuracy_drop`."""
    notes: list[str] = Field(default_factory=list)
    """What could not be measured, and why; whether the teacher may be no better than chance; and last, whether the
    student is, or is no better than before its training."""
    accepted: bool | None = None
    """Whether the student meets the request's `accept`, and is better than before its training or as good as its
    teacher; null without `accept`."""
    fine_tuning: str | None = None
    """For a generator: `adversarial`, or why fine-tuning was left out."""
    domains: Literal["exclusive", "attributes"] | None = None
    """For a generator: whether its domains exclude one another, or are attributes."""


class ExportReport(ReportModel):
    """One exported file, compared with the torch network over the test split. `seconds` to `latency` are absent for a
    Hugging Face folder, and `reads` is absent for all others."""

    kind: Export
    file: str
    size: int | None = None
    """Bytes; null if there is no file."""
    seconds: float | None = None
    """Time spent on writing and comparing the file."""
    max_abs_difference: float | None = None
    """Largest absolute difference between the outputs of the file and of the torch network."""
    top1_agreement: float | None = None
    """Percent of the samples for which both give the same answer; null for a generator."""
    accuracy: float | None = None
    """Percent of the labelled samples that the file classifies correctly; null if no sample has a label."""
    samples: int | None = None
    """Number of samples on which the two were compared."""
    latency: dict[str, LatencyReport] | None = None
    """By batch size, `batch_1` and `batch_32`, on the CPU and by the runtime that the format is for. Null without a
    file."""
    reads: Literal["timm", "lit-compress"] | None = None
    """Which library loads the Hugging Face folder."""
    error: str | None
    """Which step failed and why; there is then no file. Null: the file does what the torch network does."""


class OperationReport(ReportModel):
    """One operation of `then`. It works on the result of the operation before it."""

    step: str
    """The operation as requested, such as `prune:0.5`."""
    file: str
    file_size: int | None
    """Bytes; null if there is no file."""
    parameters: int
    """Number of parameters, without the pruned ones."""
    parameters_ratio: float
    """The teacher's number of parameters divided by `parameters`."""
    accuracy: BySplit
    agreement: BySplit
    accuracy_drop: float | None
    before_fine_tuning: Measures | None
    """`accuracy` and `agreement` directly after pruning; null for int8."""
    epoch: int | None
    """The best epoch of the fine-tuning after a pruning; 0 if no epoch was better than the pruned student itself."""
    error: str | None
    """Why the file could not be written. The job succeeds nevertheless."""


class Resume(ReportModel):
    """A continuation of the training from a checkpoint."""

    attempt: int
    phase: Phase
    epoch: int
    """Counted from 1."""
    step: int
    bit_identical: bool
    """Whether the result has the bits of an uninterrupted run: on the CPU, with no differences here or before."""
    differences: dict[str, list[str | None]]
    """What changed in the environment and the versions: by name, the values before and now."""


class Setback(ReportModel):
    """The training became unstable, went back to its last good state, and went on at a lower learning rate."""

    phase: Phase
    epoch: int
    """The epoch that was given up. It and those after `back_to` were run again."""
    loss: float | None
    """The loss that gave it away; null if it, or the student, was not finite."""
    loss_before: float | None
    """The same loss in the first step of the phase; null if it was not finite."""
    back_to: int
    """The last good epoch, after which the training went on. 0: the start of the phase."""
    learning_rate_before: float
    learning_rate: float
    """From then on, in this phase. The phase's schedule multiplies it."""


class Racer(ReportModel):
    """A candidate of the race before the training."""

    method: Method
    learning_rate: float
    divergence: float | None
    """How far the student's outputs were from the teacher's after it: mean KL divergence in nats (embeddings: 1 -
    cosine); null if it was not finite."""


class Race(ReportModel):
    """Which method and learning rate the student was trained with, and what decided it."""

    method: Method
    learning_rate: float
    """Of the first phase. The one of fine-tuning was changed by the same factor."""
    steps: int
    """That each candidate took from the same start."""
    before: float | None
    """The divergence of that start."""
    racers: list[Racer]


class CachePlan(ReportModel):
    """What was decided about the teacher's cache before the training."""

    views: int | None = None
    """Random variations of each sample; null: each pass over the data has its own, and nothing is cached."""
    dtype: CachedType | None = None
    """The type to which the teacher's numbers are rounded."""
    bytes_per_view: int | None = None
    """That all samples take in one view."""
    reason: str | None = None
    """Why there is no cache, or why not all of it could be used."""


class TeacherCacheReport(CachePlan):
    """What became of the teacher's cache."""

    used: bool = False
    """Whether anything was read from it."""
    bytes: int = 0
    """What it has on the worker's disk at the end."""
    hit_rate: float = 0.0
    """The share of the samples whose answers were read rather than made, since the training was last resumed."""


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


class MeasuredAccuracy(ReportModel):
    """The teacher's accuracy before the training, on the labelled samples of `split`, in percent."""

    accuracy: float
    interval: tuple[float, float]
    """The 95 % interval (Wilson) of the accuracy."""
    samples: int
    """Number of labelled samples that it was measured on."""
    split: Split
    """The validation split or, if it has no labels, the test split."""
    expected: float | None
    """The request's `teacher_accuracy`."""


class TeacherPrecisionReport(ReportModel):
    """What the teacher's numbers in bfloat16 changed, measured on samples of the validation split."""

    precision: Precision
    agreement: float | None
    """Percent of the samples to which the teacher gave the same answer as in float32; null for a generator."""
    representation_errors: list[float]
    """Of each section's output: the L2 norm of the difference from float32, relative to that of the output."""
    samples: int


class ReportSummary(Comparison):
    """The report without its long parts: the `result` of a job in the API."""

    method: Method
    teacher_accuracy: MeasuredAccuracy | None = None
    """Absent without labels in the validation and the test split, and for a generator."""
    teacher_precision: TeacherPrecisionReport | None = None
    """Absent unless the request says `teacher_precision` `bfloat16`."""
    teacher: NetworkSummary
    student: NetworkSummary
    baselines: Baselines
    outcome: Outcome | None
    """Null after adversarial fine-tuning, because closeness to the teacher doesn't measure it."""
    ratios: Ratios
    selection: SelectionReport
    selected: SelectedEpoch
    exports: list[ExportReport]
    then: list[OperationReport]
    samples: dict[Split, int]
    """Number of samples of each split."""
    labels: dict[Split, int]
    """How many of the samples have a label."""
    classes: list[str]
    """Names of the outputs, in their order; for a generator, its domains."""
    augmentation: Augmentation
    preprocessing: dict[str, Any]
    """As in config.json, without the class names."""
    seed: int
    environment: dict[str, str]
    """What must be the same for bit-identical results, beside `versions`: `device`, `cpu`, `threads`, `torch`,
    `precision`, and `dataset` for a data set by URL: its version or ETag."""
    versions: dict[str, str]
    """Versions of this package, of Python, and of the libraries that affect the result."""
    seconds: float
    """Training time: the sum over all epochs, including their validation."""
    resumes: list[Resume]
    setbacks: list[Setback]
    """Where the training became unstable, in order."""
    teacher_cache: TeacherCacheReport | None = None
    """Absent if the specification asked for none."""
    race: Race | None = None
    """Which method and learning rate won before the training; absent if the specification did not ask for it."""

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
