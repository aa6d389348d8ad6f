"""`compare`: arms side by side on the same data and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from jobs.studies.kinds.configurations import Configuration, best
from jobs.studies.kinds.statistics import Sample, describe
from jobs.studies.kinds.trials import Choice, Key, NextSteps, StudySpec, Template, Trials, TrialsRow, race_of_trials
from lit_spec import Architecture, JobRequest, SpecError
from lit_spec.errors import StudyError, StudyErrorType
from lit_spec.merge_patch import merge_patch
from lit_spec.requests.dataset import DATASET_SOURCES
from lit_spec.requests.resolve import with_preset
from lit_spec.requests.study import Arm, CompareRequest


class CompareKey(Key):
    arm: str


class CompareRow(TrialsRow):
    arm: str
    difference_mean: float | None
    """Test accuracy minus that of the first arm, of pairs with the same seed."""
    difference_std: float | None
    difference_low: float | None
    """Ends of the 95 % interval of the mean difference."""
    difference_high: float | None
    pairs: int


@dataclass(frozen=True)
class _Arm:
    name: str
    template: Template


class Compare:
    reads_curves = False
    columns = CompareRow

    def __init__(self, spec: StudySpec, request: CompareRequest) -> None:
        """Raises SpecError for arms that can't be told apart, or change what the study keeps the same."""
        self._seeds = request.explicit_seeds
        self._arms = {arm.name: arm for arm in _arms(spec, request)}

    @property
    def planned(self) -> int:
        return len(self._arms) * len(self._seeds)

    def key(self, stored: Mapping[str, Any]) -> CompareKey:
        return CompareKey.model_validate(stored)

    def request(self, key: CompareKey) -> dict[str, Any]:
        return merge_patch(self._arms[key.arm].template.request, {"seed": key.seed})

    def templates(self) -> Iterator[Template]:
        return (arm.template for arm in self._arms.values())

    def next_steps(self, trials: Trials[CompareKey], _width: int, /) -> NextSteps[CompareKey]:
        # Seed by seed, so that the table so far is a fair one.
        keys = [CompareKey(arm=name, seed=seed) for seed in self._seeds for name in self._arms]
        new = [key for key in keys if key not in trials]
        configurations = self._configurations(trials)
        if new or not all(found.finished for _, found in configurations):
            return NextSteps(new=new)
        winner = best(configurations)
        if winner is None:
            detail = "no arm has a succeeded trial for every seed: see the jobs' errors, then resume the study"
            return NextSteps(failure=StudyError(type=StudyErrorType.NO_RESULT, detail=detail))
        name, found = winner
        return NextSteps(choice=Choice(values={"arm": name}, job_id=found.best_job))

    def table(self, trials: Trials[CompareKey]) -> list[CompareRow]:
        configurations = self._configurations(trials)
        winner = best(configurations)
        rows = []
        for name, found in configurations:
            difference, pairs = _difference(found, configurations[0][1])
            rows.append(
                CompareRow(
                    arm=name,
                    **found.summary(),
                    difference_mean=difference.mean,
                    difference_std=difference.std,
                    difference_low=difference.low,
                    difference_high=difference.high,
                    pairs=pairs,
                    chosen=winner is not None and winner[0] == name,
                )
            )
        return rows

    def _configurations(self, trials: Trials[CompareKey]) -> list[tuple[str, Configuration]]:
        return [
            (name, Configuration.of(trials, (CompareKey(arm=name, seed=seed) for seed in self._seeds)))
            for name in self._arms
        ]


def _difference(arm: Configuration, first: Configuration) -> tuple[Sample, int]:
    """The difference of the test accuracies, seed by seed. For the first arm itself there is no difference."""
    if arm is first:
        return describe([]), 0
    differences = [
        mine.result.test - other.result.test
        for mine, other in zip(arm.trials, first.trials, strict=True)
        if mine is not None and mine.result is not None and mine.result.test is not None
        if other is not None and other.result is not None and other.result.test is not None
    ]
    return describe(differences), len(differences)


_KEPT = ("teacher", "discriminator", "seed", "name", "tags")


def _arms(spec: StudySpec, request: CompareRequest) -> list[_Arm]:
    found: dict[str, _Arm] = {}
    for number, arm in enumerate(request.methods):
        field = f"methods.{number}"
        _check_patch(arm, field)
        for made in _with_inits(spec, arm, field, request):
            if made.name in found:
                raise SpecError(f"{field}.name", f"{made.name!r} is the name of an earlier arm: give another name")
            found[made.name] = made
    return list(found.values())


def _check_patch(arm: Arm, field: str) -> None:
    """An arm may change how a student is trained, not on what."""
    for name in _KEPT:
        if name in arm.patch:
            raise SpecError(f"{field}.{name}", "is the same for all arms: leave it out")
    dataset = arm.patch.get("dataset", {})
    for name in DATASET_SOURCES:
        if not isinstance(dataset, dict) or name in dataset:
            raise SpecError(f"{field}.dataset", "must be the study's data set: an arm may only change how it is read")


def _with_inits(spec: StudySpec, arm: Arm, field: str, request: CompareRequest) -> list[_Arm]:
    job = spec.job
    patched = merge_patch(job, arm.patch)
    if "method" in arm.patch:
        patched.setdefault("race", _race_of(patched, spec.inspection.architecture))
    origins = {path: f"{field}.{path}" for path in _paths(arm.patch)}
    if request.inits is None:
        return [_Arm(arm.name, Template(patched, job, origins))]
    for place, given in ((field, arm.patch), ("job", job)):
        student = given.get("student")
        if isinstance(student, dict) and student.get("init") is not None:
            raise SpecError(f"{place}.student.init", "is what `inits` varies: leave out one of the two")
    return [
        _Arm(
            f"{arm.name}-{init.value}",
            Template(
                merge_patch(patched, {"student": {"init": init.value}}),
                job,
                {**origins, "student.init": f"inits.{number}"},
            ),
        )
        for number, init in enumerate(request.inits)
    ]


def _race_of(patched: dict[str, Any], teacher: Architecture) -> Literal["rates", False]:
    try:
        return race_of_trials(with_preset(JobRequest.model_validate(patched), teacher))
    except (ValidationError, SpecError):
        return False  # what is wrong is said when the arm's template is checked


def _paths(patch: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted path that a patch sets."""
    for name, value in patch.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
