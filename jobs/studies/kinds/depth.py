"""`depth`: the shallowest student that is good enough, and what each depth gains and costs.

The shallowest is found by bisection over the depths; several are tried at a time if several workers are live. This
assumes that a deeper student is never worse. If all depths are tried (`front`), nothing is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import pairwise
from statistics import fmean
from typing import Any

from jobs.studies.kinds.configurations import Configuration, numbers
from jobs.studies.kinds.early_stopping import hopeless
from jobs.studies.kinds.trials import (
    Choice,
    Key,
    NextSteps,
    StudySpec,
    Template,
    TrialResult,
    Trials,
    TrialsRow,
    TrialStopReason,
    check_student_is_open,
)
from lit_spec import SpecError, Task
from lit_spec.errors import StudyError, StudyErrorType
from lit_spec.merge_patch import merge_patch
from lit_spec.networks.students import unbeaten
from lit_spec.requests.study import DepthRequest
from lit_spec.states import JobState

DECIMALS = 4


class DepthKey(Key):
    depth: int


class DepthRow(TrialsRow):
    depth: int
    validation_drop: float | None
    """Percentage points of accuracy lost on the validation split; without labels, of agreement with the teacher."""
    within: bool | None
    """Whether the depth loses at most `max_accuracy_drop`; null without that field, or if it is not known."""
    latency_ms: float | None
    """Of one sample, p50, a mean."""
    speedup: float | None
    """Teacher's latency / student's, each pair measured in one process."""
    front: bool | None
    """Whether no other depth is both faster and more accurate; null if not all depths are tried."""


class _Verdict(StrEnum):
    OPEN = "open"
    """Not tried yet, or running."""
    PASSED = "passed"
    FAILED = "failed"
    VOID = "void"
    """Its trials are finished, but they don't decide between passed and failed."""


class Depth:
    columns = DepthRow

    def __init__(self, spec: StudySpec, request: DepthRequest) -> None:
        """Raises SpecError if the request leaves no depth to vary."""
        teacher = spec.inspection.architecture
        if request.max_accuracy_drop is not None and teacher.task is not Task.CLASSIFICATION:
            raise SpecError("max_accuracy_drop", 'is for classifiers, but the teacher is a generator: use "front"')
        check_student_is_open(request.job)
        if request.job.method.born_again:
            raise SpecError("job.method", f"{request.job.method} keeps the teacher's depth: use lit or kd")
        offered = [option.depth for option in spec.inspection.students if option.depth < teacher.depth]
        if not offered and request.depths is None:
            raise SpecError(
                "job.teacher", f"its depth {teacher.depth} is the smallest of its family: give a deeper teacher"
            )
        self._given = offered if request.depths is None else request.depths
        self._depths = sorted(self._given)
        self._job = spec.job
        self._seeds = request.explicit_seeds
        self._bound = request.max_accuracy_drop
        self._all = request.front
        self.reads_curves = request.stop_early

    @property
    def planned(self) -> int:
        return len(self._depths) * len(self._seeds)

    def key(self, stored: Mapping[str, Any]) -> DepthKey:
        return DepthKey.model_validate(stored)

    def request(self, key: DepthKey) -> dict[str, Any]:
        return merge_patch(self._job, {"student": {"depth": key.depth}, "seed": key.seed})

    def templates(self) -> Iterator[Template]:
        for number, depth in enumerate(self._given):
            request = self.request(DepthKey(depth=depth, seed=self._seeds[0]))
            yield Template(request, self._job, {"student.depth": f"depths.{number}"})

    # --- what is to be done next ---

    def next_steps(self, trials: Trials[DepthKey], width: int, /) -> NextSteps[DepthKey]:
        stop = self._hopeless(trials)
        # Trials that are being stopped decide as much as if they were finished already.
        trials = {**trials, **{key: replace(trials[key], stopped=reason) for key, reason in stop.items()}}
        verdicts = {depth: self._verdict(self._configuration(depth, trials)) for depth in self._depths}
        open_depths = self._open_all(verdicts) if self._all else _open_between(verdicts)
        unneeded = {
            key: TrialStopReason.UNNEEDED
            for key, trial in trials.items()
            if trial.live and trial.stopped is None and key.depth not in open_depths
        }
        if open_depths:
            chosen = open_depths if self._all else self._spread(open_depths, trials, width)
            return NextSteps(new=self._missing(chosen, trials), stop={**stop, **unneeded})
        decided = self._decide(trials, verdicts)
        return NextSteps(
            stop={**stop, **unneeded},
            choice=decided if isinstance(decided, Choice) else None,
            failure=decided if isinstance(decided, StudyError) else None,
        )

    def _missing(self, depths: Sequence[int], trials: Trials[DepthKey]) -> list[DepthKey]:
        keys = [DepthKey(depth=depth, seed=seed) for seed in self._seeds for depth in depths]
        return [key for key in keys if key not in trials]

    @staticmethod
    def _open_all(verdicts: Mapping[int, _Verdict]) -> list[int]:
        return [depth for depth, verdict in verdicts.items() if verdict is _Verdict.OPEN]

    def _spread(self, depths: Sequence[int], trials: Trials[DepthKey], width: int) -> list[int]:
        """Enough of these depths to keep the workers busy: the running ones, and others from the middle of the gaps."""
        selected = [number for number, depth in enumerate(depths) if self._configuration(depth, trials).made]
        wanted = min(math.ceil(width / len(self._seeds)), len(depths))
        while len(selected) < wanted:
            edges = [-1, *sorted(selected), len(depths)]
            start, end = max(pairwise(edges), key=lambda gap: gap[1] - gap[0])
            selected.append((start + end) // 2)
        return [depths[number] for number in selected]

    def _hopeless(self, trials: Trials[DepthKey]) -> dict[DepthKey, TrialStopReason]:
        """The running trials that can no longer be of interest, each with the others of its depth."""
        if not self.reads_curves:
            return {}
        completed = [trial.curve for trial in trials.values() if trial.result is not None]
        lost = {
            key.depth
            for key, trial in trials.items()
            if trial.state is JobState.RUNNING and trial.stopped is None
            if (needed := self._needed(key.depth, trials)) is not None
            if hopeless(trial.curve, needed, completed)
        }
        return {
            key: TrialStopReason.HOPELESS
            for key, trial in trials.items()
            if key.depth in lost and trial.live and trial.stopped is None
        }

    def _needed(self, depth: int, trials: Trials[DepthKey]) -> float | None:
        """What a student of this depth must reach on the validation split to be of interest; None while unknown."""
        needs = []
        if self._bound is not None:
            teachers = {reference for trial in trials.values() if (reference := _reference(trial.result)) is not None}
            needs.append(max(teachers) - self._bound if teachers else None)
        if self._all:
            shallower = [self._configuration(other, trials) for other in self._depths if other < depth]
            needs.append(max((found.validation for found in shallower if found.complete), default=None))
        return None if None in needs else min(need for need in needs if need is not None)

    def _verdict(self, found: Configuration) -> _Verdict:
        if any(trial.stopped is TrialStopReason.HOPELESS and trial.result is None for trial in found.made):
            return _Verdict.FAILED
        if not found.finished:
            return _Verdict.OPEN
        drop = _drop(found)
        if not found.complete or (self._bound is not None and drop is None):
            return _Verdict.VOID
        return _Verdict.PASSED if self._bound is None or (drop or 0.0) <= self._bound else _Verdict.FAILED

    # --- what was found out ---

    def _decide(self, trials: Trials[DepthKey], verdicts: Mapping[int, _Verdict]) -> Choice | StudyError:
        passed = [depth for depth, verdict in verdicts.items() if verdict is _Verdict.PASSED]
        void = [depth for depth, verdict in verdicts.items() if verdict is _Verdict.VOID]
        missed = [depth for depth in void if not self._spared(depth, trials)]
        front = self._front(trials)
        if (self._bound is not None and not passed and missed) or (self._all and not front):
            detail = (
                f"not every trial of depth {', '.join(map(str, missed))} succeeded, and the others don't decide: see "
                "the jobs' errors, then resume the study"
            )
            return StudyError(type=StudyErrorType.NO_RESULT, detail=detail)
        values: dict[str, Any] = {}
        if self._bound is not None:
            values["depth"] = passed[0] if passed else None
        if self._all:
            values["front"] = front
        best = passed[:1] if self._bound is not None else front[-1:]
        return Choice(values=values, job_id=self._configuration(best[0], trials).best_job if best else None)

    def _spared(self, depth: int, trials: Trials[DepthKey]) -> bool:
        """Whether the study itself stopped trials of this depth because it did not need them."""
        made = self._configuration(depth, trials).made
        return any(trial.stopped is TrialStopReason.UNNEEDED for trial in made)

    def _front(self, trials: Trials[DepthKey]) -> list[int]:
        """Depths that no other one beats in latency and accuracy, the most accurate last."""
        configurations = {depth: self._configuration(depth, trials) for depth in self._depths}
        measured = {
            depth: (speedup, found.validation)
            for depth, found in configurations.items()
            if found.complete and (speedup := _speedup(found)) is not None
        }
        return sorted(unbeaten(measured), key=lambda depth: measured[depth][1])

    def table(self, trials: Trials[DepthKey]) -> list[DepthRow]:
        verdicts = {depth: self._verdict(self._configuration(depth, trials)) for depth in self._depths}
        front = self._front(trials)
        within = {_Verdict.PASSED: True, _Verdict.FAILED: False} if self._bound is not None else {}
        chosen = self._chosen(verdicts)
        rows = []
        for depth in self._depths:
            found = self._configuration(depth, trials)
            rows.append(
                DepthRow(
                    depth=depth,
                    **found.summary(),
                    validation_drop=_drop(found),
                    within=within.get(verdicts[depth]),
                    latency_ms=_mean(numbers(found.results, lambda result: result.latency_ms)),
                    speedup=_speedup(found),
                    front=depth in front if self._all and found.finished else None,
                    chosen=depth == chosen,
                )
            )
        return rows

    def _chosen(self, verdicts: Mapping[int, _Verdict]) -> int | None:
        if self._bound is None:
            return None
        return next((depth for depth, verdict in verdicts.items() if verdict is _Verdict.PASSED), None)

    def _configuration(self, depth: int, trials: Trials[DepthKey]) -> Configuration:
        return Configuration.of(trials, (DepthKey(depth=depth, seed=seed) for seed in self._seeds))


def _open_between(verdicts: Mapping[int, _Verdict]) -> list[int]:
    """The undecided depths, below the shallowest that passed and above the deepest that failed."""
    candidates = [(depth, verdict) for depth, verdict in verdicts.items() if verdict is not _Verdict.VOID]
    passed = next((n for n, (_, verdict) in enumerate(candidates) if verdict is _Verdict.PASSED), len(candidates))
    failed = max((n for n, (_, verdict) in enumerate(candidates[:passed]) if verdict is _Verdict.FAILED), default=-1)
    return [depth for depth, _ in candidates[failed + 1 : passed]]


def _reference(result: TrialResult | None) -> float | None:
    """The value of a student that loses nothing: the teacher's accuracy, or full agreement with it."""
    if result is None:
        return None
    return 100.0 if result.validation_metric == "agreement" else result.teacher_validation


def _drop(found: Configuration) -> float | None:
    """Percentage points lost against the teacher on the validation split, a mean over the seeds."""
    drops = [reference - result.validation for result in found.results if (reference := _reference(result)) is not None]
    return round(fmean(drops), DECIMALS) if drops else None


def _speedup(found: Configuration) -> float | None:
    """Each pair of latencies was measured in one process, so their ratio does not depend on the machine's load."""
    ratios = [
        result.teacher_latency_ms / result.latency_ms
        for result in found.results
        if result.teacher_latency_ms is not None and result.latency_ms
    ]
    return _mean(ratios)


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), DECIMALS) if values else None
