"""The job specification: one definition that the API validates, the ledger stores and the trainer obeys.

`JobRequest` is what a person sends: short, with defaults. `resolve` turns it into `JobSpec`, in which
every value is explicit, so that a stored job means the same tomorrow. Pydantic only: no torch here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPEC_VERSION = 1


class Model(BaseModel):
    """Strict base: unknown fields are errors, NaN and infinity are not numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Init(StrEnum):
    INHERIT = "inherit"
    """The first block of each section and evenly spaced others are copied from the teacher."""
    RANDOM = "random"
    """The section's blocks are initialised anew, as in the paper."""


class IrLoss(StrEnum):
    MSE = "mse"
    L1 = "l1"
    SMOOTH_L1 = "smooth_l1"
    COSINE = "cosine"


class Precision(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Phase(StrEnum):
    LIT = "lit"
    FINE_TUNE = "fine_tune"


class Part(StrEnum):
    STEM = "stem"
    SECTIONS = "sections"
    HEAD = "head"


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"


# --- what an inspection finds in a teacher ---------------------------------------------------------------


class Architecture(Model):
    """A network as read from its tensors; with its state dict enough to rebuild it."""

    family: str
    depth: int
    """Weighted layers, counted as the family's paper counts them."""
    blocks: list[int]
    """Blocks per section."""
    channels: int
    """Input channels."""
    classes: int
    options: dict[str, int | str | bool] = Field(default_factory=dict)
    """What else the family needs: for a CIFAR ResNet `width`, `shortcut` (A or B) and the names in use."""


class StudentOption(Model):
    """What one student depth would save."""

    depth: int
    blocks: list[int]
    parameters: int
    parameters_ratio: float
    """Teacher / student."""


class Inspection(Model):
    """What a teacher's upload turned out to be."""

    format: Literal["safetensors", "pt"]
    architecture: Architecture
    parameters: int
    students: list[StudentOption]
    """Every depth that a student may have, shallowest first, the teacher's own depth last."""


# --- dataset -----------------------------------------------------------------------------------------


Channel = Annotated[list[float], Field(min_length=1, max_length=64)]


class Preprocessing(Model):
    """How raw images become the network's input: resize, scale, (x - mean) / std."""

    size: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)] | None = None
    """Height and width in pixels. None: as the images are, which must then all have one size."""
    mean: Channel | Literal["data"] = "data"
    """Per channel, after scaling to [0, 1]; "data" measures the training split."""
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=64)] | Literal["data"] = "data"
    class_order: list[str] | None = None
    """Class names in the order of the teacher's outputs. None: alphabetical for image folders."""


class DatasetRequest(Preprocessing):
    """Where the data comes from, how it is preprocessed and how it is split."""

    upload: str | None = None
    builtin: Literal["digits"] | None = None
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training split held out for validation where the dataset has no `val` split."""
    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training split held out for the test where the dataset has no `test` split."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.upload is None) == (self.builtin is None):
            raise ValueError('give exactly one of "upload" (the id of a dataset upload) or "builtin" ("digits")')
        return self


# --- training ----------------------------------------------------------------------------------------


class Constant(Model):
    kind: Literal["constant"]


class Milestones(Model):
    """The learning rate is multiplied by gamma at each milestone (in epochs)."""

    kind: Literal["milestones"]
    milestones: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    gamma: float = Field(0.1, gt=0, lt=1)


class Cosine(Model):
    """From the learning rate to zero along half a cosine, per step."""

    kind: Literal["cosine"]


class OneCycle(Model):
    """Linear warm-up over a share of the steps, then half a cosine to zero."""

    kind: Literal["one_cycle"]
    warmup: float = Field(0.2, gt=0, lt=1)


LearningRateSchedule = Annotated[Constant | Milestones | Cosine | OneCycle, Field(discriminator="kind")]


class PhaseSchedule(Model):
    epochs: int = Field(ge=0, le=100_000)
    learning_rate: float = Field(gt=0, le=100)
    schedule: LearningRateSchedule = OneCycle(kind="one_cycle", warmup=0.2)
    frozen: list[Literal[Part.STEM, Part.HEAD]] = Field(default_factory=list)
    """Parts of the student that keep the teacher's weights in this phase."""


class LitSchedule(PhaseSchedule):
    epochs: int = Field(20, ge=0, le=100_000)
    learning_rate: float = Field(0.1, gt=0, le=100)
    frozen: list[Literal[Part.STEM, Part.HEAD]] = Field(default=[Part.STEM, Part.HEAD])


class FineTuneSchedule(PhaseSchedule):
    epochs: int = Field(10, ge=0, le=100_000)
    learning_rate: float = Field(0.03, gt=0, le=100)


class Schedule(Model):
    """Both phases: the LIT phase with the whole loss, then fine-tuning with KD alone."""

    lit: LitSchedule = Field(default_factory=LitSchedule)
    fine_tune: FineTuneSchedule = Field(default_factory=FineTuneSchedule)
    batch_size: int = Field(32, ge=2, le=65_536)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(1e-4, ge=0, le=1)

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.lit.epochs + self.fine_tune.epochs == 0:
            raise ValueError("lit.epochs and fine_tune.epochs are both 0: at least one phase must train")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Augmentation(Model):
    """Drawn anew for every batch of training images."""

    shift: int = Field(0, ge=0, le=64)
    """Largest random shift in pixels, in each direction, zeros moving in."""
    flip: bool = False
    """Random horizontal mirroring."""


class Acceptance(Model):
    max_accuracy_drop: float = Field(ge=0, le=100)
    """Points of test accuracy that the student may lose against the teacher."""


Tag = Annotated[str, Field(min_length=1, max_length=64)]


class Hyperparameters(Model):
    """The method's own words, in the request and in the specification alike."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the labels against the teacher's softened output in the KD loss."""
    beta: float = Field(0.5, ge=0, le=1)
    """Weight of the KD loss against the IR loss in the LIT phase."""
    tau: float = Field(4.0, gt=0, le=1000)
    """Temperature of the KD loss."""
    ir_loss: IrLoss = IrLoss.MSE
    schedule: Schedule = Field(default_factory=Schedule)
    seed: int = Field(0, ge=0, lt=2**63)
    device: Device = Device.AUTO
    precision: Precision = Precision.FLOAT32
    accept: Acceptance | None = None
    max_attempts: int = Field(3, ge=1, le=20)
    """How often the job may lose its trainer or worker before it fails."""
    time_limit_s: int | None = Field(None, ge=1)
    """Seconds of training after which the job fails with `time-limit`; None: no limit."""


class StudentRequest(Model):
    depth: int | None = Field(None, ge=1)
    blocks: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=1)
    init: Init = Init.INHERIT
    allow_same_depth: bool = False

    @model_validator(mode="after")
    def _depth_or_blocks(self) -> Self:
        if (self.depth is None) == (self.blocks is None):
            raise ValueError('give exactly one of "depth" (as 14) or "blocks" (as [2, 2, 2])')
        return self


class JobRequest(Hyperparameters):
    """The body of `POST /v1/jobs`."""

    teacher: str = Field(min_length=1)
    """The id of a teacher upload."""
    dataset: DatasetRequest
    student: StudentRequest
    augmentation: Augmentation | None = None
    """None: shifts by an eighth of the image's size, no mirroring."""
    name: str | None = Field(None, min_length=1, max_length=200)
    tags: list[Tag] = Field(default_factory=list, max_length=32)


class StudentSpec(Model):
    depth: int
    blocks: list[int]
    init: Init


class TeacherSpec(Model):
    upload: str
    architecture: Architecture


class JobSpec(Hyperparameters):
    """A resolved job: what the ledger stores and the trainer obeys."""

    spec_version: int = SPEC_VERSION
    teacher: TeacherSpec
    dataset: DatasetRequest
    student: StudentSpec
    augmentation: Augmentation | None = None


class SpecError(ValueError):
    """A request that doesn't fit its teacher. `field` is a dotted path into the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def resolve(request: JobRequest, inspection: Inspection) -> JobSpec:
    """Make every value explicit. Raises SpecError when the student doesn't fit the teacher."""
    teacher = inspection.architecture
    _check_preprocessing(request.dataset, teacher)
    shared: dict[str, Any] = {name: getattr(request, name) for name in Hyperparameters.model_fields}
    return JobSpec(
        teacher=TeacherSpec(upload=request.teacher, architecture=teacher),
        dataset=request.dataset,
        student=_resolve_student(request.student, inspection),
        augmentation=request.augmentation,
        **shared,
    )


def _check_preprocessing(dataset: DatasetRequest, teacher: Architecture) -> None:
    for name, value in (("mean", dataset.mean), ("std", dataset.std)):
        if not isinstance(value, str) and len(value) != teacher.channels:
            raise SpecError(
                f"dataset.{name}",
                f"has {len(value)} values, but the teacher takes {teacher.channels} input channels: give one a channel",
            )
    order = dataset.class_order
    if order is not None and len(order) != teacher.classes:
        raise SpecError(
            "dataset.class_order", f"has {len(order)} names, but the teacher has {teacher.classes} classes: name each"
        )
    if order is not None and len(set(order)) != len(order):
        raise SpecError("dataset.class_order", "names a class twice: name each class once")


def _resolve_student(student: StudentRequest, inspection: Inspection) -> StudentSpec:
    teacher = inspection.architecture
    by_depth = {option.depth: option.blocks for option in inspection.students}
    if student.depth is not None:
        smaller = [d for d in by_depth if d < teacher.depth]
        if not smaller and not student.allow_same_depth:
            raise SpecError(
                "student.depth",
                f"the teacher's depth {teacher.depth} is the least of the family {teacher.family}: there is no "
                "shallower student",
            )
        if student.depth >= teacher.depth and not (student.allow_same_depth and student.depth == teacher.depth):
            raise SpecError(
                "student.depth",
                f"{student.depth} is not smaller than the teacher's depth {teacher.depth}: choose one of {smaller}"
                ' (or set "allow_same_depth" to use the teacher\'s own depth)',
            )
        if student.depth not in by_depth:
            raise SpecError(
                "student.depth",
                f"{student.depth} is not a depth of the family {teacher.family}: choose one of {smaller}",
            )
        return StudentSpec(depth=student.depth, blocks=by_depth[student.depth], init=student.init)
    blocks = student.blocks or []
    if len(blocks) != len(teacher.blocks):
        raise SpecError(
            "student.blocks",
            f"names {len(blocks)} sections, but the teacher has {len(teacher.blocks)}: {teacher.blocks}",
        )
    if any(s > t for s, t in zip(blocks, teacher.blocks, strict=True)):
        raise SpecError("student.blocks", f"{blocks} has a section deeper than the teacher's {teacher.blocks}")
    if blocks == teacher.blocks and not student.allow_same_depth:
        raise SpecError(
            "student.blocks",
            f"{blocks} is the teacher's own depth: use fewer blocks in a section, or set allow_same_depth",
        )
    return StudentSpec(depth=_depth_of(blocks, inspection), blocks=blocks, init=student.init)


def _depth_of(blocks: list[int], inspection: Inspection) -> int:
    """Weighted layers of a student whose sections may differ, from the layers that one block has."""
    teacher = inspection.architecture
    layers = layers_per_block(inspection)
    return teacher.depth - layers * (sum(teacher.blocks) - sum(blocks))


def layers_per_block(inspection: Inspection) -> int:
    """Weighted layers of one block, read off two of the depths that the family offers."""
    if len(inspection.students) < 2:
        return 0
    first, last = inspection.students[0], inspection.students[-1]
    return (last.depth - first.depth) // (sum(last.blocks) - sum(first.blocks))


# --- what a job says when it fails -------------------------------------------------------------------


class ErrorType(StrEnum):
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out-of-memory"
    BAD_DATASET = "bad-dataset"
    BAD_TEACHER = "bad-teacher"
    TEACHER_NEAR_CHANCE = "teacher-near-chance"
    DEVICE_UNAVAILABLE = "device-unavailable"
    WORKER_LOST = "worker-lost"
    TRAINER_CRASHED = "trainer-crashed"
    TIME_LIMIT = "time-limit"


class JobError(Model):
    """Why a job failed, for people (`detail`) and programs (`type`)."""

    type: ErrorType
    detail: str
    field: str | None = None
    """The field of the request to change, if one is to blame."""
    member: str | None = None
    """The file or array inside the dataset, if one is to blame."""
