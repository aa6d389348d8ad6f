"""A job as requested (`JobRequest`) and as it is run (`JobSpec`)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, model_validator

from lit_spec.base import NameText, SpecModel
from lit_spec.networks.architecture import Architecture, LibraryPreprocessing, LibraryRequest, TeacherWeights
from lit_spec.requests.dataset import Augmentation, DatasetRequest
from lit_spec.requests.exports import Export
from lit_spec.requests.plan import PlanOptions
from lit_spec.requests.presets import Preset
from lit_spec.requests.target import Target
from lit_spec.requests.tracking import Tracked
from lit_spec.requests.training import Hyperparameters, Init, Select, TeacherCacheOptions, TeacherCaching

SPEC_VERSION = 11

Tag = Annotated[str, Field(min_length=1, max_length=64)]


def _ascending(indices: list[int]) -> list[int]:
    if indices != sorted(set(indices)):
        raise ValueError(f"is not ascending, each index once: write {sorted(set(indices))}")
    return indices


BlockIndex = Annotated[int, Field(ge=0)]
KeptOfSection = Annotated[list[BlockIndex], Field(min_length=1, max_length=1000), AfterValidator(_ascending)]
Kept = Annotated[list[KeptOfSection], Field(min_length=1, max_length=100)]
"""For each section the indices of the teacher's blocks that the student keeps: from 0, ascending."""

STUDENT_FORMS = {
    "depth": "14",
    "blocks": "[2, 2, 2]",
    "kept": "[[0], [0, 2]]",
    "ratio": "2.5",
    "target": '{"latency_ratio": 1.5}',
    "plan": '{"students": 6}',
}
"""The fields of which a request has one, with examples."""
STUDENT_FORMS_SHOWN = ", ".join(f'"{name}" (as {example})' for name, example in STUDENT_FORMS.items())


TEACHER_EXAMPLE = "upl_2v5ytd3sgvgnbwcy6gzrpafudq"
DATASET_EXAMPLE = "upl_n4cpzq7l2uhxjv3dk6wtmaeryo"
JOB_EXAMPLES: list[JsonValue] = [
    {"teacher": TEACHER_EXAMPLE, "dataset": {"upload": DATASET_EXAMPLE}, "student": {"depth": 14}},
    {
        "teacher": TEACHER_EXAMPLE,
        "architecture": {"library": "torchvision", "name": "resnet50"},
        "dataset": {"upload": DATASET_EXAMPLE, "size": [224, 224]},
        "student": {"target": {"latency_ratio": 1.5}},
        "preset": "few",
        "accept": {"max_accuracy_drop": 1},
        "tags": ["nightly"],
    },
]


class StudentRequest(SpecModel):
    """How shallow the student is, and where it starts. Give one of `depth`, `blocks`, `ratio`, `target`, `kept` and
    `plan`."""

    depth: int | None = Field(None, ge=1)
    """Layers as the teacher's family counts them; for a library's network the number of its blocks."""
    blocks: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=1)
    """Blocks of each section."""
    ratio: float | None = Field(None, gt=1, le=1000)
    """The same as the target `parameters_ratio`."""
    target: Target | None = None
    """What the student must reach. Of all such students, `recover` takes the one with the least damage for what it
    saves, other rules the deepest one, of several the one that saves the least."""
    kept: Kept | None = None
    """For each section the indices of the teacher's blocks that the student keeps: from 0, ascending."""
    plan: PlanOptions | None = None
    """Measure a range of students instead of training one."""
    select: Select | None = None
    """Which of the teacher's blocks are inherited, unless `kept` names them. None: `recover` for a
    classifier's student that inherits blocks, by a method that compares it with the teacher; otherwise `even`."""
    init: Init | None = None
    """None: `inherit`, but `random` for the methods scratch and born-again."""
    repair: bool | None = None
    """Whether the student is repaired without labels before the training. Where that brings it closer to the teacher
    and it is no worse on the validation split, the training begins there. None: with `select: recover`."""
    allow_same_depth: bool = False
    """Whether the student may be as deep as the teacher."""

    @model_validator(mode="after")
    def _gives_depth_once(self) -> Self:
        if sum(getattr(self, name) is not None for name in STUDENT_FORMS) > 1:
            raise ValueError(f"give one of {STUDENT_FORMS_SHOWN}, not several")
        if self.kept is not None and self.select is not None:
            raise ValueError(
                'has "kept", which names the blocks, and "select", which chooses them: leave out one of them'
            )
        return self


ExpectedAccuracy = Annotated[float | None, Field(gt=0, le=100)]
"""Percent that the teacher is known to reach. The job fails before the training if the labelled samples of the
validation split or, if it has none, of the test split show that it reaches less here. None: that is not checked."""


class JobRequest(Tracked, Hyperparameters):
    """The body of `POST /v1/jobs`."""

    model_config = ConfigDict(json_schema_extra={"examples": JOB_EXAMPLES})

    teacher: str = Field(min_length=1)
    """The id of a teacher upload."""
    architecture: LibraryRequest | None = None
    """For a teacher from torchvision or timm. None: the architecture that its inspection found."""
    teacher_weights: TeacherWeights | None = None
    """Which weights of a checkpoint that has raw and averaged ones. None: those with which it was inspected."""
    teacher_options: dict[str, int | str | bool] = Field(default_factory=dict)
    """Options that the teacher's tensors don't show. The inspection's `choices` lists them with their values."""
    discriminator: str | None = Field(None, min_length=1)
    """The id of a teacher upload with a GAN's discriminator, for the adversarial fine-tuning of its generator."""
    dataset: DatasetRequest
    """The samples to train and to measure with."""
    student: StudentRequest = Field(default_factory=StudentRequest)
    """How shallow the student is, and where it starts."""
    augmentation: Augmentation | None = None
    """None: the standard augmentation of the data; see docs/datasets.md."""
    teacher_accuracy: ExpectedAccuracy = None
    """Percentage that the teacher is known to reach on the test split. If it clearly reaches less, the job fails
    before the training."""
    teacher_cache: TeacherCaching | TeacherCacheOptions = TeacherCaching.AUTO
    """For classifiers: whether the teacher's answers are kept and read again, in later epochs and by other jobs with
    the same teacher and data. `auto`: where that pays. Samples then have a limited number of random variations."""
    exports: list[Export] | None = Field(None, max_length=len(Export))
    """Formats in addition to safetensors. None: onnx and pt2; for the trials of a study none."""
    tensorboard: bool = False
    """Whether the job's files include `training.tfevents`, the training for TensorBoard."""
    preset: Preset | None = None
    """Values for the fields that the request does not set; see docs/method.md."""
    name: Annotated[NameText, Field(min_length=1, max_length=200)] | None = None
    """A name for people."""
    tags: list[Tag] = Field(default_factory=list, max_length=32)
    """Words by which lists are filtered."""


class StudentSpec(SpecModel):
    """The student, as resolved for its teacher."""

    depth: int | None
    """None: the trainer finds it, by `target`, or there is a `plan`."""
    blocks: list[int] | None
    """Of each section. None: the trainer chooses them, for `depth` or for `target`."""
    init: Init
    """Where its weights start."""
    select: Select | None = Select.EVEN
    """None: `kept` names the blocks."""
    kept: Kept | None = None
    """None: the trainer chooses the blocks, by `select`."""
    repair: bool = False
    """Whether the student is repaired before the training."""
    target: Target | None = None
    """What the request's `target` or `ratio` asks for."""
    plan: PlanOptions | None = None
    """The job measures a range of students, and trains none."""

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.blocks is None and self.depth is None and self.target is None and self.plan is None:
            raise ValueError("has neither blocks nor a depth nor a target nor a plan: give one of them")
        return self


class TeacherSpec(SpecModel):
    """The trained network that a job compresses."""

    upload: str
    """The id of its upload."""
    sha256: str | None = None
    """Of the file that the inspection made of the upload. An upload that is inspected again, as another network or with
    other weights, has several such files. None: an older version of LIT has inspected it, and there is one."""
    architecture: Architecture
    """The network, as its inspection found it."""
    preprocessing: LibraryPreprocessing | None = None
    """As its inspection found it. What `dataset` has from it stands there too."""


class JobSpec(Hyperparameters):
    """A resolved job: what the ledger stores and the trainer runs."""

    spec_version: int = SPEC_VERSION
    """Version of this form; newer versions of LIT read older ones."""
    teacher: TeacherSpec
    """The trained network."""
    discriminator: TeacherSpec | None = None
    """For a GAN: the discriminator that the fine-tuning needs."""
    dataset: DatasetRequest
    """The samples to train and to measure with."""
    student: StudentSpec
    """How shallow the student is, and where it starts."""
    augmentation: Augmentation | None = None
    """How training samples are varied. None: not at all."""
    teacher_accuracy: ExpectedAccuracy = None
    """Percentage that the teacher is known to reach. None: not known."""
    exports: list[Export] = Field(default_factory=list)
    """Formats that are written besides safetensors."""
    tensorboard: bool = False
    """Whether the output includes the training as a file of TensorBoard events."""
    preset: Preset | None = None
    """The preset that was used. All its values are in this specification."""
