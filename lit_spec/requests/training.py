"""How a student is trained: method, hyperparameters, schedule and device."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lit_spec.base import SpecModel
from lit_spec.requests.then import Then


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Phase(StrEnum):
    LIT = "lit"
    """The first phase, with every method."""
    FINE_TUNE = "fine_tune"
    PRUNE = "prune"
    """Fine-tuning after each pruning of `then`; the epochs are numbered consecutively over all of them."""


class Part(StrEnum):
    STEM = "stem"
    SECTIONS = "sections"
    HEAD = "head"


class Method(StrEnum):
    LIT = "lit"
    """KD and IR loss, then only KD (Koratana et al., ICML 2019)."""
    KD = "kd"
    """Knowledge distillation in both phases (Hinton et al., 2015)."""
    AT = "at"
    """KD and attention transfer in both phases (Zagoruyko and Komodakis, ICLR 2017)."""
    SCRATCH = "scratch"
    """Only labels, without a teacher; all weights start at random values."""
    PRUNE = "prune"
    """The teacher with its smallest weights set to zero until it has as many as the student; KD in both phases."""
    MIMIC = "mimic"
    """Feature mimicking in both phases, without labels: the student's features, the input of the layer that puts out
    the logits, follow the teacher's (Wang et al., "Compressing Models with Few Samples: Mimicking then Replacing", CVPR
    2022)."""
    BORN_AGAIN_KD = "born-again-kd"
    """KD at the teacher's own depth (Furlanello et al., ICML 2018)."""
    BORN_AGAIN_LIT = "born-again-lit"
    """LIT at the teacher's own depth."""

    @property
    def born_again(self) -> bool:
        return self in (Method.BORN_AGAIN_KD, Method.BORN_AGAIN_LIT)

    @property
    def uses_representations(self) -> bool:
        """Whether the first phase has the IR loss, and with it the teacher's stem and head."""
        return self in (Method.LIT, Method.BORN_AGAIN_LIT)

    @property
    def races(self) -> bool:
        """Whether it can compete with other methods before the training, for the same student of the same teacher."""
        return self in (Method.LIT, Method.KD, Method.AT, Method.MIMIC)


class Init(StrEnum):
    INHERIT = "inherit"
    """Blocks, stem and head are copied from the teacher; `select` says which blocks."""
    RANDOM = "random"
    """The blocks start at random values, as in the paper; with method `scratch` also stem and head."""


class Select(StrEnum):
    """Which of the teacher's blocks a student keeps."""

    EVEN = "even"
    """The first block of each section and evenly spaced others."""
    FIRST = "first"
    """The first blocks of each section."""
    IMPORTANCE = "importance"
    """The blocks that change their representation most, measured on training data."""
    RECOVER = "recover"
    """The blocks that do the most damage when they are left out, measured on training data without labels. The student
    is then repaired by a few steps."""


class IrLoss(StrEnum):
    MSE = "mse"
    L1 = "l1"
    SMOOTH_L1 = "smooth_l1"
    COSINE = "cosine"


class Pruning(StrEnum):
    """What method `prune` and the operations `prune:…` set to zero."""

    WEIGHTS = "weights"
    """The smallest weights of all layers together (Han et al., NeurIPS 2015)."""
    FILTERS = "filters"
    """Whole filters (rows of linear layers) with the smallest L1 norm, the same share in every layer (Li et al., ICLR
    2017)."""


class BatchNorm(StrEnum):
    """What BatchNorm normalises the student's representations with during training."""

    TRAIN = "train"
    """The batch's statistics; the running statistics follow them."""
    FROZEN = "frozen"
    """The teacher's running statistics, which stay as they are. Scale and shift are trained."""


class Output(StrEnum):
    """What a network puts out."""

    LOGITS = "logits"
    """Class logits (B, classes)."""
    EMBEDDING = "embedding"
    """An embedding (B, D), of which the direction counts. The loss between outputs is 1 - cosine, not KD."""


class TeacherCaching(StrEnum):
    AUTO = "auto"
    """Where it pays and fits."""
    OFF = "off"
    """The teacher is run for each batch, and each pass over the data varies its samples anew."""


class CachedType(StrEnum):
    """The type of numbers in a cache."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"

    @property
    def bytes(self) -> int:
        return 4 if self == CachedType.FLOAT32 else 2


class TeacherCacheOptions(SpecModel):
    """What the teacher makes of a few views of each sample is kept on the worker's disk, and read in later passes."""

    views: int = Field(8, ge=1, le=256)
    """Variations of each sample, by augmentation and mixing. A pass over the data shows each sample in one of them."""
    dtype: CachedType = CachedType.FLOAT16
    """The teacher's numbers are rounded to this type, also where they are not read but made."""


class Feed(StrEnum):
    """The input of a student's section on the IR path."""

    TEACHER = "teacher"
    """The output of the teacher's section before it: LIT as in the paper."""
    STUDENT = "student"
    """The output of the student's section before it: FitNets' hints (Romero et al., ICLR 2015)."""
    SCHEDULED = "scheduled"
    """One of the two, drawn for each section and step; the teacher's probability falls from 1 to 0 (as in scheduled
    sampling, Bengio et al., NeurIPS 2015)."""


# --- learning rate ---------------------------------------------------------------------------------------


class Constant(SpecModel):
    """The learning rate stays as it is."""

    kind: Literal["constant"]
    """Chooses this schedule."""


class Milestones(SpecModel):
    """The learning rate is multiplied by gamma at each milestone, in epochs."""

    kind: Literal["milestones"]
    """Chooses this schedule."""
    milestones: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """Epochs after which the rate is multiplied."""
    gamma: float = Field(0.1, gt=0, lt=1)
    """The factor at each milestone."""


class Cosine(SpecModel):
    """The learning rate falls to zero along half a cosine, step by step."""

    kind: Literal["cosine"]
    """Chooses this schedule."""


class OneCycle(SpecModel):
    """Linear warm-up over a share of the steps, then half a cosine to zero."""

    kind: Literal["one_cycle"]
    """Chooses this schedule."""
    warmup: float = Field(0.2, gt=0, lt=1)
    """Share of the steps that warm up."""


class Linear(SpecModel):
    """The learning rate is constant for a share of the steps, then falls linearly to zero."""

    kind: Literal["linear"]
    """Chooses this schedule."""
    start: float = Field(0.5, ge=0, lt=1)
    """Share of the steps after which it falls."""


LearningRateSchedule = Annotated[Constant | Milestones | Cosine | OneCycle | Linear, Field(discriminator="kind")]


# --- the phases ------------------------------------------------------------------------------------------


class PhaseSchedule(SpecModel):
    epochs: int = Field(ge=0, le=100_000)
    learning_rate: float = Field(gt=0, le=100)
    schedule: LearningRateSchedule = OneCycle(kind="one_cycle", warmup=0.2)
    """How the learning rate changes over the phase."""
    frozen: list[Literal[Part.STEM, Part.HEAD]] | None = None
    """Parts of the student that keep the teacher's weights in this phase. None: stem and head in the first phase of
    a method with an IR loss, nothing otherwise."""


class LitSchedule(PhaseSchedule):
    """The first phase, with the method's whole loss."""

    epochs: int = Field(26, ge=0, le=100_000)
    """Passes over the training split, or runs of `steps_per_epoch` steps."""
    learning_rate: float = Field(0.1, gt=0, le=100)
    """The largest learning rate of the phase."""


class FineTuneSchedule(PhaseSchedule):
    """Short, with a learning rate that preserves what the first phase has reached."""

    epochs: int = Field(4, ge=0, le=100_000)
    """Passes over the training split, or runs of `steps_per_epoch` steps."""
    learning_rate: float = Field(0.01, gt=0, le=100)
    """The largest learning rate of the phase."""
    schedule: LearningRateSchedule = Cosine(kind="cosine")
    """How the learning rate changes over the phase."""


class Optimizer(StrEnum):
    SGD = "sgd"
    ADAM = "adam"


Decay = Annotated[float, Field(ge=0, lt=1)]


class Schedule(SpecModel):
    """Both phases: the first with the method's whole loss, then fine-tuning with only KD (GANs: adversarial)."""

    lit: LitSchedule = Field(default_factory=LitSchedule)
    """The first phase."""
    fine_tune: FineTuneSchedule = Field(default_factory=FineTuneSchedule)
    """The second phase."""
    batch_size: int = Field(32, ge=1, le=65_536)
    """Samples in a step."""
    steps_per_epoch: int | None = Field(None, ge=1, le=10_000_000)
    """Steps between two evaluations. None: one pass over the training split; the last batch may be smaller. With a
    number, all batches have the same size and passes follow each other without a gap, so that small data sets can be
    used for many steps."""
    optimizer: Optimizer = Optimizer.SGD
    """SGD or Adam."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = True
    """Whether SGD uses Nesterov momentum."""
    adam_betas: list[Decay] = Field([0.9, 0.999], min_length=2, max_length=2)
    """Decay rates of Adam's two moments."""
    weight_decay: float = Field(1e-4, ge=0, le=1)
    """Weight of the L2 penalty."""
    gradient_clip: float | None = Field(None, gt=0, le=1e6)
    """The largest L2 norm of all gradients of a step together; larger ones are scaled down. None: no limit."""
    batch_norm: BatchNorm = BatchNorm.TRAIN
    """What BatchNorm normalises with during training."""
    dropout: bool = True
    """Whether dropout and stochastic depth of the student are on in training."""

    def of(self, phase: Phase) -> PhaseSchedule:
        """The schedule of a phase. The phase after a pruning has the schedule of fine-tuning."""
        return self.lit if phase == Phase.LIT else self.fine_tune

    def epochs_before(self, phase: Phase) -> int:
        """The number of epochs before a phase. Epochs of the phase added to it count through the whole training."""
        phases = list(Phase)
        return sum(self.of(earlier).epochs for earlier in phases[: phases.index(phase)])

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.lit.epochs + self.fine_tune.epochs == 0:
            raise ValueError("lit.epochs and fine_tune.epochs are both 0: at least one phase must train")
        if self.optimizer == Optimizer.SGD and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adversarial(SpecModel):
    """The fine-tuning of a GAN's generator (Choi et al., CVPR 2018, section 3)."""

    classification: float = Field(1.0, ge=0, le=1000)
    """Weight of the domain classification loss."""
    reconstruction: float = Field(10.0, ge=0, le=1000)
    """Weight of the cycle reconstruction loss."""
    gradient_penalty: float = Field(10.0, ge=0, le=1000)
    """Weight of the gradient penalty on the discriminator."""
    n_critic: int = Field(5, ge=1, le=100)
    """Steps of the discriminator for each step of the generator."""


class Acceptance(SpecModel):
    """What the student must reach to be accepted. Give one of the two."""

    max_accuracy_drop: float | None = Field(None, ge=0, le=100)
    """Points of test accuracy that a classifier may lose against the teacher. Without labels in the test split: points
    of agreement with the teacher, which bounds that loss."""
    min_psnr: float | None = Field(None, ge=0, le=200)
    """PSNR in decibels that a generator's output must reach against the teacher's output on the test split."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.max_accuracy_drop is None) == (self.min_psnr is None):
            raise ValueError('give "max_accuracy_drop" (for a classifier) or "min_psnr" (for a generator)')
        return self


class Hyperparameters(SpecModel):
    """The fields that request and specification have in common."""

    method: Method = Method.LIT
    """How the student learns."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the labels against the teacher's softened output in the KD loss."""
    beta: float = Field(0.5, ge=0, le=1)
    """Weight of the KD loss against the IR loss in the LIT phase."""
    tau: float = Field(4.0, gt=0, le=1000)
    """Temperature of the KD loss."""
    output: Output = Output.LOGITS
    """What the network puts out."""
    ir_loss: IrLoss = IrLoss.MSE
    """The loss between representations."""
    ir_relative: bool = False
    """Whether each section's IR loss is divided by the loss of a constant, the teacher's mean representation of the
    batch. Sections then have like weights, whatever the scale of their representations."""
    feature_weight: float = Field(0.0, ge=0, le=1e6)
    """For the methods with an IR loss: the weight of the loss between features, as method `mimic` has it alone, beside
    the losses of both phases."""
    feed: Feed = Feed.SCHEDULED
    """What the student's sections get as input on the IR path."""
    feed_until: float = Field(0.8, gt=0, le=1)
    """Share of the LIT phase over which `scheduled` feeding goes from the teacher's representation to the student's."""
    noise: float = Field(0.0, ge=0, le=100)
    """Standard deviation of Gaussian noise that is added to the teacher's representations before sections get them."""
    mixing: float = Field(0.0, ge=0, le=1)
    """For classifiers of images: the share of samples that are mixed with other samples (mixup, Zhang et
    al., ICLR 2018). Only the teacher labels the mixtures."""
    n_random: int = Field(0, ge=0, le=10_000_000)
    """Number of inputs of random noise that are added to the training split. Only the teacher labels them."""
    attention_weight: float = Field(1000.0, ge=0, le=1e6)
    """For method `at`: twice the weight of the attention transfer loss."""
    pruning: Pruning = Pruning.WEIGHTS
    """What method `prune` and the operations of `then` set to zero."""
    then: Then = Field(default_factory=list)
    """Operations on the trained student, each applied to the result of the one before it: `prune:0.5` sets half of the
    weights to zero and fine-tunes again, `int8` quantises. The report has an entry for each."""
    adversarial: Adversarial | None = None
    """For a GAN's fine-tuning. None: the defaults, if a discriminator is given."""
    schedule: Schedule = Field(default_factory=Schedule)
    """Epochs, learning rates and the optimiser."""
    race: bool | Literal["rates"] = False
    """For classifiers, with the methods lit, kd, at and mimic: whether methods (the one asked for, mimic, kd) and
    learning rates (those asked for, times powers of three) compete for a few steps before the training, which goes on
    with the winner. `rates`: only learning rates compete."""
    seed: int = Field(0, ge=0, lt=2**63)
    """All random numbers of the job follow from it."""
    device: Device = Device.AUTO
    """Where the job trains. `auto`: on whichever worker is free first."""
    devices: int = Field(1, ge=1, le=64)
    """Processes that train the student together on each worker, each on its own GPU or its share of the cores. They
    divide the rows of each batch, so the result is that of one process but for rounding."""
    nodes: int = Field(1, ge=1, le=64)
    """Workers that train the student together, each with `devices` processes."""
    shard_teacher: bool = False
    """For classifiers that are trained by several processes: whether each process holds only its part of the teacher's
    parameters, for a teacher that does not fit one device."""
    precision: Precision = Precision.FLOAT32
    """The type of numbers in training."""
    teacher_precision: Precision | None = None
    """The type of numbers in the teacher's forward passes while the student is trained. `bfloat16` with a student in
    float32 makes the step faster on processors that compute in it; the report says what it costs. None: as
    `precision`."""
    teacher_cache: TeacherCaching | TeacherCacheOptions = TeacherCaching.OFF
    """For classifiers: whether the teacher's answers are kept and read again, in later epochs and by other jobs with
    the same teacher and data. `auto`: where that pays. Samples then have a limited number of random variations."""
    accept: Acceptance | None = None
    """What the student must reach. None: every student is accepted."""
    max_attempts: int = Field(3, ge=1, le=20)
    """How often the job may lose its trainer or worker before it fails."""
    time_limit_s: int | None = Field(None, ge=1)
    """Seconds of training after which the job fails with `time-limit`; None: no limit."""

    @property
    def processes(self) -> int:
        """Of the training, on all workers."""
        return self.devices * self.nodes

    @property
    def learns_labels(self) -> bool:
        """Whether the loss has a term for the labels."""
        return self.alpha > 0 and self.method != Method.MIMIC and self.output == Output.LOGITS
