"""What crosses a process boundary, as pydantic models. Nothing here needs torch, HTTP or SQL.

A `JobRequest` is what a user sends: short, with defaults. `resolve` turns it into a `JobSpec`, in which every value is
explicit, so that a stored job keeps its meaning when defaults change.
"""

from __future__ import annotations

from lit_spec.base import SpecError, SpecModel, Split
from lit_spec.dataset_inspection import DatasetInspection
from lit_spec.errors import ErrorType, JobError
from lit_spec.networks.architecture import (
    Architecture,
    Inspection,
    Library,
    LibraryNetwork,
    LibraryPreprocessing,
    LibraryRequest,
    Modality,
    Resampling,
    Task,
    TeacherWeights,
)
from lit_spec.networks.students import StudentOption
from lit_spec.requests.dataset import BUILTIN, Augmentation, Constants, DatasetRequest, Preprocessing, TableColumns
from lit_spec.requests.exports import DEFAULT_EXPORTS, Export
from lit_spec.requests.job import SPEC_VERSION, JobRequest, JobSpec, StudentRequest, StudentSpec, TeacherSpec
from lit_spec.requests.presets import Preset, merged
from lit_spec.requests.resolve import resolve
from lit_spec.requests.student import check_depth
from lit_spec.requests.target import Target
from lit_spec.requests.training import (
    Acceptance,
    Adversarial,
    BatchNorm,
    CachedType,
    Constant,
    Cosine,
    Device,
    Feed,
    FineTuneSchedule,
    Hyperparameters,
    Init,
    IrLoss,
    Linear,
    LitSchedule,
    Method,
    Milestones,
    OneCycle,
    Optimizer,
    Output,
    Part,
    Phase,
    PhaseSchedule,
    Precision,
    Pruning,
    Schedule,
    Select,
    TeacherCacheOptions,
    TeacherCaching,
)

__all__ = [
    "BUILTIN",
    "DEFAULT_EXPORTS",
    "SPEC_VERSION",
    "Acceptance",
    "Adversarial",
    "Architecture",
    "Augmentation",
    "BatchNorm",
    "CachedType",
    "Constant",
    "Constants",
    "Cosine",
    "DatasetInspection",
    "DatasetRequest",
    "Device",
    "ErrorType",
    "Export",
    "Feed",
    "FineTuneSchedule",
    "Hyperparameters",
    "Init",
    "Inspection",
    "IrLoss",
    "JobError",
    "JobRequest",
    "JobSpec",
    "Library",
    "LibraryNetwork",
    "LibraryPreprocessing",
    "LibraryRequest",
    "Linear",
    "LitSchedule",
    "Method",
    "Milestones",
    "Modality",
    "OneCycle",
    "Optimizer",
    "Output",
    "Part",
    "Phase",
    "PhaseSchedule",
    "Precision",
    "Preprocessing",
    "Preset",
    "Pruning",
    "Resampling",
    "Schedule",
    "Select",
    "SpecError",
    "SpecModel",
    "Split",
    "StudentOption",
    "StudentRequest",
    "StudentSpec",
    "TableColumns",
    "Target",
    "Task",
    "TeacherCacheOptions",
    "TeacherCaching",
    "TeacherSpec",
    "TeacherWeights",
    "check_depth",
    "merged",
    "resolve",
]
